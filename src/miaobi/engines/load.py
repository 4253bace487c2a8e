"""`miaobi.load`: a name, path, URL or hub id becomes a model that can be asked.

    model = miaobi.load("smollm2")
    model.generate("Write a haiku about rain.", n=2, max_new_tokens=48, seed=1)   # -> list of Text
"""

from __future__ import annotations

import asyncio
import os
import queue
import secrets
import threading
import uuid
from collections.abc import Collection, Coroutine, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from functools import cache
from types import TracebackType
from typing import Any, TypeVar, cast

from miaobi.core.artifacts import Facts, FinishReason, Text, TokenLogprob
from miaobi.core.engine import Chunk, Engine, Scorer, Weights
from miaobi.core.errors import BadInput, MissingPart, Unsupported, nearest
from miaobi.core.language import say
from miaobi.core.registry import engines
from miaobi.core.requests import TextRequest
from miaobi.engines import auto
from miaobi.engines.weights import find, start_of

Result = TypeVar("Result")
Ask = str | Sequence[Mapping[str, Any]] | TextRequest


def load(name: str | os.PathLike[str], engine: str = "auto", streams: int = 1, needs: Collection[str] = (),
         **options: Any) -> Model:
    """Open a model.

    Args:
        name: A name in the store ("poet", "poet@2", "poet@production"), a starter pack, the path of a GGUF file or a
            model folder, the URL of an OpenAI-compatible server, or a hub id ("org/name").
        engine: native, openvino, llamacpp, remote, or auto for what was measured to be quickest.
        streams: How many answers will be made at the same time.
        needs: Names of the controls that will be set; `auto` then passes over engines that lack one of them.
        options: The engine's own settings, such as context_length or device.

    Raises NotFound with the nearest names, Unsupported, MissingPart, or Damaged for files that are not whole.
    """
    weights = find(os.fspath(name))
    chosen = auto.choose(weights, streams, needs) if engine == "auto" else engine
    return Model(weights, chosen, open_engine(weights, chosen, streams, options))


def open_engine(weights: Weights, name: str, streams: int, options: Mapping[str, Any]) -> Engine:
    """Open `weights` with the engine of that name. Refuses formats it does not read and options it does not have."""
    module: Any = engines.get(name)
    if weights.format not in module.FORMATS:
        raise Unsupported(
            say(f"The {name} engine does not read {weights.name} (format: {weights.format}).",
                f"{name} 引擎无法读取 {weights.name}（格式：{weights.format}）。"),
            say(f"It reads: {', '.join(module.FORMATS)}. Leave --engine out to have one chosen.",
                f"它支持：{'、'.join(module.FORMATS)}。去掉 --engine 可自动选择。"))
    need = module.installed()
    if need:
        raise MissingPart(say(f"The {name} engine is not installed.", f"未安装 {name} 引擎。"), need)
    import inspect
    known = set(inspect.signature(module.open_engine).parameters) - {"weights", "streams"}
    for option in options:
        if option not in known:
            raise BadInput(say(f"The {name} engine has no option {option!r}.", f"{name} 引擎没有选项 {option!r}。"),
                           nearest(option, known))
    opened: Engine = module.open_engine(weights, streams=streams, **options)
    return opened


