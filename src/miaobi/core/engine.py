"""The one contract between what runs models and what uses them.

An engine answers requests with streams of chunks. Server, applications and the command
line see only this.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from miaobi.core.artifacts import Artifact, FinishReason, TokenLogprob
from miaobi.core.bundle import Manifest
from miaobi.core.errors import BadInput, ContextExceeded, MiaobiError, Unsupported
from miaobi.core.language import say
from miaobi.core.requests import Request, recorded
from miaobi.core.storage import local

RequestKind = TypeVar("RequestKind", bound=Request)


@dataclass(frozen=True)
class Chunk:
    """A piece of answer number `index` (0 to n-1).

    The texts of one index, joined in order, are the whole answer. A text never ends
    inside a character. The last chunk of an index, and only that one, carries `finish`.
    """

    index: int = 0
    text: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    tokens: int = 0
    """Tokens generated since the last chunk of this index."""
    finish: FinishReason | None = None
    artifact: Artifact | None = None
    """A whole picture, sound or video, for engines that make those; it comes with
    `finish`. Of its facts the caller keeps the parameters (what only the engine knows,
    such as the class that was drawn) and supplies the rest.
    """
    piece: Artifact | None = None
    """The next part of an artifact that comes in pieces, such as sound; the pieces of
    one index are joined by their class.
    """
    progress: float | None = None
    """The share of this index that is done, in [0, 1), for answers of many steps."""
    prompt_tokens: int = 0
    """Tokens of the prompt: in one chunk of a request, with most engines in the first."""


@dataclass(frozen=True)
class Weights:
    """Where a model's weights lie and what they are; what an engine is opened with."""

    format: str
    """"bundle" (a folder written here), "transformers", "diffusers", "openvino"
    (folders), "gguf" (file), "url", or what the catalogue of starter packs calls a
    packaged model ("esrgan").
    """
    location: str
    """A path or URL of files, or the base URL of an OpenAI-compatible server."""
    name: str
    """The model's name for people."""
    version: str = ""
    family: str = ""
    """For bundles: the family that wrote it. For a packaged encoder: its name among the
    starter packs, whatever it is served as.
    """
    modality: str = "text"
    """What the model makes: "text", "image"."""

    manifest: Manifest | None = field(default=None, compare=False, repr=False)
    """For bundles: what miaobi.json says, read when the bundle was found."""

    @property
    def path(self) -> Path:
        """On this machine; what lies at a URL is fetched once."""
        return Path(self.location) if self.format == "url" else local(self.location)

    @property
    def label(self) -> str:
        """Name and version, as in poet@2."""
        return f"{self.name}@{self.version}" if self.version else self.name


@dataclass(frozen=True)
class Abilities:
    """What an engine can do beyond plain generation."""

    controls: frozenset[str]
    """Names of request fields that it supports; any other field that differs from its
    default is refused.
    """
    score: bool = False
    """Whether it is a Scorer."""
    tokenize: bool = False
    """Whether it is a Tokenizes."""
    by_model: frozenset[str] = frozenset()
    """Those of `controls` that a model may lack; its bundle says which it has."""
    checks: Mapping[str, Callable[[Any], None]] = field(
        default_factory=dict, compare=False
    )
    """By control: raises for a value of it that the engine cannot serve."""
    reasons: bool = False
    """Whether its model's template has a switch for reasoning."""

    def serves(self, values: Mapping[str, Any]) -> bool:
        """Return whether controls are offered, with these values."""
        try:
            for name, value in values.items():
                self.check(name, value)
        except MiaobiError:
            return False
        return set(values) <= self.controls

    def joined(self, other: Abilities) -> Abilities:
        """Return what one of two engines can do; what neither can, this one names.

        Tokens are this one's to show.
        """
        checks: dict[str, Callable[[Any], None]] = {}
        for name in set(self.checks) | set(other.checks):
            owners = [it for it in (other, self) if name in it.controls]
            if all(name in owner.checks for owner in owners):
                checks[name] = either(*(owner.checks[name] for owner in owners))
        return Abilities(
            self.controls | other.controls,
            tokenize=self.tokenize,
            checks=checks,
            reasons=self.reasons or other.reasons,
        )

    def check(self, name: str, value: Any) -> None:
        """Raise Unsupported or BadInput for a value of a control that is not served."""
        if name in self.checks:
            self.checks[name](value)

    def of(self, weights: Weights) -> frozenset[str]:
        """Return the controls with these weights, as far as they say before opening."""
        manifest = weights.manifest
        if manifest is None or manifest.controls is None:
            return self.controls
        return self.controls - (self.by_model - set(manifest.controls))


def either(*checks: Callable[[Any], None]) -> Callable[[Any], None]:
    """Return a check that passes where one of these does, and raises as the last."""

    def check(value: Any) -> None:
        for other in checks[:-1]:
            try:
                return other(value)
            except Unsupported:
                continue
        return checks[-1](value)

    return check


@runtime_checkable
class Engine(Protocol):
    """One opened model. Safe for concurrent `generate` calls from one event loop.

    Leaving the iterator early (`aclose`, cancellation) stops the work and frees its
    slot at once. An engine that computes in a process of its own has its number as
    `process_id`.
    """

    abilities: Abilities

    @property
    def takes(self) -> type[Request]:
        """The kind of request that it answers."""
        ...

    def generate(self, request: Request) -> AsyncIterator[Chunk]: ...

    def close(self) -> None: ...


