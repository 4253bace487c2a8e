"""An encoder that reads a text from both sides, in the layout of BertForPreTraining.

    x ← norm(x + W_o · attention(x)),   x ← norm(x + W_2 gelu(W_1 x))
    attention (nn/attention.py) sees every token of the text

    p(w | hidden position) = softmax(E · norm(gelu(W h)) + b),   E the embedding
    p(swapped)             = softmax(W_s tanh(W_p h_[CLS]))

    loss = mean over hidden tokens of -log p(w) + mean over rows of -log p(order)

Devlin et al. 2019 (arXiv:1810.04805). Sentence order: Lan et al. 2020
(arXiv:1909.11942); without a second task its head stays untrained. What is hidden is
the data's matter (data/text/masked.py). Words are predicted where something was hidden
and nowhere else, which saves 85 % of the largest product (Geiping & Goldstein 2022,
arXiv:2212.14034).
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from miaobi.core.artifacts import Artifact, Facts, Text
from miaobi.data.text.masked import MASK, MaskedSpec
from miaobi.families.config import BERTConfig as Config
from miaobi.nn import fills
from miaobi.nn.attention import Attention, padding_mask
from miaobi.nn.graphs import Graph, language_graph
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

NAME, MODALITY, DATA = "bert", "text", "masked"
IGNORED = -100
"""Target of a position where nothing was hidden, and order of a text without halves."""
EPSILON = 1e-12
"""Of BERT's layer normalisation."""
EMBEDDING_STD = 0.02


