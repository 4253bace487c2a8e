"""An open model for plain, synchronous code: requests are built and checked here, and
the engine's chunks become artifacts.
"""

from __future__ import annotations

import asyncio
import queue
import secrets
import threading
import uuid
from collections.abc import (
    AsyncGenerator,
    Callable,
    Coroutine,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import fields, replace
from functools import cache
from types import TracebackType
from typing import Any, TypeVar, cast

from miaobi.core.artifacts import Facts, TokenLogprob
from miaobi.core.engine import Chunk, Engine, HasContext, Scorer, Tokenizes, Weights
from miaobi.core.errors import BadInput, Unsupported, nearest
from miaobi.core.language import say
from miaobi.core.requests import Request, command_for
from miaobi.engines.collected import Collected
from miaobi.models.weights import bos_token_of

Result = TypeVar("Result")

Ask = str | Sequence[Mapping[str, Any]] | Sequence[str] | Request | None
"""What a model is asked with: a prompt, a conversation, texts, or a whole request."""


class Model:
    """Weights, opened by an engine. Threads may share it.

    Attributes:
        weights: What was opened.
        engine_name: By which engine.
        engine: The asynchronous core.
        bos_token: The token, as text, that begins a document for models that were
            trained here; "" for others.
    """

    def __init__(
        self,
        weights: Weights,
        engine_name: str,
        engine: Engine,
        open_scorer: Callable[[], Engine] | None = None,
    ) -> None:
        """An open model.

        Args:
            weights: What was opened.
            engine_name: By which engine.
            engine: The asynchronous core.
            open_scorer: Opens the engine that scores texts where `engine` cannot; called
                once, when a text is first scored.
        """
        self.weights = weights
        self.engine_name = engine_name
        self.engine = engine
        self.bos_token = bos_token_of(weights)
        self._open_scorer = open_scorer
        self._scorer: Engine | None = None
        self._opening_scorer = threading.Lock()

    @property
    def name(self) -> str:
        return self.weights.name

    @property
    def chats(self) -> bool:
        """Whether it answers messages, and does not only continue texts."""
        return isinstance(self.engine, HasContext) and self.engine.chats

    @property
    def context_length(self) -> int:
        """Tokens that prompt and answer may have together.

        Raises Unsupported for models without a context.
        """
        if not isinstance(self.engine, HasContext):
            makes = self.engine.takes.makes
            raise Unsupported(
                say(
                    f"{self.name} does not write text (it makes: {makes}).",
                    f"{self.name} 不能生成文本（它生成：{makes}）。",
                ),
                command_for(makes, self.name),
            )
        return self.engine.context_length

    def request(self, ask: Ask = None, *, raw: bool = False, **controls: Any) -> Any:
        """Return the request for a prompt, a conversation, or a request as it stands.

        What becomes of an ask is for the kind of request to say (`Request.of`).

        Args:
            ask: What to answer.
            raw: Leave the prompt as it is.
            controls: Fields of the request; a seed is drawn when none is given.

        Raises BadInput for an unknown control, with the nearest right name.
        """
        kind = self.engine.takes
        _check_controls(kind, controls)
        request = (
            replace(ask, **controls)
            if isinstance(ask, kind)
            else kind.of(ask, self, raw=raw, **controls)
        )
        if request.seed is None:
            request = replace(request, seed=secrets.randbelow(2**31))
        return request

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
        return Facts(
            model=self.name,
            version=self.weights.version,
            engine=self.engine_name,
            request_id=uuid.uuid4().hex,
            seed=request.seed,
            parameters=request.parameters(),
        )

    def score(self, text: str) -> list[TokenLogprob]:
        """Return the natural-log probability of every token after the first.

        Raises Unsupported where the engine cannot score.
        """
        return self.scorer().score(text)[1:]

    @property
    def tokenizer(self) -> Tokenizes:
        """What shows the model's tokens. Raises Unsupported where nothing does."""
        if not self.engine.abilities.tokenize:
            raise Unsupported(
                say(
                    f"{self.name} shows no tokens: the {self.engine_name} engine has no tokenizer.",
                    f"无法查看 {self.name} 的词元：{self.engine_name} 引擎没有分词器。",
                ),
                say(
                    "Choose a model that writes, on this machine.",
                    "请选用本机上的文本生成模型。",
                ),
            )
        return cast(Tokenizes, self.engine)

    def scorer(self) -> Scorer:
        """Return what scores texts, opened where it is not open yet.

        Raises Unsupported where no engine can score.
        """
        if self.engine.abilities.score:
            return cast(Scorer, self.engine)
        with self._opening_scorer:
            if self._scorer is None and self._open_scorer is not None:
                self._scorer = self._open_scorer()
        if self._scorer is None:
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
        return cast(Scorer, self._scorer)

    def close(self) -> None:
        if self._scorer is not None:
            self._scorer.close()
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
                field=name,
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
