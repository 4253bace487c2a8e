"""What can be requested of a model: one frozen dataclass per kind. Every value is checked
when the request is made.

A request may hold pixels (arrays); they compare by their bytes, and records give their
SHA-256.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

from miaobi.core.errors import BadInput
from miaobi.core.language import say

NEUTRAL_CUTS = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0}
"""Settings of sampling that leave every candidate: the only ones that beam search takes."""


def _between(low: float, high: float, default: Any) -> Any:
    """A field whose value, where it has one, lies in [low, high]."""
    return field(default=default, metadata={"range": (low, high)})


def _one_of(*values: int) -> Any:
    """A field whose value, where it has one, is one of these."""
    return field(default=None, metadata={"choices": values})


@dataclass(frozen=True, kw_only=True)
class Request:
    """What all requests have."""

    n: int = _between(1, 128, 1)
    """How many answers to make."""
    seed: int | None = _between(0, 2**63 - 1, None)
    """Same seed, same request, same engine: same answer. Drawn at random by default."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if value is not None:
                _check_range(item, value)
                _check_choices(item, value)

    def changed(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults."""
        changes = dict[str, Any]()
        for item in fields(self):
            value = getattr(self, item.name)
            if not same(value, _default(item)):
                changes[item.name] = value
        return changes

    def refuse(self, first: str, second: str) -> None:
        """Raise BadInput for two settings that contradict each other."""
        raise BadInput(
            say(
                f"{first} and {second} cannot be used together.",
                f"{first} 与 {second} 不能同时使用。",
            ),
            say(
                f"Leave one of them out: {first} or {second}.",
                f"请去掉其中一个：{first} 或 {second}。",
            ),
        )


def _default(item: Field[Any]) -> Any:
    if item.default_factory is not MISSING:
        return item.default_factory()
    return item.default


def _check_range(item: Field[Any], value: Any) -> None:
    if "range" not in item.metadata:
        return
    low, high = item.metadata["range"]
    if not low <= value <= high:
        raise BadInput(
            say(
                f"{item.name} is {value}, outside {low:g} to {high:g}.",
                f"{item.name} 为 {value}，应在 {low:g} 与 {high:g} 之间。",
            ),
            say("Give a value within the range.", "请给出范围内的值。"),
        )


def _check_choices(item: Field[Any], value: Any) -> None:
    choices = item.metadata.get("choices")
    if choices and value not in choices:
        listed = ", ".join(map(str, choices))
        raise BadInput(
            say(f"{item.name} is {value}.", f"{item.name} 为 {value}。"),
            say(f"It can be {listed}.", f"可选的值：{listed}。"),
        )


@dataclass(frozen=True, kw_only=True)
class TextRequest(Request):
    """Continue `prompt`, or answer the last of `messages` (OpenAI's shape) through the
    model's chat template.

    Order of the controls, as in the field: penalties, bans and biases on the logits;
    temperature; then top_k, typical_p, top_p, min_p cut the candidates. temperature 0
    is greedy.
    """

    prompt: str | None = None
    """Text to continue, as it stands."""
    messages: tuple[Mapping[str, Any], ...] | None = None
    """A conversation: {"role": "user", "content": "..."} and so on."""
    max_new_tokens: int = _between(1, 1_000_000, 256)
    """Stop after this many tokens."""
    min_new_tokens: int = _between(0, 1_000_000, 0)
    """Do not end before this many tokens."""
    temperature: float = _between(0, 10, 1.0)
    """Below 1 safer, above 1 wilder, 0 always the likeliest token."""
    top_k: int = _between(0, 1_000_000, 0)
    """Draw from the k likeliest tokens; 0 for all."""
    top_p: float = _between(1e-9, 1, 1.0)
    """Draw from the likeliest tokens that together hold this probability (Holtzman et
    al. 2020, arXiv:1904.09751).
    """
    min_p: float = _between(0, 1, 0.0)
    """Drop tokens below this fraction of the likeliest one's probability (Nguyen et al.
    2024, arXiv:2407.01082).
    """
    typical_p: float = _between(1e-9, 1, 1.0)
    """Draw from the locally typical tokens that hold this probability (Meister et al.
    2022, arXiv:2202.00666).
    """
    repetition_penalty: float = _between(0.01, 10, 1.0)
    """Above 1 makes tokens that were seen less likely (Keskar et al. 2019, arXiv:1909.05858)."""
    presence_penalty: float = _between(-2, 2, 0.0)
    """Taken off the logit of every token already generated."""
    frequency_penalty: float = _between(-2, 2, 0.0)
    """Taken off the logit once for every time a token was generated."""
    no_repeat_ngram_size: int = _between(0, 1000, 0)
    """No n-gram of this length twice; 0 for no limit."""
    stop: tuple[str, ...] = ()
    """End before any of these strings."""
    num_beams: int = _between(1, 64, 1)
    """Above 1: beam search for the likeliest text, without sampling."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Token id to a number added to its logit; -100 bans, 100 forces."""
    logprobs: int | None = _between(0, 20, None)
    """Report each token's log-probability and those of this many likeliest tokens."""
    json_schema: Mapping[str, Any] | None = None
    """Answer with JSON of this schema."""
    tools: tuple[Mapping[str, Any], ...] = ()
    """Functions that the model may call, in OpenAI's shape; its chat template presents
    them. A call comes as text.
    """
    image: Path | None = None
    """A picture to describe: its class, its boxes, a caption. Stands in place of `prompt`
    where there is no question.
    """
    adapter: str | None = None
    """Which of the adapters answers that the model was opened with; the base by default."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.image, str):
            object.__setattr__(self, "image", Path(self.image).expanduser())
        only_image = self.image is not None and self.messages is None
        if (self.prompt is None) == (self.messages is None) and not only_image:
            raise BadInput(
                say(
                    "Give either prompt or messages.",
                    "请在 prompt 与 messages 中给出一个。",
                ),
                say(
                    "prompt continues a text; messages holds a conversation; image asks about a picture.",
                    "prompt 用于续写，messages 用于对话，image 用于就图片提问。",
                ),
            )
        if self.min_new_tokens > self.max_new_tokens:
            raise BadInput(
                say(
                    f"min_new_tokens ({self.min_new_tokens}) is above max_new_tokens ({self.max_new_tokens}).",
                    f"min_new_tokens（{self.min_new_tokens}）大于 max_new_tokens（{self.max_new_tokens}）。",
                ),
                say(
                    "Raise max_new_tokens or lower min_new_tokens.",
                    "请调大 max_new_tokens 或调小 min_new_tokens。",
                ),
            )
        if any(not text for text in self.stop):
            raise BadInput(
                say("A stop string is empty.", "停止字符串为空。"),
                say(
                    "Leave it out, or give at least one character.",
                    "请去掉它，或至少写一个字符。",
                ),
            )
        if self.num_beams > 1:
            self._check_beams()

    def _check_beams(self) -> None:
        for name, neutral in NEUTRAL_CUTS.items():
            if getattr(self, name) != neutral:
                self.refuse("num_beams > 1", name)
        if self.n > self.num_beams:
            raise BadInput(
                say(
                    f"n ({self.n}) is above num_beams ({self.num_beams}).",
                    f"n（{self.n}）大于 num_beams（{self.num_beams}）。",
                ),
                say(
                    "Beam search returns at most num_beams answers.",
                    "集束搜索最多返回 num_beams 个结果。",
                ),
            )

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and _same_fields(self, other)

    @property
    def greedy(self) -> bool:
        return self.temperature == 0 or self.top_k == 1


@dataclass(frozen=True, kw_only=True)
class ImageRequest(Request):
    """Paint `prompt` or a picture of class `label`, or make something of the picture `image`.

    Pictures are files, or in Python also their pixels, uint8 [H, W, C]. A field left at
    None is the model's own choice.
    """

    prompt: str | None = None
    """What to paint, in words."""
    negative_prompt: str | None = None
    """What to avoid, in words."""
    label: str | None = None
    """Name or number of a class the model was trained on; drawn at random by default."""
    width: int | None = _between(8, 16384, None)
    """Pixels across."""
    height: int | None = _between(8, 16384, None)
    """Pixels down."""
    num_inference_steps: int | None = _between(1, 1000, None)
    """Steps of denoising: more is slower, and finer up to a point."""
    guidance_scale: float | None = _between(0, 100, None)
    """How closely to follow the prompt (classifier-free guidance, Ho and Salimans 2022,
    arXiv:2207.12598).
    """
    image: Path | None = None
    """A picture to start from, translate, restyle or enlarge."""
    mask: Path | None = None
    """Where to repaint `image`: white is repainted, black is kept. Of the same size as `image`."""
    strength: float | None = _between(0, 1, None)
    """How far to leave `image` behind: 0 keeps it, 1 paints anew."""
    style: Path | None = None
    """A picture in whose style `image` is painted, or the number of a built-in style (0 to 25)."""
    upscale: int | None = _one_of(2, 3, 4, 8)
    """Enlarge `image` this many times."""
    control_image: Path | None = None
    """Edges, depth or a pose that the picture is to follow, for models opened with a ControlNet."""
    truncation: float | None = _between(1e-9, 1, None)
    """Below 1 draws nearer to the average picture: safer, less varied (Karras et al.
    2019, arXiv:1812.04948).
    """
    scheduler: str | None = None
    """The way noise is taken away: "euler", "dpm++ 2m", "ddim", or a class name of Diffusers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("image", "mask", "style", "control_image"):
            value = getattr(self, name)
            if isinstance(value, str):
                object.__setattr__(self, name, Path(value).expanduser())
        for name in ("mask", "strength", "style", "upscale"):
            if getattr(self, name) is not None and self.image is None:
                raise BadInput(
                    say(
                        f"{name} is about a picture, and there is no image.",
                        f"{name} 针对一张图片，但没有给出 image。",
                    ),
                    say(
                        "Give image as well (--image photo.png).",
                        "请同时给出 image（--image photo.png）。",
                    ),
                )

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and _same_fields(self, other)


@dataclass(frozen=True, kw_only=True)
class EmbeddingRequest(Request):
    texts: tuple[str, ...]


def same(first: Any, second: Any) -> bool:
    """Return whether two values are equal; pixels compare by their bytes."""
    if not (_is_pixels(first) or _is_pixels(second)):
        return bool(first == second)
    if not (_is_pixels(first) and _is_pixels(second)):
        return False
    if first.dtype != second.dtype or first.shape != second.shape:
        return False
    return cast(bool, first.tobytes() == second.tobytes())


def _same_fields(first: Any, second: Any) -> bool:
    """Whether two requests of one kind are equal, field by field."""
    names = [item.name for item in fields(first)]
    return all(same(getattr(first, name), getattr(second, name)) for name in names)


def recorded(value: Any) -> Any:
    """Return a setting as records have it: pixels and picture files as a short SHA-256."""
    if _is_pixels(value):
        return _digest(f"{value.dtype}{value.shape}".encode() + value.tobytes())
    if isinstance(value, Path):
        return _digest(value.read_bytes()) if value.is_file() else str(value)
    return value


def _digest(content: bytes) -> str:
    return f"sha256:{sha256(content).hexdigest()[:16]}"


def _is_pixels(value: Any) -> bool:
    return hasattr(value, "__array_interface__")