class Block(nn.Module):
    """x [B, T, C] -> [B, T, C]; mask [B, 1, 1, T] or None."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        size = config.hidden_size
        self.attention = Attention(size, config.heads, bias=True)
        self.attention_norm = nn.LayerNorm(size, EPSILON)
        self.up = nn.Linear(size, config.inner)
        self.down = nn.Linear(config.inner, size)
        self.norm = nn.LayerNorm(size, EPSILON)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = self.attention_norm(x + self.drop(self.attention(x, mask=mask)))
        update = self.down(F.gelu(self.up(x)))
        output: Tensor = self.norm(x + self.drop(update))
        return output


class BERT(nn.Module):
    """ids [B, T] -> logits [B, T, V]: what may stand at every position."""

    def __init__(self, config: Config, spec: MaskedSpec) -> None:
        super().__init__()
        self.config, self.spec = config, spec
        size = config.hidden_size
        self.words = nn.Embedding(spec.vocab_size, size)
        self.positions = nn.Embedding(spec.context_length, size)
        self.types = nn.Embedding(2, size)
        self.embedding_norm = nn.LayerNorm(size, EPSILON)
        self.drop = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.transform = nn.Linear(size, size)
        self.transform_norm = nn.LayerNorm(size, EPSILON)
        self.word_bias = nn.Parameter(torch.zeros(spec.vocab_size))
        self.pool = nn.Linear(size, size)
        self.order = nn.Linear(size, 2)
        initialise(self)

    def encode(
        self, ids: Tensor, lengths: Tensor | None = None, types: Tensor | None = None
    ) -> Tensor:
        """Return a vector for every token, [B, T, C].

        Args:
            ids: [B, T].
            lengths: tokens of each row, [B]; by default all are full.
            types: 1 in the second half of a text, [B, T]; by default 0.
        """
        length = ids.shape[1]
        kinds = torch.zeros_like(ids) if types is None else types
        x = self.words(ids) + self.types(kinds) + self.positions.weight[:length]
        x = self.drop(self.embedding_norm(x))
        mask = None
        if lengths is not None and int(lengths.min()) < length:
            mask = padding_mask(lengths, length)
        for block in self.blocks:
            x = block(x, mask)
        hidden: Tensor = x
        return hidden

    def predict(self, hidden: Tensor) -> Tensor:
        """Return the logits [..., V] of what stands at positions, from [..., C]."""
        h = self.transform_norm(F.gelu(self.transform(hidden)))
        logits: Tensor = F.linear(h, self.words.weight, self.word_bias)
        return logits

    def predict_order(self, hidden: Tensor) -> Tensor:
        """Return the logits [B, 2] of texts in order and not, from [B, T, C]."""
        logits: Tensor = self.order(self.pool(hidden[:, 0]).tanh())
        return logits

    def forward(self, ids: Tensor) -> Tensor:
        return self.predict(self.encode(ids))

    def graphs(self) -> list[Graph]:
        """Return the logits at every token of a text."""
        return [language_graph(self.forward, self.spec.vocab_size)]


@torch.no_grad()
def initialise(net: BERT) -> None:
    """Set matrices to a standard deviation of 1/√inputs, and to 0 where a block ends.

    Embeddings get BERT's own 0.02: what is predicted at first is every word alike.
    """
    for name, module in net.named_modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=EMBEDDING_STD)
        if isinstance(module, nn.Linear):
            zero = name.endswith(("o_proj", "down", "order"))
            std = 0.0 if zero else module.in_features**-0.5
            nn.init.normal_(module.weight, std=std)
            nn.init.zeros_(module.bias)


class MaskedLanguageModel(Objective):
    """Finds what was hidden. Batches are those of data/text/masked.py."""

    unit = "hidden tokens"

    def __init__(self, net: BERT) -> None:
        super().__init__()
        self.net = net

    def phases(self) -> list[Phase]:
        return [Phase("model", self.net, self.loss)]

    def loss(self, batch: Batch) -> Loss:
        hidden_BTC = self.net.encode(batch["ids"], batch["lengths"], batch["types"])
        targets = batch["targets"]
        chosen = targets != IGNORED
        logits_NV = self.net.predict(hidden_BTC[chosen]).float()
        words = targets[chosen]
        total = F.cross_entropy(logits_NV, words, reduction="sum")
        count = len(words)
        found = (logits_NV.argmax(-1) == words).sum()
        metrics = {"masked_accuracy": found.float()}
        order = batch["order"]
        pairs = order != IGNORED
        if self.net.spec.sentences != "none" and bool(pairs.any()):
            logits_B2 = self.net.predict_order(hidden_BTC).float()
            nats = F.cross_entropy(logits_B2, order, ignore_index=IGNORED)
            right = (logits_B2.argmax(-1) == order)[pairs].float().mean()
            # Means over rows, times the divisor that all sums here have.
            total = total + nats * count
            metrics["order_accuracy"] = right * count
        return Loss(total, count, metrics)


def build(config: Config, spec: MaskedSpec) -> MaskedLanguageModel:
    return MaskedLanguageModel(BERT(config, spec))


def banned(spec: MaskedSpec) -> list[int]:
    """Return the tokens that no mask stands for."""
    return [spec.pad_id, spec.cls_id, spec.sep_id, spec.mask_id]


def sample(
    objective: MaskedLanguageModel, dataset: Any, config: Sample
) -> list[Artifact]:
    """Return each prompt with its masks filled by what is likeliest."""
    tokenizer, spec = dataset.tokenizer, dataset.spec
    texts = list[Artifact]()
    for prompt in config.prompts or [MASK]:
        ids = [spec.cls_id]
        for number, part in enumerate(prompt.split(MASK)):
            ids += [spec.mask_id] if number else []
            ids += tokenizer.encode([part]) if part else []
        ids = [*ids[: spec.context_length - 1], spec.sep_id]
        [best] = fills.ranked(objective.net, ids, spec.mask_id, 1, banned(spec))
        texts.append(Text(tokenizer.decode(best.ids[1:-1]), Facts("")))
    return texts


LAYOUT = {
    "words": "bert.embeddings.word_embeddings",
    "positions": "bert.embeddings.position_embeddings",
    "types": "bert.embeddings.token_type_embeddings",
    "embedding_norm": "bert.embeddings.LayerNorm",
    "transform": "cls.predictions.transform.dense",
    "transform_norm": "cls.predictions.transform.LayerNorm",
    "word_bias": "cls.predictions.bias",
    "pool": "bert.pooler.dense",
    "order": "cls.seq_relationship",
    "attention.q_proj": "attention.self.query",
    "attention.k_proj": "attention.self.key",
    "attention.v_proj": "attention.self.value",
    "attention.o_proj": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "norm": "output.LayerNorm",
}
"""Names of our modules, those of a block without its number, in BertForPreTraining."""


def name_in_transformers(name: str) -> str:
    """Return what BertForPreTraining calls a parameter of ours."""
    if name in LAYOUT:
        return LAYOUT[name]
    module, _, kind = name.rpartition(".")
    if not module.startswith("blocks."):
        return f"{LAYOUT[module]}.{kind}"
    _, number, inside = module.split(".", 2)
    return f"bert.encoder.layer.{number}.{LAYOUT[inside]}.{kind}"


def save(objective: MaskedLanguageModel, folder: Path) -> None:
    """Write a Transformers folder: config.json, model.safetensors."""
    net = objective.net
    weights = {
        name_in_transformers(name): value.detach().cpu().contiguous()
        for name, value in net.state_dict().items()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    settings = json.dumps(bert_config(net.config, net.spec), indent=1)
    (folder / "config.json").write_text(settings, encoding="utf-8")


def bert_config(config: Config, spec: MaskedSpec) -> dict[str, Any]:
    """Return the config.json of this model."""
    return {
        "architectures": ["BertForPreTraining"],
        "model_type": "bert",
        "vocab_size": spec.vocab_size,
        "max_position_embeddings": spec.context_length,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.inner,
        "hidden_act": "gelu",
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": 0.0,
        "type_vocab_size": 2,
        "layer_norm_eps": EPSILON,
        "tie_word_embeddings": True,
        "pad_token_id": spec.pad_id,
        "dtype": "float32",
        "miaobi": {"model": asdict(config), "spec": asdict(spec)},
    }


def load(folder: Path) -> BERT:
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    ours = settings["miaobi"]
    config = Config(**{key.name: ours["model"][key.name] for key in fields(Config)})
    spec = MaskedSpec(
        **{key.name: ours["spec"][key.name] for key in fields(MaskedSpec)}
    )
    with torch.device("meta"):
        net = BERT(config, spec)
    weights = load_file(folder / "model.safetensors")
    state = {name: weights[name_in_transformers(name)] for name in net.state_dict()}
    net.load_state_dict(state, assign=True)
    return net.eval()
