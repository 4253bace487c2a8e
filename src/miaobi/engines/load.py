"""`miaobi.load`: a name, path, URL or hub id becomes a model that can be asked.

model = miaobi.load("smollm2")
model.generate("Write a haiku about rain.", n=2, max_new_tokens=48, seed=1)   # -> list of Text
miaobi.load("./stable-diffusion").generate("a fox", num_inference_steps=20)   # -> list of Image
miaobi.load("smollm2", adapters=["helpdesk", "poet"]).generate("Hello!", adapter="poet")
"""

from __future__ import annotations

import asyncio
import os
import queue
import secrets
import threading
import uuid
from collections.abc import Collection, Coroutine, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from functools import cache
from types import TracebackType
from typing import Any, TypeVar, cast

from miaobi.core.artifacts import (
    Artifact,
    Facts,
    FinishReason,
    Image,
    Text,
    TokenLogprob,
)
from miaobi.core.engine import Chunk, Engine, Scorer, TextEngine, Weights
from miaobi.core.errors import BadInput, MissingPart, Unsupported, nearest
from miaobi.core.language import say
from miaobi.core.requests import (
    EmbeddingRequest,
    ImageRequest,
    Request,
    TextRequest,
    recorded,
)
from miaobi.engines import auto, engines
from miaobi.models.tuned import FAMILY, open_tuned
from miaobi.models.weights import bos_token_of, find

Result = TypeVar("Result")
Ask = str | Sequence[Mapping[str, Any]] | Sequence[str] | Request | None
KINDS: dict[str, type[Request]] = {
    "text": TextRequest,
    "image": ImageRequest,
    "embedding": EmbeddingRequest,
}
"""Which request a modality takes."""


def load(
    name: str | os.PathLike[str],
    engine: str = "auto",
    streams: int = 1,
    needs: Collection[str] = (),
    **options: Any,
) -> Model:
    """Open a model.

    Args:
        name: A name in the store ("poet", "poet@2", "poet@production"), a starter pack,
            the path of a GGUF file or a
            model folder, the URL of an OpenAI-compatible server, or a hub id ("org/name").
        engine: native, openvino, llamacpp, remote, pictures, diffusers, tuned, or auto
            for what reads these weights and was
            measured to be quickest.
        streams: How many answers will be made at the same time.
        needs: Names of the controls that will be set; `auto` then passes over engines
            that lack one of them.
        options: The engine's own settings, such as context_length, device or adapters.

    Raises NotFound with the nearest names, Unsupported, MissingPart, or Damaged for
    files that are not whole.
    """
    weights = find(os.fspath(name))
    chosen = (
        auto.choose(weights, streams, needs, options) if engine == "auto" else engine
    )
    return Model(weights, chosen, open_engine(weights, chosen, streams, options))


def open_engine(
    weights: Weights, name: str, streams: int, options: Mapping[str, Any]
) -> Engine:
    """Open `weights` with the engine of that name. Refuses formats it does not read and
    options it does not have.
    """
    module: Any = engines.get(name)
    if weights.format not in module.FORMATS:
        raise Unsupported(
            say(
                f"The {name} engine does not read {weights.name} (format: {weights.format}).",
                f"{name} 引擎无法读取 {weights.name}（格式：{weights.format}）。",
            ),
            say(
                f"It reads: {', '.join(module.FORMATS)}. Leave --engine out to have one chosen.",
                f"它支持：{'、'.join(module.FORMATS)}。去掉 --engine 可自动选择。",
            ),
        )
    need = module.installed()
    if need:
        raise MissingPart(
            say(f"The {name} engine is not installed.", f"未安装 {name} 引擎。"), need
        )
    if weights.family == FAMILY and not module.reads(weights):
        tuned = open_tuned(weights)
        kind = ", ".join(
            filter(
                None, (tuned.manifest.recipe["task"], tuned.adapter.get("peft_type"))
            )
        )
        raise Unsupported(
            say(
                f"The {name} engine does not run {weights.label} ({kind}).",
                f"{name} 引擎不能运行 {weights.label}（{kind}）。",
            ),
            say("Leave --engine out to have one chosen.", "去掉 --engine 可自动选择。"),
        )
    known = auto.options_of(module)
    for option in options:
        if option not in known:
            raise BadInput(
                say(
                    f"The {name} engine has no option {option!r}.",
                    f"{name} 引擎没有选项 {option!r}。",
                ),
                nearest(option, known),
            )
    opened: Engine = module.open_engine(weights, streams=streams, **options)
    return opened


