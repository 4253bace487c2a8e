"""An open model for plain, synchronous code: requests are built and checked here, and
the engine's chunks become artifacts.
"""

from __future__ import annotations

import asyncio
import queue
import secrets
import threading
import uuid
from collections.abc import AsyncGenerator, Coroutine, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from functools import cache
from types import TracebackType
from typing import Any, TypeVar, cast

from miaobi.core.artifacts import Facts, TokenLogprob
from miaobi.core.engine import Chunk, Engine, Scorer, TextEngine, Weights
from miaobi.core.errors import BadInput, Unsupported, nearest
from miaobi.core.language import say
from miaobi.core.requests import (
    EmbeddingRequest,
    ImageRequest,
    Request,
    TextRequest,
    recorded,
)
from miaobi.engines.collected import Collected
from miaobi.models.weights import bos_token_of

Result = TypeVar("Result")

Ask = str | Sequence[Mapping[str, Any]] | Sequence[str] | Request | None
"""What a model is asked with: a prompt, a conversation, texts, or a whole request."""

KINDS: dict[str, type[Request]] = {
    "text": TextRequest,
    "image": ImageRequest,
    "embedding": EmbeddingRequest,
}
"""Which request an engine of a modality takes."""


class Model:
    """Weights, opened by an engine. Threads may share it.

    Attributes:
        weights: What was opened.
        engine_name: By which engine.
        engine: The asynchronous core.
        bos_token: The token, as text, that begins a document for models that were
            trained here; "" for others.
    """

    def __init__(self, weights: Weights, engine_name: str, engine: Engine) -> None:
        self.weights = weights
        self.engine_name = engine_name
        self.engine = engine
        self.bos_token = bos_token_of(weights)

    @property
    def name(self) -> str:
        return self.weights.name

    @property
    def chats(self) -> bool:
        """Whether it answers messages, and does not only continue texts."""
        return self.engine.modality == "text" and self._text_engine.chats

    @property
    def context_length(self) -> int:
        """Tokens that prompt and answer may have together.

        Raises Unsupported for models that do not write.
        """
        return self._text_engine.context_length

    @property
    def _text_engine(self) -> TextEngine:
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
        """Return the request for a prompt, a conversation, or a request as it stands.

        A model that writes gets a plain prompt as a user's message where it chats, and
        as the beginning of a document where it was trained here; with `raw` it
        continues the prompt as it stands. For an image model the ask is the prompt, and
        may be left out.

        Args:
            ask: What to answer.
            raw: Leave the prompt as it is.
            controls: Fields of the request; a seed is drawn when none is given.

        Raises BadInput for an unknown control, with the nearest right name.
        """
        kind = KINDS[self.engine.modality]
        _check_controls(kind, controls)
        if isinstance(ask, kind):
            request = replace(ask, **controls)
        elif kind is TextRequest:
            request = self._text_request(ask, raw, controls)
        elif kind is EmbeddingRequest:
            request = self._embedding_request(ask, raw, controls)
        else:
            request = self._image_request(ask, raw, controls)
        if request.seed is None:
            request = replace(request, seed=secrets.randbelow(2**31))
        return request

    def _text_request(
        self, ask: Ask, raw: bool, controls: dict[str, Any]
    ) -> TextRequest:
        if isinstance(ask, Request):
            raise self._wrong_ask(ask)
        if "stop" in controls:
            stop = controls["stop"]
            controls["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)
        if ask is None:
            return TextRequest(**controls)
        if not isinstance(ask, str):
            return TextRequest(messages=cast(Any, tuple(ask)), **controls)
        if raw:
            return TextRequest(prompt=ask, **controls)
        if self.chats:
            message = {"role": "user", "content": ask}
            return TextRequest(messages=(message,), **controls)
        begins_document = ask.startswith(self.bos_token)
        prompt = ask if begins_document else self.bos_token + ask
        return TextRequest(prompt=prompt, **controls)

    def _image_request(
        self, ask: Ask, raw: bool, controls: dict[str, Any]
    ) -> ImageRequest:
        if raw or not isinstance(ask, str | None):
            raise self._wrong_ask(ask)
        if ask:
            controls = {"prompt": ask} | controls
        return ImageRequest(**controls)

    def _embedding_request(
        self, ask: Ask, raw: bool, controls: dict[str, Any]
    ) -> EmbeddingRequest:
        if raw or ask is None or isinstance(ask, Request):
            raise self._wrong_ask(ask)
        texts = (ask,) if isinstance(ask, str) else tuple(str(text) for text in ask)
        return EmbeddingRequest(texts=texts, **controls)

    def _wrong_ask(self, ask: Ask) -> Unsupported:
        modality = self.engine.modality
        kind = type(ask).__name__
        request = KINDS[modality].__name__
        return Unsupported(
            say(
                f"{self.name} makes {modality}; it cannot be asked with {kind} or raw.",
                f"{self.name} 生成 {modality}，不能用 {kind} 或 raw 提问。",
            ),
            say(
                f"Ask with a prompt or a {request}.",
                f"请用提示或 {request} 提问。",
            ),
        )

    def generate(
        self, ask: Ask = None, *, raw: bool = False, **controls: Any
    ) -> list[Any]:
        """Return n answers (`n=`, default 1), each with its facts.

        A list of Text, or of Image or Embedding for a model that makes those. Arguments
        as those of `request`.
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
        return list(collected.artifacts(self.facts(request)))

    def stream(
        self, ask: Ask = None, *, raw: bool = False, **controls: Any
    ) -> Iterator[Chunk]:
        """Yield chunks as they come. Leaving the loop early stops the work.

        Arguments as those of `request`.
        """
        request = self.request(ask, raw=raw, **controls)
        inbox: queue.SimpleQueue[Chunk | BaseException | None] = queue.SimpleQueue()

        async def pump() -> None:
            chunks = cast(AsyncGenerator[Chunk, None], self.engine.generate(request))
            try:
                async for chunk in chunks:
                    inbox.put(chunk)
                inbox.put(None)
            except BaseException as error:
                inbox.put(error)
                raise
            finally:
                await chunks.aclose()

        running = asyncio.run_coroutine_threadsafe(pump(), _loop())
        try:
            while (item := inbox.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            running.cancel()

    def facts(self, request: Request) -> Facts:
        """Return how an answer to this request came to be.

        Of the request's images, facts hold only the SHA-256.
        """
        parameters = {name: recorded(value) for name, value in changed(request).items()}
        if isinstance(request, ImageRequest) and request.prompt:
            parameters = {"prompt": request.prompt} | parameters
        return Facts(
            model=self.name,
            version=self.weights.version,
            engine=self.engine_name,
            request_id=uuid.uuid4().hex,
            seed=request.seed,
            parameters=parameters,
        )

    def score(self, text: str) -> list[TokenLogprob]:
        """Return the natural-log probability of every token after the first.

        Raises Unsupported where the engine cannot score.
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


def changed(request: Request) -> dict[str, Any]:
    """Return the controls that differ from their defaults, without prompt and seed."""
    controls = request.changed()
    for name in ("prompt", "messages", "seed"):
        controls.pop(name, None)
    return controls


def _check_controls(kind: type[Request], controls: Mapping[str, Any]) -> None:
    names = {item.name for item in fields(kind)}
    for name in controls:
        if name not in names:
            raise BadInput(
                say(
                    f"There is no control named {name!r}.",
                    f"没有名为 {name!r} 的参数。",
                ),
                nearest(name, names),
            )


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
