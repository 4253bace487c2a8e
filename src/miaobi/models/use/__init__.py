"""The multilingual Universal Sentence Encoder: texts of 16 languages as vectors, small
enough to be tuned whole on a laptop.

    e = table[id] + U c[id]                            c is 0 before tuning
    [x_2; x_3; x_5] = LN(W e + b)                      one branch for each n-gram order n of 2, 3, 5
    h_n = x_n + relu(C_n x_n)    g_n = h_n + relu(D_n h_n)      convolutions over n neighbours
    f = LN([e; g_2; g_3; g_5])                         a vector for each token
    s = Σ_t (P f_t + p) / √T                           then a small feed-forward net with skips, tanh

Yang et al. 2019, arXiv:1907.04307 (the convolutional encoder), with embeddings of
SentencePiece tokens. A token sees four neighbours to each side.

The table is 19 times as large as all the rest, so it is not trained. What tuning learns
about a token goes into c, `correction_size` numbers for each (a low-rank update, as
LoRA's); an optimiser's step takes a tenth of the time.

It is a Transformers model, so that adapters, heads and saved folders are those of any
other. The weights are Google's, from the pack `use-multilingual`; its embeddings have
eight bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import (
    BaseModelOutputWithPooling,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.utils import logging

from miaobi.data.text.tokenizer.sentencepiece import transformers_tokenizer

LANGUAGES: Sequence[str] = ()
"""Those that the vocabulary may be pruned to: none."""
BRANCHES = ((2, 0), (3, 1), (5, 2))
"""(tokens in a window, how many of them are before the token)."""
CHUNKS = 17
"""Blocks of the packed table, each with its own scale; row i is in block i mod CHUNKS."""


class UseConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]
    """Sizes of the encoder and its heads."""

    model_type = "use-multilingual"

    def __init__(
        self,
        vocab_size: int = 128010,
        hidden_size: int = 512,
        branch_size: int = 256,
        inner_size: int = 320,
        correction_size: int = 16,
        layer_norm_eps: float = 1e-12,
        classifier_dropout: float = 0.1,
        pad_token_id: int = 2,
        **others: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.branch_size = branch_size
        self.inner_size = inner_size
        self.correction_size = correction_size
        self.layer_norm_eps = layer_norm_eps
        self.classifier_dropout = classifier_dropout
        self.pad_token_id = pad_token_id
        super().__init__(**others)

    @property
    def token_size(self) -> int:
        """Width of a token's vector."""
        return self.hidden_size + len(BRANCHES) * self.branch_size