class Model:
    """An opened model for plain, synchronous code. Threads may share it. `engine` is
    its asynchronous core.
    """

    def __init__(self, weights: Weights, engine_name: str, engine: Engine) -> None:
        self.weights, self.engine_name, self.engine = weights, engine_name, engine
        self.bos_token = bos_token_of(weights)

    @property
    def name(self) -> str:
        return self.weights.name

    @property
    def chats(self) -> bool:
        """Answers messages, and not only continues texts."""
        return self.engine.modality == "text" and self._writer.chats

    @property
    def context_length(self) -> int:
        """Tokens that prompt and answer may have together. Raises Unsupported for
        models that do not write.
        """
        return self._writer.context_length

    @property
    def _writer(self) -> TextEngine:
        if self.engine.modality != "text":
            raise Unsupported(
                say(
                    f"{self.name} does not write text (it makes: {self.engine.modality}).",
                    f"{self.name} 不能生成文本（它生成：{self.engine.modality}）。",
                ),
                f"miaobi generate {self.engine.modality} --model {self.name}",
            )
        return cast(TextEngine, self.engine)

    def request(self, ask: Ask = None, *, raw: bool = False, **controls: Any) -> Any:
        """The request for a prompt, a conversation, or a request as it stands; a seed
        is drawn when none is given.

        Models that write: a plain prompt is asked as a user's message where the model
            chats, and is the beginning of a document for a model that was trained here;
            with `raw` it is continued as it stands. Models that paint: the ask is the
            prompt, and may be left out. Controls are the fields of TextRequest or
            ImageRequest; an unknown one raises BadInput with the nearest right name.
        """
        kind = KINDS[self.engine.modality]
        known = {item.name for item in fields(kind)}
        for name in controls:
            if name not in known:
                raise BadInput(
                    say(
                        f"There is no control named {name!r}.",
                        f"没有名为 {name!r} 的参数。",
                    ),
                    nearest(name, known),
                )
        if isinstance(ask, kind):
            request = replace(ask, **controls)
        elif kind is TextRequest:
            request = self._text_request(ask, raw, controls)
        elif kind is EmbeddingRequest:
            request = self._embedding_request(ask, raw, controls)
        else:
            request = self._image_request(ask, raw, controls)
        return (
            request
            if request.seed is not None
            else replace(request, seed=secrets.randbelow(2**31))
        )

    def _text_request(
        self, ask: Ask, raw: bool, controls: dict[str, Any]
    ) -> TextRequest:
        if isinstance(ask, Request):
            raise self._other_kind(ask)
        if "stop" in controls:
            controls["stop"] = (
                (controls["stop"],)
                if isinstance(controls["stop"], str)
                else tuple(controls["stop"])
            )
        if ask is None:
            return TextRequest(**controls)
        if isinstance(ask, str) and (raw or not self.chats):
            start = "" if raw or ask.startswith(self.bos_token) else self.bos_token
            return TextRequest(prompt=start + ask, **controls)
        return TextRequest(
            messages=({"role": "user", "content": ask},)
            if isinstance(ask, str)
            else cast(Any, tuple(ask)),
            **controls,
        )

    def _image_request(
        self, ask: Ask, raw: bool, controls: dict[str, Any]
    ) -> ImageRequest:
        if raw or not isinstance(ask, str | None):
            raise self._other_kind(ask)
        return ImageRequest(**({"prompt": ask} if ask else {}) | controls)

    def _embedding_request(
        self, ask: Ask, raw: bool, controls: dict[str, Any]
    ) -> EmbeddingRequest:
        if raw or ask is None or isinstance(ask, Request):
            raise self._other_kind(ask)
        return EmbeddingRequest(
            texts=(ask,) if isinstance(ask, str) else tuple(str(text) for text in ask),
            **controls,
        )

    def _other_kind(self, ask: Ask) -> Unsupported:
        return Unsupported(
            say(
                f"{self.name} makes {self.engine.modality}; it cannot be asked with {type(ask).__name__} or raw.",
                f"{self.name} 生成 {self.engine.modality}，不能用 {type(ask).__name__} 或 raw 提问。",
            ),
            say(
                f"Ask with a prompt or a {KINDS[self.engine.modality].__name__}.",
                f"请用提示或 {KINDS[self.engine.modality].__name__} 提问。",
            ),
        )

    def generate(
        self, ask: Ask = None, *, raw: bool = False, **controls: Any
    ) -> list[Any]:
        """n answers (`n=`, default 1), each with its facts: a list of Text, or of Image
        for a model that paints.
        """
        return _wait(self.agenerate(ask, raw=raw, **controls))

    async def agenerate(
        self, ask: Ask = None, *, raw: bool = False, **controls: Any
    ) -> list[Any]:
        """As `generate`, for asynchronous code."""
        request = self.request(ask, raw=raw, **controls)
        collected = Collected(request)
        async for chunk in self.engine.generate(request):
            collected.add(chunk)
        return collected.artifacts(self)

    def stream(
        self, ask: Ask = None, *, raw: bool = False, **controls: Any
    ) -> Iterator[Chunk]:
        """Pieces as they come. Leaving the loop early stops the work."""
        request = self.request(ask, raw=raw, **controls)
        pieces: queue.SimpleQueue[Chunk | BaseException | None] = queue.SimpleQueue()

        async def pump() -> None:
            answers = cast(Any, self.engine.generate(request))
            try:
                async for chunk in answers:
                    pieces.put(chunk)
                pieces.put(None)
            except BaseException as error:
                pieces.put(error)
                raise
            finally:
                await answers.aclose()

        running = asyncio.run_coroutine_threadsafe(pump(), _loop())
        try:
            while (piece := pieces.get()) is not None:
                if isinstance(piece, BaseException):
                    raise piece
                yield piece
        finally:
            running.cancel()

    def facts(self, request: Request) -> Facts:
        """How an answer to this request came to be. Of pictures that were given, only
        their SHA-256.
        """
        asked = (
            {"prompt": request.prompt}
            if isinstance(request, ImageRequest) and request.prompt
            else {}
        )
        parameters = asked | {
            name: recorded(value) for name, value in changed(request).items()
        }
        return Facts(
            model=self.name,
            version=self.weights.version,
            engine=self.engine_name,
            request_id=uuid.uuid4().hex,
            seed=request.seed,
            parameters=parameters,
        )

    def score(self, text: str) -> list[TokenLogprob]:
        """Natural-log probability of every token after the first. Raises Unsupported
        where the engine cannot tell.
        """
        if not self.engine.abilities.score:
            raise Unsupported(
                say(
                    f"The {self.engine_name} engine cannot score texts.",
                    f"{self.engine_name} 引擎无法给文本打分。",
                ),
                say(
                    'Open the model with engine="native".',
                    '请用 engine="native" 打开模型。',
                ),
            )
        return cast(Scorer, self.engine).score(text)

    def close(self) -> None:
        self.engine.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Collected:
    """Gathers the chunks of a request into its answers."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self._texts: list[list[str]] = [[] for _ in range(request.n)]
        self._logprobs: list[list[TokenLogprob]] = [[] for _ in range(request.n)]
        self._finish: list[FinishReason] = ["cancelled"] * request.n
        self._whole: dict[int, Artifact] = {}

    def add(self, chunk: Chunk) -> None:
        self._texts[chunk.index].append(chunk.text)
        self._logprobs[chunk.index].extend(chunk.logprobs)
        self._finish[chunk.index] = chunk.finish or self._finish[chunk.index]
        if chunk.artifact is not None:
            self._whole[chunk.index] = chunk.artifact

    def artifacts(self, model: Model) -> list[Any]:
        """The answers so far, of the kind that was asked for."""
        if isinstance(self.request, EmbeddingRequest):
            return list(self._whole.values())
        return (
            self.texts(model)
            if isinstance(self.request, TextRequest)
            else self.pictures(model)
        )

    def texts(self, model: Model) -> list[Text]:
        """The answers so far; one that had not ended is marked "cancelled"."""
        facts = model.facts(self.request)
        return [
            Text("".join(pieces), facts, finish, tuple(logprobs))
            for pieces, finish, logprobs in zip(
                self._texts, self._finish, self._logprobs, strict=True
            )
        ]

    def pictures(self, model: Model) -> list[Image]:
        """The pictures that are done. The facts of each hold its own seed, with which
        n=1 paints it again.
        """
        facts, first = model.facts(self.request), self.request.seed or 0
        return [
            replace(
                image,
                finish=self._finish[index],
                facts=replace(
                    facts,
                    seed=first + index,
                    parameters={**facts.parameters, **image.facts.parameters},
                ),
            )
            for index, image in sorted(self._whole.items())
            if isinstance(image, Image)
        ]


def changed(request: Request) -> dict[str, Any]:
    """The controls that differ from their defaults, apart from what was asked and the seed."""
    return {
        name: value
        for name, value in request.changed().items()
        if name not in ("prompt", "messages", "seed")
    }


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """The one background event loop of this process, for synchronous callers."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="miaobi-loop", daemon=True).start()
    return loop


def _wait(work: Coroutine[Any, Any, Result]) -> Result:
    running = asyncio.run_coroutine_threadsafe(work, _loop())
    try:
        return running.result()
    except BaseException:
        running.cancel()
        raise
