"""What can be set of each task: its section `head` of a recipe. Imports no PyTorch, so
that a server can check a request.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from miaobi.core.errors import BadInput
from miaobi.core.language import say


@dataclass(frozen=True)
class DiffusionHead:
    image_size: Annotated[int, Field(ge=0, le=8192)] = 0
    """Pixels of a side; 0 for the pipeline's own. Pictures are cut to squares."""
    instance_prompt: str = ""
    """DreamBooth: the caption of every picture, with a rare word for the subject: "a
    photo of sks dog".
    """
    class_prompt: str = ""
    """DreamBooth: the same without the word, "a photo of a dog": what is to stay as it
    is. Empty for no such term.
    """
    class_path: str = ""
    """A folder with pictures of the class; empty to have the base make them."""
    class_pictures: Annotated[int, Field(ge=1)] = 20
    """How many the base makes."""
    prior_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight λ of the class."""
    min_snr_gamma: Annotated[float, Field(ge=0)] = 0.0
    """Weight of little noise is capped at this signal-to-noise ratio, 5 as a rule; 0
    for equal weights.
    """
    caption_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of captions left empty in training, which keeps guidance sound in long runs."""

    def __post_init__(self) -> None:
        has_class = self.class_path or self.class_prompt
        has_prompts = self.class_prompt and self.instance_prompt
        if has_class and not has_prompts:
            raise BadInput(
                say(
                    "A class needs head.class_prompt and head.instance_prompt.",
                    "类别项需要 head.class_prompt 与 head.instance_prompt。",
                ),
                say(
                    'Such as "a photo of a dog" and "a photo of sks dog".',
                    '例如 "a photo of a dog" 与 "a photo of sks dog"。',
                ),
            )


@dataclass(frozen=True)
class DistillationHead:
    teacher: str = ""
    """A starter pack, a model in the store, a path, a hub id; for answers also the URL
    of a server.
    """
    teacher_model: str = ""
    """The teacher's name on a server that offers several."""
    loss: Literal["logits", "answers"] = "logits"
    """logits: imitate every probability of a local teacher with the same vocabulary.
    answers: learn what a teacher writes.
    """
    temperature: Annotated[float, Field(gt=0)] = 2.0
    """For logits: softens both models, so that unlikely tokens count too."""
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.9
    """For logits: the weight of the teacher's probabilities; the rest goes to the text itself."""
    layers: Annotated[int, Field(ge=0)] = 0
    """Make the student out of the base by keeping so many of its layers (with --method
    full); 0 keeps all.
    """
    max_new_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 128
    """Longest answer, of the teacher and of those that are shown."""
    streams: Annotated[int, Field(ge=1)] = 4
    """Questions that the teacher is asked at the same time."""


@dataclass(frozen=True)
class PreferenceHead:
    loss: Literal["dpo", "orpo", "kto"] = "dpo"
    """dpo and orpo for pairs; kto for single answers with a thumb up or down (and for pairs)."""
    beta: Annotated[float, Field(gt=0)] = 0.1
    """The price of departing from the base (dpo, kto); how much the preference weighs
    beside the chosen answer's likelihood (orpo).
    """
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """For dpo: the share of pairs that may be labelled the wrong way round, in [0, 0.5)."""
    desirable_weight: Annotated[float, Field(ge=0)] = 1.0
    """For kto: λ_D. Keep λ_D × thumbs up within 1 to 4/3 of λ_U × thumbs down."""
    undesirable_weight: Annotated[float, Field(ge=0)] = 1.0
    """For kto: λ_U."""
    max_new_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 64
    """Tokens of an answer that is shown beside the base's, at most."""

    def __post_init__(self) -> None:
        if self.label_smoothing and self.loss != "dpo":
            raise BadInput(
                say(
                    f"head.label_smoothing belongs to dpo, not to {self.loss}.",
                    f"head.label_smoothing 只用于 dpo，不用于 {self.loss}。",
                ),
                say("Leave it out.", "请去掉它。"),
            )
        is_weighted = self.desirable_weight != 1.0 or self.undesirable_weight != 1.0
        if is_weighted and self.loss != "kto":
            raise BadInput(
                say(
                    f"head.desirable_weight and undesirable_weight belong to kto, not to {self.loss}.",
                    f"head.desirable_weight 与 undesirable_weight 只用于 kto，不用于 {self.loss}。",
                ),
                say("Leave them out.", "请去掉它们。"),
            )


@dataclass(frozen=True)
class Seq2SeqHead:
    source: str = "source"
    """The column to read from: source, zh, text, ..."""
    target: str = "target"
    """The column to write: target, en, summary, ..."""
    prompt: str = "{source}"
    """How the base is asked; {source} stands for the source."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of certainty that is spread over all tokens, in [0, 1)."""
    metric: Literal["chrf", "bleu", "rouge_l", "loss"] = "chrf"
    """What models are compared by: chrf or bleu for translation, rouge_l for summaries."""
    max_new_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 64
    """Longest answer when it is evaluated."""
    num_beams: Annotated[int, Field(ge=1)] = 1
    """1 for greedy search; more beams search for the likeliest answer."""

    def __post_init__(self) -> None:
        if "{source}" not in self.prompt:
            raise BadInput(
                say(
                    f"head.prompt is {self.prompt!r}: the source would not be in it.",
                    f"head.prompt 为 {self.prompt!r}，其中没有原文。",
                ),
                say(
                    'Put {source} where it belongs: "Translate into English: {source}".',
                    '请在其中写上 {source}，例如 "翻译成英文：{source}"。',
                ),
            )