class Model:
    """An opened model for plain, synchronous code. Threads may share it. `engine` is its asynchronous core."""

    def __init__(self, weights: Weights, engine_name: str, engine: Engine) -> None:
        self.weights, self.engine_name, self.engine = weights, engine_name, engine
        self.start = start_of(weights)

    @property
    def name(self) -> str:
        return self.weights.name

    @property
    def context_length(self) -> int:
        """Tokens that prompt and answer may have together."""
        return self.engine.context_length

    def request(self, ask: Ask, *, raw: bool = False, **controls: Any) -> TextRequest:
        """The request for a prompt, a conversation, or a request as it stands; a seed is drawn when none is given.

        A plain prompt is asked as a user's message where the model chats, and is the beginning of a document for a model
        that was trained here; with `raw` it is continued as it stands. Controls are the fields of
        TextRequest; an unknown one raises BadInput with the nearest right name.
        """
        from dataclasses import replace
        known = {item.name for item in fields(TextRequest)}
        for name in controls:
            if name not in known:
                raise BadInput(say(f"There is no control named {name!r}.", f"没有名为 {name!r} 的参数。"), nearest(name, known))
        controls = {name: tuple(value) if name == "stop" and not isinstance(value, str) else
                    (value,) if name == "stop" else value for name, value in controls.items()}
        if isinstance(ask, TextRequest):
            request = replace(ask, **controls)
        elif isinstance(ask, str) and (raw or not self.engine.chats):
            start = "" if raw or ask.startswith(self.start) else self.start
            request = TextRequest(prompt=start + ask, **controls)
        else:
            messages = ({"role": "user", "content": ask},) if isinstance(ask, str) else tuple(ask)
            request = TextRequest(messages=messages, **controls)
        return request if request.seed is not None else replace(request, seed=secrets.randbelow(2**31))

    def generate(self, ask: Ask, *, raw: bool = False, **controls: Any) -> list[Text]:
        """n answers (`n=`, default 1) as Text, each with its facts."""
        return _wait(self.agenerate(ask, raw=raw, **controls))

    async def agenerate(self, ask: Ask, *, raw: bool = False, **controls: Any) -> list[Text]:
        """As `generate`, for asynchronous code."""
        request = self.request(ask, raw=raw, **controls)
        collected = Collected(request)
        async for chunk in self.engine.generate(request):
            collected.add(chunk)
        return collected.texts(self)

    def stream(self, ask: Ask, *, raw: bool = False, **controls: Any) -> Iterator[Chunk]:
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

    def facts(self, request: TextRequest) -> Facts:
        """How an answer to this request came to be."""
        return Facts(model=self.name, version=self.weights.version, engine=self.engine_name,
                     request_id=uuid.uuid4().hex, seed=request.seed, parameters=changed(request))

    def score(self, text: str) -> list[TokenLogprob]:
        """Natural-log probability of every token after the first. Raises Unsupported where the engine cannot tell."""
        if not self.engine.abilities.score:
            raise Unsupported(say(f"The {self.engine_name} engine cannot score texts.", f"{self.engine_name} 引擎无法给文本打分。"),
                              say('Open the model with engine="native".', '请用 engine="native" 打开模型。'))
        return cast(Scorer, self.engine).score(text)

    def close(self) -> None:
        self.engine.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Collected:
    """Gathers the chunks of a request into its answers."""

    def __init__(self, request: TextRequest) -> None:
        self.request = request
        self._texts: list[list[str]] = [[] for _ in range(request.n)]
        self._logprobs: list[list[TokenLogprob]] = [[] for _ in range(request.n)]
        self._finish: list[FinishReason] = ["cancelled"] * request.n

    def add(self, chunk: Chunk) -> None:
        self._texts[chunk.index].append(chunk.text)
        self._logprobs[chunk.index].extend(chunk.logprobs)
        self._finish[chunk.index] = chunk.finish or self._finish[chunk.index]

    def texts(self, model: Model) -> list[Text]:
        """The answers so far; one that had not ended is marked "cancelled"."""
        facts = model.facts(self.request)
        return [Text("".join(pieces), facts, finish, tuple(logprobs)) for pieces, finish, logprobs in
                zip(self._texts, self._finish, self._logprobs, strict=True)]


def changed(request: TextRequest) -> dict[str, Any]:
    """The controls that differ from their defaults, apart from what was asked and the seed."""
    return {item.name: getattr(request, item.name) for item in fields(request)
            if item.name not in ("prompt", "messages", "seed") and getattr(request, item.name) != (
                item.default if item.default is not MISSING else cast(Any, item.default_factory)())}


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

