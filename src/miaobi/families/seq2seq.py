"""The encoder–decoder of *Attention is all you need*, in the layout of MarianMTModel.

    encoder   x ← norm(x + attention(x)),                   x ← norm(x + W_2 relu(W_1 x))
    decoder   y ← norm(y + causal attention(y)),
              y ← norm(y + attention(q of y, k and v of x)), y ← norm(y + W_2 relu(W_1 y))
    p(y_t | y_<t, x) = softmax(E y_t),   E the embedding that all three share, times √C

Vaswani et al. 2017 (arXiv:1706.03762): normalisation behind each sum, label smoothing
(section 5.4), sinusoidal positions; or rotations in self-attention (Su et al. 2021,
arXiv:2104.09864). Layout: Junczys-Dowmunt et al. 2018 (arXiv:1804.00344). What each
block adds starts at zero, so that the deep sums of the untrained model stay as they are
(the idea of Zhang et al. 2019, arXiv:1901.09321).

One attention (nn/attention.py) serves all three places. Which language is wanted says
the first token of the source (data/text/pairs).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from miaobi.core.artifacts import Artifact, Facts, Text
from miaobi.data.text.pairs import PairSpec, language_token, tagged
from miaobi.families.config import Seq2SeqConfig as Config
from miaobi.nn.attention import (
    Attention,
    KeysValues,
    Rotation,
    attention_map,
    padding_mask,
    rotary,
    sinusoids,
)
from miaobi.nn.objective import Batch, Loss, Objective, Phase
from miaobi.nn.sample import TextSample as Sample

__all__ = [
    "DATA",
    "MODALITY",
    "NAME",
    "Config",
    "Sample",
    "build",
    "load",
    "sample",
    "save",
]

NAME, MODALITY, DATA = "seq2seq", "text", "pairs"
IGNORED = -100
"""Target of a position behind the end."""
ROTARY_THETA = 10000.0
EMBEDDING_STD = 0.02


class FeedForward(nn.Module):
    """x [B, T, C] -> [B, T, C], with the sum and its normalisation."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.inner)
        self.fc2 = nn.Linear(config.inner, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        update = self.fc2(F.relu(self.fc1(x)))
        output: Tensor = self.norm(x + self.drop(update))
        return output


class EncoderBlock(nn.Module):
    """x [B, S, C] -> [B, S, C]; mask [B, 1, 1, S]."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.self_attn = Attention(config.hidden_size, config.heads, bias=True)
        self.self_attn_norm = nn.LayerNorm(config.hidden_size)
        self.drop = nn.Dropout(config.dropout)
        self.feed_forward = FeedForward(config)

    def forward(self, x: Tensor, mask: Tensor, rotation: Rotation | None) -> Tensor:
        update = self.self_attn(x, mask=mask, rotation=rotation)
        x = self.self_attn_norm(x + self.drop(update))
        output: Tensor = self.feed_forward(x)
        return output


class DecoderBlock(nn.Module):
    """y [B, T, C] -> [B, T, C], given the source's keys and values of this block."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.self_attn = Attention(config.hidden_size, config.heads, bias=True)
        self.self_attn_norm = nn.LayerNorm(config.hidden_size)
        self.encoder_attn = Attention(config.hidden_size, config.heads, bias=True)
        self.encoder_attn_norm = nn.LayerNorm(config.hidden_size)
        self.drop = nn.Dropout(config.dropout)
        self.feed_forward = FeedForward(config)

    def forward(
        self,
        y: Tensor,
        own: KeysValues,
        own_mask: Tensor | None,
        source: KeysValues,
        source_mask: Tensor | None,
        rotation: Rotation | None,
    ) -> tuple[Tensor, Tensor]:
        """Return y after this block, and the queries that the source was asked.

        Args:
            y: [B, T, C].
            own: keys and values of the target so far, these positions included.
            own_mask: where they may look; None for causally, or for all by one token.
            source: keys and values of the source.
            source_mask: [B, 1, 1, S].
            rotation: of the positions of y.
        """
        q_BHTD = self.self_attn.queries(y, rotation)
        causal = own_mask is None and y.shape[1] > 1
        update = self.self_attn.mix(q_BHTD, own, mask=own_mask, causal=causal)
        y = self.self_attn_norm(y + self.drop(update))
        q_BHTD = self.encoder_attn.queries(y)
        update = self.encoder_attn.mix(q_BHTD, source, mask=source_mask)
        y = self.encoder_attn_norm(y + self.drop(update))
        return self.feed_forward(y), q_BHTD


@dataclass(frozen=True)
class Source:
    """What the decoder knows of the texts that the encoder has read."""

    keys_values: list[KeysValues]
    """For every block of the decoder."""
    mask: Tensor | None
    """[B, 1, 1, S]; None where no row has padding."""


class Decoded(NamedTuple):
    """What one pass of the decoder gives."""

    logits: Tensor
    """[B, T, V]."""
    keys_values: list[KeysValues]
    """Of each block, for all tokens so far: the `past` of the next pass."""
    queries: list[Tensor]
    """[B, heads, T, D] of each block: what it asked the source."""


class EncoderDecoder(nn.Module):
    """source [B, S], ids [B, T] -> logits [B, T, V]."""

    sinusoids: Tensor
    cos: Tensor
    sin: Tensor

    def __init__(self, config: Config, spec: PairSpec) -> None:
        super().__init__()
        self.config, self.spec = config, spec
        size = config.hidden_size
        self.shared = nn.Embedding(spec.vocab_size, size)
        blocks = range(config.num_layers)
        self.encoder = nn.ModuleList(EncoderBlock(config) for _ in blocks)
        self.decoder = nn.ModuleList(DecoderBlock(config) for _ in blocks)
        self.drop = nn.Dropout(config.dropout)
        self.add_positions()
        self.initialise()

    def add_positions(self) -> None:
        """Make the tables of positions, which are computed and not learned."""
        length = max(self.spec.source_length, self.spec.target_length)
        size = self.config.hidden_size
        cos, sin = rotary(length, size // self.config.heads, ROTARY_THETA)
        self.register_buffer("sinusoids", sinusoids(length, size), persistent=False)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    @torch.no_grad()
    def initialise(self) -> None:
        """Set matrices to a standard deviation of 1/√inputs, and to 0 where a block ends.

        Embeddings are small: what is predicted at first is every token alike.
        """
        nn.init.normal_(self.shared.weight, std=EMBEDDING_STD)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                zero = name.endswith(("o_proj", "fc2"))
                std = 0.0 if zero else module.in_features**-0.5
                nn.init.normal_(module.weight, std=std)
                nn.init.zeros_(module.bias)

    def embed(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Return [B, T, C]; positions [T] or [B, T]."""
        x = self.shared(ids) * math.sqrt(self.config.hidden_size)
        if self.config.positions == "sinusoidal":
            x = x + self.sinusoids[positions]
        embedded: Tensor = self.drop(x)
        return embedded

    def rotation(self, positions: Tensor) -> Rotation | None:
        """Return the rotation of positions [T] or [B, T], where there is one."""
        if self.config.positions == "sinusoidal":
            return None
        cos, sin = self.cos[positions], self.sin[positions]
        return (cos, sin) if positions.dim() == 1 else (cos[:, None], sin[:, None])

    def encode(self, source: Tensor, lengths: Tensor) -> Source:
        """Return what the decoder needs of sources [B, S], of `lengths` [B] tokens."""
        width = source.shape[1]
        positions = torch.arange(width, device=source.device)
        mask = padding_mask(lengths, width)
        rotation = self.rotation(positions)
        x = self.embed(source, positions)
        for block in self.encoder:
            x = block(x, mask, rotation)
        blocks = self.decoder_blocks
        keys_values = [block.encoder_attn.keys_values(x) for block in blocks]
        return Source(keys_values, mask)

    @property
    def decoder_blocks(self) -> Sequence[DecoderBlock]:
        return cast("Sequence[DecoderBlock]", self.decoder)

    def decode(
        self,
        ids: Tensor,
        source: Source,
        past: Sequence[KeysValues] = (),
        positions: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Decoded:
        """Return what comes next at every position of the targets.

        Args:
            ids: [B, T], the next tokens of the targets.
            source: what they translate.
            past: keys and values of the tokens before.
            positions: of ids, [T] or [B, T]; by default from 0.
            mask: where ids may look, [B, 1, T, S]; by default at all up to themselves.
        """
        if positions is None:
            positions = torch.arange(ids.shape[1], device=ids.device)
        rotation = self.rotation(positions)
        y = self.embed(ids, positions)
        kept = list[KeysValues]()
        queries = list[Tensor]()
        for number, block in enumerate(self.decoder_blocks):
            own = block.self_attn.keys_values(y, rotation)
            if past:
                own = joined(past[number], own)
            kept.append(own)
            of_source = source.keys_values[number]
            y, query = block(y, own, mask, of_source, source.mask, rotation)
            queries.append(query)
        return Decoded(F.linear(y, self.shared.weight), kept, queries)

    def forward(self, source: Tensor, lengths: Tensor, ids: Tensor) -> Tensor:
        return self.decode(ids, self.encode(source, lengths)).logits

    @torch.no_grad()
    def cross_attention(self, source: Tensor, lengths: Tensor, ids: Tensor) -> Tensor:
        """Return where each token of the targets looks in the sources, for pictures.

        Shapes: source [B, S], lengths [B], ids [B, T] -> [layers, B, heads, T, S].
        """
        read = self.encode(source, lengths)
        queries = self.decode(ids, read).queries
        maps = [
            attention_map(q_BHTD, keys_BHSD, read.mask)
            for q_BHTD, (keys_BHSD, _) in zip(queries, read.keys_values, strict=True)
        ]
        return torch.stack(maps)


def joined(past: KeysValues, new: KeysValues) -> KeysValues:
    """Return keys and values of the tokens before, and of these."""
    return torch.cat([past[0], new[0]], 2), torch.cat([past[1], new[1]], 2)


class Translator(Objective):
    """Learns to write targets for sources. Batches are those of data/text/pairs.

    Training smooths the targets; validation does not, so that its loss is in nats.
    """

    unit = "tokens"

    def __init__(self, net: EncoderDecoder) -> None:
        super().__init__()
        self.net = net

    def phases(self) -> list[Phase]:
        return [Phase("model", self.net, self.loss)]

    def loss(self, batch: Batch) -> Loss:
        return self._loss(batch, self.net.config.label_smoothing)

    def validate(self, batch: Batch) -> Loss:
        return self._loss(batch, 0.0)

    def _loss(self, batch: Batch, smoothing: float) -> Loss:
        logits_BTV = self.net(batch["source"], batch["source_lengths"], batch["ids"])
        targets = batch["targets"]
        chosen = targets != IGNORED
        total = F.cross_entropy(
            logits_BTV[chosen].float(),
            targets[chosen],
            reduction="sum",
            label_smoothing=smoothing,
        )
        return Loss(total, int(chosen.sum()))


def build(config: Config, spec: PairSpec) -> Translator:
    return Translator(EncoderDecoder(config, spec))


def sample(objective: Translator, dataset: Any, config: Sample) -> list[Artifact]:
    """Return what is written for each prompt, greedily; by default for held-out ones."""
    tokenizer, spec = dataset.tokenizer, dataset.spec
    texts = list[Artifact]()
    for prompt in config.prompts or []:
        language, text = tagged(prompt, spec.languages)
        source = tokenizer.encode([text])[: spec.source_length - 2]
        if language:
            tag = tokenizer.backend.token_to_id(language_token(language))
            source = [tag, *source]
        length = min(config.max_new_tokens, spec.target_length)
        answer = greedy(objective.net, [*source, spec.eos_id], length)
        texts.append(Text(f"{prompt} → {tokenizer.decode(answer)}", Facts("")))
    return texts


@torch.no_grad()
def greedy(
    net: EncoderDecoder, source: Sequence[int], max_new_tokens: int
) -> list[int]:
    """Return the likeliest token after each, until the end token.

    For samples while training; `engines/native` has beams and sampling.
    """
    device = net.shared.weight.device
    ids = torch.tensor([list(source)], device=device)
    read = net.encode(ids, torch.tensor([len(source)], device=device))
    token = net.spec.pad_id
    past = list[KeysValues]()
    answer = list[int]()
    for position in range(max_new_tokens):
        decoded = net.decode(
            torch.tensor([[token]], device=device),
            read,
            past,
            torch.tensor([position], device=device),
        )
        past = decoded.keys_values
        token = int(decoded.logits[0, -1].argmax())
        if token == net.spec.eos_id:
            break
        answer.append(token)
    return answer


def save(objective: Translator, folder: Path) -> None:
    """Write a Transformers folder: config.json, generation_config.json, model.safetensors."""
    net = objective.net
    weights = {
        name_in_transformers(name): value.detach().cpu().contiguous()
        for name, value in net.state_dict().items()
    }
    weights["final_logits_bias"] = torch.zeros(1, net.spec.vocab_size)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    ids: dict[str, Any] = {
        "pad_token_id": net.spec.pad_id,
        "eos_token_id": net.spec.eos_id,
        "decoder_start_token_id": net.spec.pad_id,
    }
    settings = marian_config(net.config, net.spec) | ids
    _write(folder / "config.json", settings)
    generation = {"max_length": net.spec.target_length, **ids}
    _write(folder / "generation_config.json", generation)


def _write(path: Path, settings: dict[str, Any]) -> None:
    text = json.dumps(settings, indent=1, ensure_ascii=False)
    path.write_text(text, encoding="utf-8")


LAYOUT = (
    ("shared.", "model.shared."),
    ("encoder.", "model.encoder.layers."),
    ("decoder.", "model.decoder.layers."),
)
"""How names of ours begin, and those of MarianMTModel."""
INSIDE = (
    (".o_proj.", ".out_proj."),
    ("attn_norm.", "attn_layer_norm."),
    (".feed_forward.norm.", ".final_layer_norm."),
    (".feed_forward.", "."),
)
"""What else is called otherwise, inside a block."""


def name_in_transformers(name: str) -> str:
    """Return what MarianMTModel calls a parameter of ours."""
    for ours, theirs in LAYOUT:
        if name.startswith(ours):
            name = theirs + name.removeprefix(ours)
            break
    for ours, theirs in INSIDE:
        name = name.replace(ours, theirs)
    return name


def marian_config(config: Config, spec: PairSpec) -> dict[str, Any]:
    """Return the config.json of this model; with rotations Transformers has no such model."""
    is_marian = config.positions == "sinusoidal"
    sizes = {
        f"{side}_{name}": value
        for side in ("encoder", "decoder")
        for name, value in (
            ("layers", config.num_layers),
            ("attention_heads", config.heads),
            ("ffn_dim", config.inner),
        )
    }
    return {
        "architectures": ["MarianMTModel"] if is_marian else [],
        "model_type": "marian" if is_marian else "miaobi_seq2seq",
        "is_encoder_decoder": True,
        "vocab_size": spec.vocab_size,
        "decoder_vocab_size": spec.vocab_size,
        "d_model": config.hidden_size,
        **sizes,
        "max_position_embeddings": max(spec.source_length, spec.target_length),
        "activation_function": "relu",
        "dropout": config.dropout,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "scale_embedding": True,
        "share_encoder_decoder_embeddings": True,
        "tie_word_embeddings": True,
        "forced_eos_token_id": None,
        "dtype": "float32",
        "miaobi": {"model": asdict(config), "spec": asdict(spec)},
    }


def load(folder: Path) -> EncoderDecoder:
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    ours = settings["miaobi"]
    config = Config(**{key.name: ours["model"][key.name] for key in fields(Config)})
    values = {key.name: ours["spec"][key.name] for key in fields(PairSpec)}
    spec = PairSpec(**{**values, "languages": tuple(values["languages"])})
    with torch.device("meta"):
        net = EncoderDecoder(config, spec)
    weights = load_file(folder / "model.safetensors")
    state = {name: weights[name_in_transformers(name)] for name in net.state_dict()}
    net.load_state_dict(state, assign=True)
    net.add_positions()
    return net.eval()