@dataclass(frozen=True)
class CausalHead:
    max_new_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 64
    """Tokens of an answer that is shown beside the base's, at most."""


@dataclass(frozen=True)
class TokenClassificationHead:
    characters: bool = True
    """Give every Chinese character a token of its own, so that a name can begin and end
    anywhere.
    """
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of certainty that is spread over all tags."""
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Share of what the head sees that is left out while training; the base's own
    setting if not given (tune.dropout is the base's).
    """


@dataclass(frozen=True)
class ChatHead:
    template: Literal[
        "", "chatml", "llama3", "gemma", "phi3", "mistral", "alpaca", "plain"
    ] = ""
    """How a dialogue is written: "" as the base's own chat template does; chatml (also
    with tools), llama3, gemma or phi3 where the vocabulary has their tokens; mistral,
    alpaca or plain in words, for bases that know no special tokens.
    """
    max_new_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 64
    """Tokens of an answer that is shown beside the base's, at most."""


@dataclass(frozen=True)
class ExtractiveQuestionsHead:
    overlap: Annotated[int, Field(ge=0)] = 64
    """Tokens that two windows of a text share."""
    longest_answer: Annotated[int, Field(ge=1)] = 64
    """Tokens that an answer may have."""
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Share of what the head sees that is left out while training; the base's own
    setting if not given (tune.dropout is the base's).
    """


@dataclass(frozen=True)
class SegmentationHead:
    image_size: Annotated[int, Field(ge=0, le=8192)] = 0
    """Pixels of a side; 0 for the base's own, at most 512 (for efficientnet-lite0: 112
    for pictures of at most 64 pixels, else 224).
    """
    augment: list[str] = field(default_factory=list)
    """Changes drawn anew for every training picture, its mask moving along: flip,
    shift, rotate, crop, colour, noise.
    """
    dice: Annotated[float, Field(ge=0)] = 0.0
    """Weight λ of the Dice loss."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: classes with few pixels weigh more."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Of whole feature maps, before the head of efficientnet-lite0; other bases keep their own."""


@dataclass(frozen=True)
class CaptioningHead:
    augment: list[str] = field(default_factory=list)
    """Changes drawn anew for every training picture; not those that make a caption
    wrong (a flip turns left to right).
    """
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of certainty that is spread over all tokens."""
    max_new_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 32
    """Longest caption when it is evaluated."""


@dataclass(frozen=True)
class EmbeddingHead:
    temperature: Annotated[float, Field(gt=0)] = 0.05
    """Of the softmax over cosines."""
    pooling: Literal["auto", "mean", "first", "last", "pooler"] = "auto"
    """How tokens become a vector; auto: the base's own pooling for use-multilingual,
    the last token for causal models, the mean for others.
    """


@dataclass(frozen=True)
class TextClassificationHead:
    problem: Literal["single", "multi", "regression"] = "single"
    """One label for a text; a list of any number of labels; or a number."""
    class_weights: str | dict[str, float] = ""
    """balanced (a label counts the more, the rarer it is), or {label: weight}; scaled
    so that the loss keeps its size.
    """
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of certainty that is spread over all labels."""
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Share of what the head sees that is left out while training; the base's own
    setting if not given (tune.dropout is the base's).
    """
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    """For multi: probability from which a label is given."""

    def __post_init__(self) -> None:
        weights = self.class_weights
        if isinstance(weights, str) and weights not in ("", "balanced"):
            raise BadInput(
                say(
                    f"head.class_weights is {weights!r}.",
                    f"head.class_weights 为 {weights!r}。",
                ),
                say(
                    "Give balanced, or a weight for each label: {positive: 1, negative: 3}.",
                    "请写 balanced，或为每个标签给出权重：{positive: 1, negative: 3}。",
                ),
            )
        if weights and self.problem == "regression":
            raise BadInput(
                say(
                    "head.class_weights does not go with head.problem regression.",
                    "head.class_weights 不能与 head.problem regression 同用。",
                ),
                say("Leave it out.", "请去掉它。"),
            )


@dataclass(frozen=True)
class RerankerHead:
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Share of what the head sees that is left out while training; the base's own
    setting if not given (tune.dropout is the base's).
    """


@dataclass(frozen=True)
class ImageClassificationHead:
    image_size: Annotated[int, Field(ge=0, le=8192)] = 0
    """Pixels of a side; 0 for the base's own (for efficientnet-lite0: 112 for pictures
    of at most 64 pixels, else 224).
    """
    augment: list[str] = field(default_factory=list)
    """Changes drawn anew for every training picture: flip, shift, rotate, crop, colour,
    cutout, noise.
    """
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of certainty that is spread over all labels."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: rare labels weigh more, so that all weigh the same together."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Before the head of efficientnet-lite0; other bases keep their own."""


@dataclass(frozen=True)
class DetectionHead:
    image_size: Annotated[int, Field(ge=0, le=8192)] = 0
    """Pixels of a side; 0 for the base's own, at most 512 (for efficientnet-lite0: 112
    for pictures of at most 64 pixels, else 224).
    """
    augment: list[str] = field(default_factory=list)
    """Changes drawn anew for every training picture: flip, colour, noise, cutout."""
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.3
    """Answers below this score are not given, and not counted by F1."""
