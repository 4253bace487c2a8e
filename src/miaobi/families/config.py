"""What can be set of each family: its section `model` of a recipe. Imports no PyTorch,
so that a server can check a request, and the help is shown at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from miaobi.core.errors import BadInput
from miaobi.core.language import say


def default_heads(hidden_size: int) -> int:
    """Return the attention heads of a width: 32 wide up to 256, 64 wide above."""
    head_width = 32 if hidden_size <= 256 else 64
    return max(1, hidden_size // head_width)


def check_heads(hidden_size: int, heads: int) -> None:
    """Raise BadInput for a width that does not divide into heads of even width."""
    if hidden_size % (2 * heads):
        raise BadInput(
            say(
                f"model.hidden_size {hidden_size} does not divide into {heads} heads of even width.",
                f"model.hidden_size {hidden_size} 不能分成 {heads} 个宽度为偶数的头。",
            ),
            say(
                "Choose num_heads so that hidden_size / num_heads is even.",
                "请选择 num_heads，使 hidden_size / num_heads 为偶数。",
            ),
        )


@dataclass(frozen=True)
class GPTConfig:
    num_layers: Annotated[int, Field(ge=1, le=1000)] = 4
    """Blocks."""
    hidden_size: Annotated[int, Field(ge=1, le=1_000_000)] = 256
    """Width of the residual stream."""
    num_heads: Annotated[int, Field(ge=0)] = 0
    """Attention heads; 0 for one per 32 of width up to 256, one per 64 above."""
    num_kv_heads: Annotated[int, Field(ge=0)] = 0
    """Heads of keys and values, shared by groups of queries; 0 for as many as num_heads."""
    intermediate_size: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Width inside the feed-forward layer; 0 for 8/3 of hidden_size, rounded up to a
    multiple of 32.
    """
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """On what each block adds. Worth 0.1 to 0.3 when the data is seen many times."""
    tie_embeddings: bool = False
    """One matrix for input and output: fewer parameters, slower to learn."""
    rope_theta: Annotated[float, Field(gt=0)] = 10000.0
    """Base of the rotary wavelengths."""
    norm_eps: Annotated[float, Field(gt=0)] = 1e-5

    @property
    def heads(self) -> int:
        return self.num_heads or default_heads(self.hidden_size)

    @property
    def kv_heads(self) -> int:
        return self.num_kv_heads or self.heads

    @property
    def inner(self) -> int:
        return self.intermediate_size or -(-self.hidden_size * 8 // 3 // 32) * 32

    def __post_init__(self) -> None:
        check_heads(self.hidden_size, self.heads)
        if self.heads % self.kv_heads:
            raise BadInput(
                say(
                    f"model.num_heads {self.heads} is no multiple of num_kv_heads {self.kv_heads}.",
                    f"model.num_heads {self.heads} 不是 num_kv_heads {self.kv_heads} 的倍数。",
                ),
                say(
                    "Choose num_kv_heads that divides num_heads.",
                    "请选择能整除 num_heads 的 num_kv_heads。",
                ),
            )


@dataclass(frozen=True)
class LSTMConfig:
    hidden_size: Annotated[int, Field(ge=1, le=1_000_000)] = 256
    """Width of the state of each layer."""
    num_layers: Annotated[int, Field(ge=1, le=1000)] = 2
    """Stacked LSTMs."""
    embedding_size: Annotated[int, Field(ge=1, le=1_000_000)] = 128
    """Width of the embedding that input and output share."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """On the embedding, between layers, and before the output."""


@dataclass(frozen=True)
class BERTConfig:
    num_layers: Annotated[int, Field(ge=1, le=1000)] = 4
    """Blocks."""
    hidden_size: Annotated[int, Field(ge=1, le=1_000_000)] = 256
    """Width of the residual stream."""
    num_heads: Annotated[int, Field(ge=0)] = 0
    """Attention heads; 0 for one per 32 of width up to 256, one per 64 above."""
    intermediate_size: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Width inside the feed-forward layer; 0 for four times hidden_size."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """On embeddings and on what each block adds; pre-training on much text needs none."""

    @property
    def heads(self) -> int:
        return self.num_heads or default_heads(self.hidden_size)

    @property
    def inner(self) -> int:
        return self.intermediate_size or 4 * self.hidden_size

    def __post_init__(self) -> None:
        check_heads(self.hidden_size, self.heads)


@dataclass(frozen=True)
class Seq2SeqConfig:
    num_layers: Annotated[int, Field(ge=1, le=1000)] = 3
    """Blocks of the encoder, and of the decoder."""
    hidden_size: Annotated[int, Field(ge=1, le=1_000_000)] = 256
    """Width of the residual stream."""
    num_heads: Annotated[int, Field(ge=0)] = 0
    """Attention heads; 0 for one per 32 of width up to 256, one per 64 above."""
    intermediate_size: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Width inside the feed-forward layer; 0 for four times hidden_size."""
    positions: Literal["sinusoidal", "rotary"] = "sinusoidal"
    """sinusoidal: vectors added to the embeddings, the layout of Marian, which
    Transformers opens. rotary: rotations in self-attention; opened here alone.
    """
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """On embeddings and on what each block adds."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of each target that is spread over the whole vocabulary; training only."""

    @property
    def heads(self) -> int:
        return self.num_heads or default_heads(self.hidden_size)

    @property
    def inner(self) -> int:
        return self.intermediate_size or 4 * self.hidden_size

    def __post_init__(self) -> None:
        check_heads(self.hidden_size, self.heads)


@dataclass(frozen=True)
class TextVAEConfig:
    latent_size: Annotated[int, Field(ge=1, le=1_000_000)] = 32
    """Length of z."""
    hidden_size: Annotated[int, Field(ge=1, le=1_000_000)] = 256
    """Width of the state of encoder and decoder."""
    embedding_size: Annotated[int, Field(ge=1, le=1_000_000)] = 128
    """Width of the embedding that encoder, decoder and output share."""
    word_dropout: Annotated[float, Field(ge=0, le=1)] = 0.3
    """Share of the words that the decoder does not see while it learns: the more, the
    more it asks z.
    """
    beta: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the KL term."""
    kl_warmup: Annotated[float, Field(ge=0, le=1)] = 0.3
    """Share of the run over which the KL term's weight rises from 0."""
    free_bits: Annotated[float, Field(ge=0)] = 0.2
    """Nats of each latent dimension that cost nothing: they keep all dimensions in use."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """On the embeddings, before z, and before the output."""


@dataclass(frozen=True)
class VAEConfig:
    latent_size: Annotated[int, Field(ge=1, le=1_000_000)] = 32
    """Length of z."""
    width: Annotated[int, Field(ge=1, le=1_000_000)] = 32
    """Channels at the largest size; doubled at every halving, up to four times."""
    patch: Annotated[int, Field(ge=1)] = 2
    """Pixels of a side that are read and written as one position: 1 is finest, 2 four
    times quicker.
    """
    likelihood: Literal["bernoulli", "gaussian"] = "gaussian"
    """bernoulli: a pixel is black or white. gaussian: one of 256 values, of a normal
    distribution with one learned width.
    """
    beta: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the KL term: above 1 for a tidier latent space, below 1 for sharper
    reconstructions.
    """
    kl_warmup: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of the run over which the KL term's weight rises from 0."""
    free_bits: Annotated[float, Field(ge=0)] = 0.0
    """Nats of each latent dimension that cost nothing: 0.05 to 0.25 keeps all in use."""
    conditional: bool = False
    """Condition encoder and decoder on the class."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """On the features before and after z; for small data."""


@dataclass(frozen=True)
class VQConfig:
    quantiser: Literal["fsq", "vq"] = "fsq"
    """fsq: finite scalars, nothing to tune. vq: a learned codebook."""
    levels: Annotated[list[Annotated[int, Field(ge=2)]], Field(min_length=1)] = field(
        default_factory=lambda: [8, 6, 5]
    )
    """fsq: levels of each channel; their product is the number of tokens: [8,6,5] gives
    240, [8,5,5,5] 1,000, [7,5,5,5,5] 4,375.
    """
    codebook_size: Annotated[int, Field(ge=2)] = 256
    """vq: tokens."""
    code_size: Annotated[int, Field(ge=1, le=1_000_000)] = 8
    """vq: length of a token's vector."""
    commitment: Annotated[float, Field(ge=0)] = 0.25
    """vq: weight of the distance between latents and their vectors."""
    width: Annotated[int, Field(ge=1, le=1_000_000)] = 32
    """Channels at the largest size; doubled at every halving, up to four times."""
    patch: Annotated[int, Field(ge=1)] = 2
    """Pixels of a side that are read and written as one position: 1 is finest, 2 four
    times quicker.
    """
    adversary: Annotated[float, Field(ge=0)] = 0.1
    """Weight of the adversary's loss; 0 for none."""
    adversary_begins: Annotated[float, Field(ge=0, le=1)] = 0.6
    """Share of the run after which the adversary joins."""
    gamma: Annotated[float, Field(ge=0)] = 0.1
    """The adversary's gradient penalty."""


@dataclass(frozen=True)
class GANConfig:
    generator: Literal["plain", "style"] = "plain"
    """style: a mapping network modulates every layer: more even quality, mixing and
    truncation, slower.
    """
    conditional: bool = False
    """Condition generator and critic on the class."""
    latent_size: Annotated[int, Field(ge=1, le=1_000_000)] = 64
    """Length of z."""
    width: Annotated[int, Field(ge=1, le=1_000_000)] = 32
    """Channels at the largest size; doubled at every halving, up to four times."""
    patch: Annotated[int, Field(ge=1)] = 2
    """Pixels of a side that are read and written as one position: 1 is finest, 2 four
    times quicker.
    """
    style_size: Annotated[int, Field(ge=1, le=1_000_000)] = 128
    """Length of w, for the style-based generator."""
    mixing: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of pictures in training whose style changes at some level."""
    loss: Literal["relativistic", "non_saturating"] = "relativistic"
    """relativistic: the modern game, stable with its penalties. non_saturating: the classic one."""
    gamma: Annotated[float, Field(ge=0)] = 0.1
    """Weight of the gradient penalties: larger is steadier and blurrier, 0 for none."""
    penalty_every: Annotated[int, Field(ge=1)] = 4
    """Steps between penalties, which are that much stronger."""
    spread: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the loss that pictures of a class differ as much as real ones do; 0
    leaves that to the critic.
    """
    augment: list[str] = field(default_factory=list)
    """Augmentations before the critic: colour, translation, cutout. Essential below
    about 10,000 pictures.
    """


@dataclass(frozen=True)
class Pix2PixConfig:
    width: Annotated[int, Field(ge=1, le=1_000_000)] = 32
    """Channels at the largest size; doubled at every halving, up to four times."""
    patch: Annotated[int, Field(ge=1)] = 2
    """Pixels of a side that are read and written as one position: 1 is finest, 2 four
    times quicker.
    """
    l1: Annotated[float, Field(ge=0)] = 100.0
    """Weight of the distance to the partner, against the adversary's 1; 0 for the
    adversary alone.
    """
    loss: Literal["relativistic", "non_saturating"] = "relativistic"
    """relativistic or non_saturating, the classic one."""
    gamma: Annotated[float, Field(ge=0)] = 0.1
    """Weight of the critic's gradient penalties; 0 for none."""
    critic_width: Annotated[int, Field(ge=1, le=1_000_000)] = 32
    """Channels of the critic's first layer."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """At the smallest size."""


@dataclass(frozen=True)
class FlowConfig:
    conditional: bool = False
    """Condition on the class."""
    width: Annotated[int, Field(ge=1, le=1_000_000)] = 48
    """Channels at the largest size; doubled at every halving, up to four times."""
    patch: Annotated[int, Field(ge=1)] = 2
    """Pixels of a side that are read and written as one position: 1 is finest, 2 four
    times quicker.
    """
    prediction: Literal["x", "velocity", "epsilon"] = "x"
    """What the network says: the picture, for patches of 4 and more; the velocity, for
    small ones; or the noise, as DDPM does.
    """
    schedule: Literal["rectified", "cosine"] = "rectified"
    """rectified: straight paths from data to noise. cosine: DDPM's."""
    time_mean: float = 0.0
    """Mean of the times' logits in training: below 0 more of them are near the data."""
    class_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of pictures whose class is not told, for guidance."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """In each block; for small data."""
    sampler: Literal["heun", "euler", "dpm++ 2m", "ddim", "ddpm"] = "heun"
    """How noise is taken away, unless a request says."""
    num_inference_steps: Annotated[int, Field(ge=1, le=1000)] = 10
    """Steps of it, unless a request says."""
    guidance_scale: Annotated[float, Field(ge=0, le=100)] = 1.0
    """How closely classes are followed, unless a request says; 1 as in training."""

    def __post_init__(self) -> None:
        if self.prediction == "epsilon" and self.schedule == "rectified":
            raise BadInput(
                say(
                    "model.prediction epsilon says nothing of the picture in pure noise, where rectified begins.",
                    "rectified 调度从纯噪声开始，此时 model.prediction epsilon 无法给出图片。",
                ),
                say(
                    "Take model.schedule cosine, or prediction x or velocity.",
                    "请使用 model.schedule cosine，或把 prediction 设为 x 或 velocity。",
                ),
            )


CONFIGS = (
    GPTConfig,
    LSTMConfig,
    BERTConfig,
    Seq2SeqConfig,
    TextVAEConfig,
    VAEConfig,
    VQConfig,
    GANConfig,
    Pix2PixConfig,
    FlowConfig,
)
"""Those of all built-in families."""