class EngineModule(Protocol):
    """A module that opens engines, registered by name (`miaobi.engines.engines`)."""

    FORMATS: Collection[str]
    """The formats of weights that it reads."""
    TAKES: type[Request]
    """The kind of request that its engines answer (`Engine.takes`)."""
    ABILITIES: Abilities

    def installed(self) -> str | None:
        """Return None, or the command that installs what is missing."""
        ...

    def reads(self, weights: Weights) -> bool:
        """Return whether it can run these weights, which are of a format it reads."""
        ...

    def open_engine(
        self, weights: Weights, *, streams: int = 1, **options: Any
    ) -> Engine: ...


@runtime_checkable
class HasContext(Protocol):
    """An engine whose prompt and answer share a context of tokens."""

    context_length: int
    """Tokens of prompt and answer together."""
    chats: bool
    """Whether it takes `messages`. Such a model gets a plain prompt as a user's message,
    unless the caller wants it raw.
    """


class TextEngine(Engine, HasContext, Protocol):
    """An engine that takes a TextRequest."""


class Template(Protocol):
    """A chat template: what it has a place for."""

    @property
    def supports_tools(self) -> bool: ...

    @property
    def reasons(self) -> bool: ...


class Scorer(Protocol):
    """An engine that also computes how likely a text is (abilities.score)."""

    def score(
        self, text: str | Sequence[int], top_count: int | None = None
    ) -> list[TokenLogprob]:
        """Return the log-probability of every token, given those before it.

        The first has none before it: its log-probability is not a number.

        Args:
            text: a text, or token ids.
            top_count: how many of the likeliest tokens to name beside each.
        """
        ...


class Tokenizes(Protocol):
    """An engine that also shows its model's tokens (abilities.tokenize)."""

    @property
    def bos_token(self) -> str | None:
        """The token that begins a text."""
        ...

    @property
    def eos_token(self) -> str | None:
        """The token that ends a text."""
        ...

    def tokenize(self, request: Request, special: bool = True) -> list[int]:
        """Return the token ids of a request's prompt.

        Args:
            request: a TextRequest.
            special: whether a plain prompt gets the tokenizer's own first token, where
                it has one.
        """
        ...

    def detokenize(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, control tokens as they are written."""
        ...


def context_error(prompt_tokens: int, context_length: int) -> ContextExceeded:
    """Return the error for a prompt that leaves no context for an answer."""
    return ContextExceeded(
        say(
            f"The prompt has {prompt_tokens} tokens; this model's context holds {context_length}, the answer included.",
            f"提示共 {prompt_tokens} 个词元；此模型的上下文（含回答）只能容纳 {context_length} 个。",
        ),
        say(
            f"Shorten it to at most {context_length - 1} tokens, or choose a model with a longer context.",
            f"请缩短到 {context_length - 1} 个词元以内，或选用上下文更长的模型。",
        ),
    )


def check_token_ids(ids: Sequence[int], vocabulary_size: int) -> None:
    """Raise BadInput for a token id that the model does not have."""
    for token in ids:
        if not 0 <= token < vocabulary_size:
            raise BadInput(
                say(
                    f"There is no token {token}: this model has {vocabulary_size:,} tokens.",
                    f"没有编号为 {token} 的词元：此模型共有 {vocabulary_size:,} 个词元。",
                ),
                say(
                    "Take the ids from this model's own tokenizer (/tokenize).",
                    "请使用此模型自己的分词器给出的编号（/tokenize）。",
                ),
                field="prompt_ids",
            )


def with_template(abilities: Abilities, chat: Template | None) -> Abilities:
    """Return an engine's abilities with its model's chat template: `tools` among them
    where the template supports tools, and whether it has a switch for reasoning.
    """
    if chat is None:
        return abilities
    tools = {"tools"} if chat.supports_tools else set[str]()
    controls = abilities.controls | tools
    return replace(abilities, controls=controls, reasons=chat.reasons)


def no_chat_error(name: str) -> Unsupported:
    """Return the error for messages to a model that has no chat template."""
    return Unsupported(
        say(
            f"{name} has no chat template, so it cannot answer messages.",
            f"{name} 没有对话模板，无法回答消息。",
        ),
        say(
            "Give a prompt to continue instead (--prompt with --raw).",
            "请改为给出要续写的提示（--prompt 与 --raw）。",
        ),
    )


def accepted(
    request: Request, takes: type[RequestKind], abilities: Abilities, engine: str
) -> RequestKind:
    """Return the request if the engine can serve it. Settings are never ignored.

    Args:
        request: any kind of request.
        takes: the kind that the engine takes.
        abilities: the engine's.
        engine: its name, for errors.

    Raises Unsupported; where it is for a field, the error names it.
    """
    if not isinstance(request, takes):
        raise Unsupported(
            say(
                f"The {engine} engine takes {takes.__name__}, not {type(request).__name__}.",
                f"{engine} 引擎接受 {takes.__name__}，不接受 {type(request).__name__}。",
            ),
            say(
                f"It makes {takes.makes}; choose a model that makes {request.makes}.",
                f"它生成 {takes.makes}；请选用生成 {request.makes} 的模型。",
            ),
        )
    for name, value in request.changed().items():
        if name not in abilities.controls:
            raise Unsupported(
                say(
                    f"The {engine} engine does not offer {name} (asked for {recorded(value)!r}).",
                    f"{engine} 引擎不支持 {name}（收到 {recorded(value)!r}）。",
                ),
                say(
                    "Leave it out, or open the model with another engine.",
                    "请去掉它，或换一个引擎打开模型。",
                ),
                field=name,
            )
        abilities.check(name, value)
    return request
