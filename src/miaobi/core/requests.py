"""What can be asked of a model: one frozen dataclass per kind. Every value is checked when the request is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from miaobi.core.errors import BadInput
from miaobi.core.language import say


def _in(low: float, high: float, default: Any) -> Any:
    """A field whose value, when given, lies in [low, high]."""
    return field(default=default, metadata={"range": (low, high)})


@dataclass(frozen=True, kw_only=True)
class Request:
    n: int = _in(1, 128, 1)
    """How many answers to make."""
    seed: int | None = _in(0, 2**63 - 1, None)
    """Same seed, same request, same engine: same answer. Drawn at random when not given."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value, bounds = getattr(self, item.name), item.metadata.get("range")
            if bounds and value is not None and not bounds[0] <= value <= bounds[1]:
                raise BadInput(
                    say(f"{item.name} is {value}, outside {bounds[0]:g} to {bounds[1]:g}.",
                        f"{item.name} 为 {value}，应在 {bounds[0]:g} 与 {bounds[1]:g} 之间。"),
                    say("Give a value within the range.", "请给出范围内的值。"))

    def refuse(self, first: str, second: str) -> None:
        """Raise for two settings that contradict each other."""
        raise BadInput(
            say(f"{first} and {second} cannot be used together.", f"{first} 与 {second} 不能同时使用。"),
            say(f"Leave one of them out: {first} or {second}.", f"请去掉其中一个：{first} 或 {second}。"))


@dataclass(frozen=True, kw_only=True)
class TextRequest(Request):
    """Continue `prompt`, or answer the last of `messages` (OpenAI's shape) through the model's chat template.

    Order of the controls, as in the field: penalties, bans and biases on the logits; temperature; then top_k,
    typical_p, top_p, min_p cut the candidates. temperature 0 is greedy.
    """

    prompt: str | None = None
    """Text to continue, as it stands."""
    messages: tuple[Mapping[str, Any], ...] | None = None
    """A conversation: {"role": "user", "content": "..."} and so on."""
    max_new_tokens: int = _in(1, 1_000_000, 256)
    """Stop after this many tokens."""
    min_new_tokens: int = _in(0, 1_000_000, 0)
    """Do not end before this many tokens."""
    temperature: float = _in(0, 10, 1.0)
    """Below 1 safer, above 1 wilder, 0 always the likeliest token."""
    top_k: int = _in(0, 1_000_000, 0)
    """Draw from the k likeliest tokens; 0 for all."""
    top_p: float = _in(1e-9, 1, 1.0)
    """Draw from the likeliest tokens that together hold this probability (Holtzman et al. 2020, arXiv:1904.09751)."""
    min_p: float = _in(0, 1, 0.0)
    """Drop tokens below this fraction of the likeliest one's probability (Nguyen et al. 2024, arXiv:2407.01082)."""
    typical_p: float = _in(1e-9, 1, 1.0)
    """Draw from the locally typical tokens that hold this probability (Meister et al. 2022, arXiv:2202.00666)."""
    repetition_penalty: float = _in(0.01, 10, 1.0)
    """Above 1 makes tokens that were seen less likely (Keskar et al. 2019, arXiv:1909.05858)."""
    presence_penalty: float = _in(-2, 2, 0.0)
    """Taken off the logit of every token already generated."""
    frequency_penalty: float = _in(-2, 2, 0.0)
    """Taken off the logit once for every time a token was generated."""
    no_repeat_ngram_size: int = _in(0, 1000, 0)
    """No n-gram of this length twice; 0 for no limit."""
    stop: tuple[str, ...] = ()
    """End before any of these strings."""
    num_beams: int = _in(1, 64, 1)
    """Above 1: beam search for the likeliest text, without sampling."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Token id to a number added to its logit; -100 bans, 100 forces."""
    logprobs: int | None = _in(0, 20, None)
    """Report each token's log-probability and this many rivals."""
    json_schema: Mapping[str, Any] | None = None
    """Answer with JSON of this schema."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.prompt is None) == (self.messages is None):
            raise BadInput(say("Give either prompt or messages.", "请在 prompt 与 messages 中给出一个。"),
                           say("prompt continues a text; messages holds a conversation.",
                               "prompt 用于续写，messages 用于对话。"))
        if self.min_new_tokens > self.max_new_tokens:
            raise BadInput(say(f"min_new_tokens ({self.min_new_tokens}) is above max_new_tokens ({self.max_new_tokens}).",
                               f"min_new_tokens（{self.min_new_tokens}）大于 max_new_tokens（{self.max_new_tokens}）。"),
                           say("Raise max_new_tokens or lower min_new_tokens.",
                               "请调大 max_new_tokens 或调小 min_new_tokens。"))
        if any(not text for text in self.stop):
            raise BadInput(say("A stop string is empty.", "停止字符串为空。"),
                           say("Leave it out, or give at least one character.", "请去掉它，或至少写一个字符。"))
        if self.num_beams > 1:
            self._check_beams()

    def _check_beams(self) -> None:
        for name, off in (("top_k", 0), ("top_p", 1.0), ("min_p", 0.0), ("typical_p", 1.0)):
            if getattr(self, name) != off:
                self.refuse("num_beams > 1", name)
        if self.n > self.num_beams:
            raise BadInput(say(f"n ({self.n}) is above num_beams ({self.num_beams}).",
                               f"n（{self.n}）大于 num_beams（{self.num_beams}）。"),
                           say("Beam search returns at most num_beams answers.", "集束搜索最多返回 num_beams 个结果。"))

    @property
    def greedy(self) -> bool:
        return self.temperature == 0 or self.top_k == 1


@dataclass(frozen=True, kw_only=True)
class ImageRequest(Request):
    prompt: str | None = None
    label: str | None = None
    width: int | None = _in(8, 16384, None)
    height: int | None = _in(8, 16384, None)
    num_inference_steps: int | None = _in(1, 1000, None)
    guidance_scale: float | None = _in(0, 100, None)


@dataclass(frozen=True, kw_only=True)
class SpeechRequest(Request):
    text: str
    voice: str | None = None
    speed: float = _in(0.25, 4, 1.0)


@dataclass(frozen=True, kw_only=True)
class MusicRequest(Request):
    prompt: str | None = None
    seconds: float = _in(0.1, 3600, 15.0)


@dataclass(frozen=True, kw_only=True)
class VideoRequest(Request):
    prompt: str | None = None
    frames: int = _in(1, 10_000, 16)
    fps: float = _in(1, 120, 8.0)


@dataclass(frozen=True, kw_only=True)
class EmbeddingRequest(Request):
    texts: tuple[str, ...]