class Branch(nn.Module):
    """Two convolutions over windows of tokens, with skips.

    Shapes: x [B, T, D], zero where there is no token; mask [B, T, 1] -> [B, T, D].

    Args:
        config: sizes.
        window: tokens in a window.
        before: how many of them are before the token.
    """

    def __init__(self, config: UseConfig, window: int, before: int) -> None:
        super().__init__()
        self.window = window
        self.before = before
        self.first = nn.Linear(window * config.branch_size, config.branch_size)
        self.second = nn.Linear(window * config.branch_size, config.branch_size)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        update = F.relu(self.first(self._windows(x)))
        hidden = (x + update) * mask
        return hidden + F.relu(self.second(self._windows(hidden)))

    def _windows(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, window * D], neighbours side by side."""
        length = x.shape[1]
        after = self.window - 1 - self.before
        padded = F.pad(x, (0, 0, self.before, after))
        shifted = [padded[:, offset : offset + length] for offset in range(self.window)]
        return torch.cat(shifted, dim=-1)


class Table(nn.Module):
    """An embedding in eight bits: ids [...] -> [..., D].

    Row i is weight[i] scale[i mod 17] + low[i mod 17]. All are buffers, so that no
    optimiser moves them.
    """

    weight: Tensor
    scale: Tensor
    low: Tensor

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(rows, width, dtype=torch.uint8))
        self.register_buffer("scale", torch.ones(CHUNKS))
        self.register_buffer("low", torch.zeros(CHUNKS))

    def forward(self, ids: Tensor) -> Tensor:
        chunk = ids % CHUNKS
        scale = self.scale[chunk][..., None]
        low = self.low[chunk][..., None]
        return self.weight[ids].to(self.scale.dtype) * scale + low


class UsePreTrainedModel(PreTrainedModel):  # type: ignore[no-untyped-call]
    """How new weights of the encoder and of its heads are initialised."""

    config_class = UseConfig
    base_model_prefix = "encoder"

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, Table):
            module.weight.random_(0, 256)
            nn.init.constant_(module.scale, 1 / 128)
            nn.init.constant_(module.low, -1.0)
        elif isinstance(module, nn.Embedding):
            nn.init.zeros_(module.weight)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


class UseModel(UsePreTrainedModel):
    """The encoder.

    Shapes: ids [B, T], mask [B, T] -> last_hidden_state [B, T, token_size]; pooler_output
    [B, hidden_size] in (-1, 1), whose unit vector is the sentence's embedding.
    """

    def __init__(self, config: UseConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        inner = config.inner_size
        branches_size = len(BRANCHES) * config.branch_size
        self.embeddings = Table(config.vocab_size, width)
        self.corrections = nn.Embedding(config.vocab_size, config.correction_size)
        self.spread = nn.Linear(config.correction_size, width, bias=False)
        self.project = nn.Linear(width, branches_size)
        self.project_norm = nn.LayerNorm(branches_size, eps=config.layer_norm_eps)
        self.branches = nn.ModuleList(Branch(config, *shape) for shape in BRANCHES)
        self.norm = nn.LayerNorm(config.token_size, eps=config.layer_norm_eps)
        self.summary = nn.Linear(config.token_size, width)
        self.first = nn.Linear(width, inner, bias=False)
        self.first_skip = nn.Linear(width, inner, bias=False)
        self.second = nn.Linear(inner, inner, bias=False)
        self.third = nn.Linear(inner, width, bias=False)
        self.third_skip = nn.Linear(inner, width, bias=False)
        self.fourth = nn.Linear(width, width, bias=False)
        self.post_init()  # type: ignore[no-untyped-call]

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        assert isinstance(value, Table)
        self.embeddings = value

    def embedded(self, ids: Tensor) -> Tensor:
        """Return the corrected embeddings e of ids [B, T]: [B, T, hidden_size]."""
        e: Tensor = self.embeddings(ids) + self.spread(self.corrections(ids))
        return e

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **others: Any,
    ) -> BaseModelOutputWithPooling:
        if inputs_embeds is None:
            assert input_ids is not None
            inputs_embeds = self.embedded(input_ids)
        mask = token_mask(inputs_embeds, attention_mask)
        projected = self.project_norm(self.project(inputs_embeds)) * mask
        ngrams = [
            branch(x, mask)
            for branch, x in zip(
                self.branches, projected.chunk(len(BRANCHES), dim=-1), strict=True
            )
        ]
        tokens = self.norm(torch.cat([inputs_embeds, *ngrams], dim=-1))
        sentence = self._summarise(tokens, mask)
        hidden = self.second(F.relu(self.first(sentence)))
        inner = F.relu(self.first_skip(sentence) + hidden)
        hidden = self.fourth(F.relu(self.third(inner)))
        pooled = torch.tanh(self.third_skip(inner) + hidden)
        return BaseModelOutputWithPooling(
            last_hidden_state=tokens,
            pooler_output=pooled,
        )

    def _summarise(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return s [B, hidden_size].

        A sum of projections is the projection of the sum: one row for each text instead
        of one for each token.
        """
        count = mask.sum(1)
        total = F.linear((tokens * mask).sum(1), self.summary.weight)
        return (total + count * self.summary.bias) * count.rsqrt()


