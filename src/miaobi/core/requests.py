"""What can be asked of a model: one frozen dataclass per kind. Every value is checked
when the request is made.

A request may hold pixels (arrays); they compare by their bytes, and records of them say
their SHA-256.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, cast

from miaobi.core.errors import BadInput
from miaobi.core.language import say


def _in(low: float, high: float, default: Any) -> Any:
    """A field whose value, when given, lies in [low, high]."""
    return field(default=default, metadata={"range": (low, high)})


def _among(*values: int) -> Any:
    """A field whose value, when given, is one of these."""
    return field(default=None, metadata={"among": values})


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
                    say(
                        f"{item.name} is {value}, outside {bounds[0]:g} to {bounds[1]:g}.",
                        f"{item.name} 为 {value}，应在 {bounds[0]:g} 与 {bounds[1]:g} 之间。",
                    ),
                    say("Give a value within the range.", "请给出范围内的值。"),
                )
            among = item.metadata.get("among")
            if among and value is not None and value not in among:
                listed = ", ".join(map(str, among))
                raise BadInput(
                    say(f"{item.name} is {value}.", f"{item.name} 为 {value}。"),
                    say(f"It can be {listed}.", f"可选的值：{listed}。"),
                )

    def changed(self) -> dict[str, Any]:
        """The fields that differ from their defaults."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        defaults = {
            item.name: item.default_factory()
            if item.default_factory is not MISSING
            else item.default
            for item in fields(self)
        }
        return {
            name: value
            for name, value in values.items()
            if not same(value, defaults[name])
        }

    def refuse(self, first: str, second: str) -> None:
        """Raise for two settings that contradict each other."""
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
    max_new_tokens: int = _in(1, 1_000_000, 256)
    """Stop after this many tokens."""
    min_new_tokens: int = _in(0, 1_000_000, 0)
    """Do not end before this many tokens."""
    temperature: float = _in(0, 10, 1.0)
    """Below 1 safer, above 1 wilder, 0 always the likeliest token."""
    top_k: int = _in(0, 1_000_000, 0)
    """Draw from the k likeliest tokens; 0 for all."""
    top_p: float = _in(1e-9, 1, 1.0)
    """Draw from the likeliest tokens that together hold this probability (Holtzman et
    al. 2020, arXiv:1904.09751).
    """
    min_p: float = _in(0, 1, 0.0)
    """Drop tokens below this fraction of the likeliest one's probability (Nguyen et al.
    2024, arXiv:2407.01082).
    """
    typical_p: float = _in(1e-9, 1, 1.0)
    """Draw from the locally typical tokens that hold this probability (Meister et al.
    2022, arXiv:2202.00666).
    """
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
    """Report each token's log-probability and those of this many of the likeliest tokens."""
    json_schema: Mapping[str, Any] | None = None
    """Answer with JSON of this schema."""
    tools: tuple[Mapping[str, Any], ...] = ()
    """Functions that the model may ask for, in OpenAI's shape, told to it by its chat
    template. Its wish comes as text.
    """
    image: Path | None = None
    """A picture to say something about: its class, its boxes, a caption. Takes the
    place of `prompt` where nothing else is asked.
    """
    adapter: str | None = None
    """Which of the adapters answers that the model was opened with; without it, the base does."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.image, str):
            object.__setattr__(self, "image", Path(self.image).expanduser())
        alone = self.image is not None and self.messages is None
        if (self.prompt is None) == (self.messages is None) and not alone:
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
        for name, off in (
            ("top_k", 0),
            ("top_p", 1.0),
            ("min_p", 0.0),
            ("typical_p", 1.0),
        ):
            if getattr(self, name) != off:
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
        return type(other) is type(self) and all(
            same(getattr(self, item.name), getattr(other, item.name))
            for item in fields(self)
        )

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
    """What to keep away from, in words."""
    label: str | None = None
    """Name or number of a class the model was trained on; drawn at random when not given."""
    width: int | None = _in(8, 16384, None)
    """Pixels across."""
    height: int | None = _in(8, 16384, None)
    """Pixels down."""
    num_inference_steps: int | None = _in(1, 1000, None)
    """Steps of denoising: more is slower, and finer up to a point."""
    guidance_scale: float | None = _in(0, 100, None)
    """How closely to follow the prompt (classifier-free guidance, Ho and Salimans 2022,
    arXiv:2207.12598).
    """
    image: Path | None = None
    """A picture to start from, translate, restyle or enlarge."""
    mask: Path | None = None
    """Where to repaint `image`: white is repainted, black is kept. Of the same size as `image`."""
    strength: float | None = _in(0, 1, None)
    """How far to leave `image` behind: 0 keeps it, 1 paints anew."""
    style: Path | None = None
    """A picture in whose style `image` is painted, or the number of a built-in style (0 to 25)."""
    upscale: int | None = _among(2, 3, 4, 8)
    """Enlarge `image` this many times."""
    control_image: Path | None = None
    """Edges, depth or a pose that the picture is to follow, for models opened with a ControlNet."""
    truncation: float | None = _in(1e-9, 1, None)
    """Below 1 draws nearer to the average picture: safer, less varied (Karras et al.
    2019, arXiv:1812.04948).
    """
    scheduler: str | None = None
    """The way noise is taken away: "euler", "dpm++ 2m", "ddim", or a class name of Diffusers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("image", "mask", "style", "control_image"):
            if isinstance(getattr(self, name), str):
                object.__setattr__(
                    self, name, Path(cast(str, getattr(self, name))).expanduser()
                )
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
        return type(other) is type(self) and all(
            same(getattr(self, item.name), getattr(other, item.name))
            for item in fields(self)
        )


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


def same(first: Any, second: Any) -> bool:
    """Equality that also holds for pixels, which compare by their bytes."""
    if _is_pixels(first) or _is_pixels(second):
        return (
            _is_pixels(first)
            and _is_pixels(second)
            and first.dtype == second.dtype
            and first.shape == second.shape
            and cast(bool, first.tobytes() == second.tobytes())
        )
    return bool(first == second)


def recorded(value: Any) -> Any:
    """A setting as records have it: pixels and picture files as a short SHA-256."""
    from hashlib import sha256

    if _is_pixels(value):
        return f"sha256:{sha256(f'{value.dtype}{value.shape}'.encode() + value.tobytes()).hexdigest()[:16]}"
    if isinstance(value, Path):
        return (
            f"sha256:{sha256(value.read_bytes()).hexdigest()[:16]}"
            if value.is_file()
            else str(value)
        )
    return value


def _is_pixels(value: Any) -> bool:
    return hasattr(value, "__array_interface__")
