"""The one contract between what runs models and what uses them.

An engine answers requests with streams of chunks. Server, applications and the command line see only this.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from miaobi.core.artifacts import Artifact, FinishReason, TokenLogprob
from miaobi.core.errors import Unsupported
from miaobi.core.language import say
from miaobi.core.requests import Request


@dataclass(frozen=True)
class Chunk:
    """A piece of answer number `index` (0 to n-1).

    The texts of one index, joined in order, are the whole answer. A text never ends inside a character. The last
    chunk of an index, and only that one, carries `finish`.
    """

    index: int = 0
    text: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    tokens: int = 0
    """Tokens generated since the last chunk of this index."""
    finish: FinishReason | None = None
    artifact: Artifact | None = None
    """A whole picture, sound or video, for engines that make those."""


@dataclass(frozen=True)
class Weights:
    """Where a model's weights lie and what they are; what an engine is opened with."""

    format: str
    """"bundle" (a folder written here), "transformers" (folder), "gguf" (file), "openvino" (folder), "url"."""
    location: str
    """A path, or the base URL of an OpenAI-compatible server."""
    name: str
    """What people call the model."""
    version: str = ""
    family: str = ""
    """For bundles: the family that wrote it."""

    @property
    def path(self) -> Path:
        return Path(self.location)


@dataclass(frozen=True)
class Abilities:
    """What an engine can do beyond plain generation, by the names of the request's fields."""

    controls: frozenset[str]
    """Names of request fields that it honours; any other field set away from its default is refused."""
    score: bool = False
    """Offers `score(text)`."""


@runtime_checkable
class Engine(Protocol):
    """One opened model. Safe for concurrent `generate` calls from one event loop.

    Leaving the iterator early (`aclose`, cancellation) stops the work and frees its place at once.
    A module registered as an engine offers `open_engine(weights, **options) -> Engine`, `FORMATS` (the formats it reads),
    `ABILITIES`, and `installed() -> str | None` (None, or the command that installs what is missing).
    """

    abilities: Abilities
    context_length: int

    def generate(self, request: Request) -> AsyncIterator[Chunk]: ...

    def close(self) -> None: ...


class Scorer(Protocol):
    """An engine that also tells how likely a given text is (abilities.score)."""

    def score(self, text: str) -> list[TokenLogprob]:
        """Log-probability of every token after the first, given those before it."""
        ...


def check_supported(request: Request, abilities: Abilities, engine: str) -> None:
    """Refuse a request that sets what `engine` cannot honour. Settings are never ignored."""
    from dataclasses import MISSING, fields
    for item in fields(request):
        default = item.default if item.default is not MISSING else (
            item.default_factory() if item.default_factory is not MISSING else MISSING)
        if item.name not in abilities.controls and getattr(request, item.name) != default:
            raise Unsupported(
                say(f"The {engine} engine does not offer {item.name} (asked for {getattr(request, item.name)!r}).",
                    f"{engine} 引擎不支持 {item.name}（收到 {getattr(request, item.name)!r}）。"),
                say("Leave it out, or choose another engine with --engine.", "请去掉它，或用 --engine 换一个引擎。"))