def token_mask(features: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Return the mask as numbers of the features' dtype, [B, T, 1]; 1 where it is None.

    Shapes: features [B, T, D]; attention_mask [B, T].
    """
    if attention_mask is None:
        return features.new_ones(*features.shape[:2], 1)
    return attention_mask.to(features.dtype)[..., None]


class UseForSequenceClassification(UsePreTrainedModel):
    """logits = W [mean_t f_t; z] + b, with z the pooler_output: [B, labels]."""

    def __init__(self, config: UseConfig) -> None:
        super().__init__(config)
        self.encoder = UseModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.score = nn.Linear(
            config.token_size + config.hidden_size, label_count(config)
        )
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **others: Any,
    ) -> SequenceClassifierOutput:
        encoded = self.encoder(input_ids, attention_mask, inputs_embeds)
        tokens = encoded.last_hidden_state
        mask = token_mask(tokens, attention_mask)
        mean = (tokens * mask).sum(1) / mask.sum(1)
        features = torch.cat([mean, encoded.pooler_output], dim=-1)
        return SequenceClassifierOutput(logits=self.score(self.dropout(features)))


class UseForTokenClassification(UsePreTrainedModel):
    """logits_t = W f_t + b: [B, T, labels]."""

    def __init__(self, config: UseConfig) -> None:
        super().__init__(config)
        self.encoder = UseModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.score = nn.Linear(config.token_size, label_count(config))
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **others: Any,
    ) -> TokenClassifierOutput:
        encoded = self.encoder(input_ids, attention_mask, inputs_embeds)
        tokens = self.dropout(encoded.last_hidden_state)
        return TokenClassifierOutput(logits=self.score(tokens))


def label_count(config: UseConfig) -> int:
    """Return how many labels a head has."""
    count: int | None = config.num_labels
    assert count is not None
    return count


AutoConfig.register(UseConfig.model_type, UseConfig)
AutoModel.register(UseConfig, UseModel)
AutoModelForSequenceClassification.register(UseConfig, UseForSequenceClassification)
AutoModelForTokenClassification.register(UseConfig, UseForTokenClassification)


def convert(source: Path, target: Path, languages: Sequence[str] = ()) -> None:
    """Write the packaged weights and tokenizer as a Transformers folder.

    Args:
        source: the package's folder of resources.
        target: the folder.
        languages: none; the vocabulary is that of all.
    """
    assert not languages
    with np.load(source / "weights.npz", allow_pickle=False) as stored:
        arrays = dict(stored)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = UseModel(UseConfig(layer_norm_eps=float(arrays["eps"])))
    model.load_state_dict(state(arrays), strict=False)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    model.save_pretrained(target)
    transformers_tokenizer(source / "sp.model").save_pretrained(target)


def state(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """Return the package's arrays as a state dict of UseModel."""
    rows, width = arrays["q1"].shape
    table = np.empty((CHUNKS * rows, width), dtype=np.uint8)
    for chunk in range(CHUNKS):
        table[chunk::CHUNKS] = arrays[f"q{chunk + 1}"]
    floats = {
        "embeddings.scale": arrays["scale"],
        "embeddings.low": arrays["lo"],
        "norm.weight": arrays["ln_g"],
        "norm.bias": arrays["ln_b"],
        "summary.weight": arrays["cnn_W"].T,
        "summary.bias": arrays["cnn_b"],
        "first.weight": arrays["d0"].T,
        "first_skip.weight": arrays["p1"].T,
        "second.weight": arrays["d1"].T,
        "third.weight": arrays["d2"].T,
        "third_skip.weight": arrays["p3"].T,
        "fourth.weight": arrays["d3"].T,
    }
    for name, prefix in (
        ("project.weight", "proj"),
        ("project.bias", "proj_b"),
        ("project_norm.weight", "ln_g"),
        ("project_norm.bias", "ln_b"),
    ):
        parts = [arrays[f"{prefix}{window}"].T for window, _ in BRANCHES]
        floats[name] = np.concatenate(parts)
    for branch, (window, _) in enumerate(BRANCHES):
        for layer, number in (("first", 1), ("second", 2)):
            name = f"branches.{branch}.{layer}"
            floats[f"{name}.weight"] = arrays[f"w{number}_{window}"].T
            floats[f"{name}.bias"] = arrays[f"b{number}_{window}"]
    tensors = {"embeddings.weight": torch.from_numpy(table)}
    for name, array in floats.items():
        contiguous = np.ascontiguousarray(array, dtype=np.float32)
        tensors[name] = torch.from_numpy(contiguous)
    return tensors
