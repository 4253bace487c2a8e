"""Embeddings: texts that belong together get vectors that lie together, for search and matching.

    L = -Σ_i log [exp(cos(u_i, v_i) / τ) / Σ_j exp(cos(u_i, v_j) / τ)]
over all v of the batch: the partners of the others, and the wrong partners where
    examples name some (InfoNCE: van den Oord et al. 2018, arXiv:1807.03748; Henderson
    et al. 2017, arXiv:1705.00652). A partner that is the same text as the right one is
    not held against it. Judged by ranking all partners of the set for each text: recall
    at 1 and 10, and the mean of 1 / rank.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.data.text.shapes import Unusable
from miaobi.models.base import Base
from miaobi.nn.objective import Batch, Loss
from miaobi.tune.learner import (
    Evaluation,
    Example,
    Features,
    Learner,
    Metric,
    Piece,
    padded,
)
from miaobi.tune.text.heads import (
    blocks_of,
    context_length,
    ids_of,
    in_groups,
    padding_of,
    pieces_of,
    with_head,
)

NAME = "embedding"
SUMMARY = (
    "vectors of texts, close where they belong together",
    "文本向量：相关的文本彼此接近",
)
MODALITY, READER, MAKES = "text", "texts", "labels"
EXAMPLE = (
    '{"text": "How do I get a refund?", "positive": "Refunds are made within 7 '
    'days.", "negative": "We ship on weekdays."}'
)
AS = {
    "text": ("text", "anchor", "query", "question"),
    "positive": ("positive", "answer", "text_pair"),
    "negative": ("negative", "negatives"),
}
"""What people call the columns."""


@dataclass(frozen=True)
class Config:
    temperature: float = 0.05
    """Of the softmax over cosines."""
    pooling: Literal["auto", "mean", "first", "last", "pooler"] = "auto"
    """How tokens become a vector; auto: the base's own pooling for use-multilingual,
    the last token for causal models, the mean for others.
    """

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise BadInput(
                say(
                    f"head.temperature is {self.temperature}.",
                    f"head.temperature 为 {self.temperature}。",
                ),
                say("It must be above 0.", "必须大于 0。"),
            )


def columns(record: Mapping[str, Any], config: Config) -> Mapping[str, Any]:
    found = {
        ours: next(
            (record[key] for key in names if record.get(key) not in (None, "", [])),
            None,
        )
        for ours, names in AS.items()
    }
    for key in ("text", "positive"):
        if not isinstance(found[key], str) or not found[key].strip():
            raise Unusable(say(f"no {key}.", f"缺少 {key}。"), EXAMPLE)
    negatives = (
        found["negative"]
        if isinstance(found["negative"], list)
        else [found["negative"]]
        if found["negative"] is not None
        else []
    )
    return {
        "text": found["text"],
        "positive": found["positive"],
        "negatives": [str(item) for item in negatives],
    }


def question(columns: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"text": columns["text"]}


def group(columns: Mapping[str, Any]) -> Mapping[str, Any]:
    """All texts with the same partner stand on one side of a split."""
    return {"positive": columns["positive"]}


def survey(examples: Sequence[Example], config: Config) -> Mapping[str, Any]:
    partners = {example.columns["positive"] for example in examples}
    if len(partners) < 2:
        raise BadInput(
            say(
                f"Every text has the same partner: {next(iter(partners))!r:.60}.",
                f"所有文本的配对都相同：{next(iter(partners))!r:.60}。",
            ),
            say(
                "There is nothing to tell apart; give pairs with different partners.",
                "没有可区分的内容；请提供不同的配对。",
            ),
        )
    return {"partners": len(partners)}


def check(example: Example, spec: Mapping[str, Any], config: Config) -> None:
    """Any text will do."""


def learner(base: Base, spec: Mapping[str, Any], config: Config) -> Embedder:
    from transformers import AutoModel

    net = with_head(base, AutoModel)
    causal = any(
        "CausalLM" in str(kind) or "LMHead" in str(kind)
        for kind in base.config.get("architectures") or ()
    )
    pooling = (
        "pooler"
        if base.config.get("model_type") == "use-multilingual"
        else "last"
        if causal
        else "mean"
    )
    return Embedder(
        net,
        base.tokenizer,
        context_length(base),
        config,
        pooling if config.pooling == "auto" else config.pooling,
    )


class Embedder(Learner):
    adapter_kind = "FEATURE_EXTRACTION"

    def __init__(
        self, net: nn.Module, tokenizer: Any, room: int, config: Config, pooling: str
    ) -> None:
        super().__init__(net)
        self.tokenizer, self.room, self.config, self.pooling, self.blocks = (
            tokenizer,
            room,
            config,
            pooling,
            blocks_of(net),
        )

    def length(self, columns: Mapping[str, Any]) -> int:
        texts = (
            columns["text"],
            columns.get("positive") or "",
            *(columns.get("negatives") or ()),
        )
        return max(len(ids_of(self.tokenizer, text, "", 0)) for text in texts)

    def encode(self, columns: Mapping[str, Any], max_length: int) -> Features:
        texts = [
            columns["text"],
            *(
                [columns["positive"], *(columns.get("negatives") or ())]
                if columns.get("positive")
                else ()
            ),
        ]
        rows = [
            ids_of(self.tokenizer, text, "", max_length or self.room) for text in texts
        ]
        return {
            "ids": np.concatenate(rows),
            "sizes": np.array([len(row) for row in rows]),
            "digests": np.array([_digest(text) for text in texts]),
        }

    def collate(self, features: Sequence[Features]) -> Batch:
        """Rows: all texts, then all partners, then all wrong partners. `digest` of a
        row tells equal texts.
        """
        texts = [
            (order, row, digest)
            for item in features
            for order, (row, digest) in enumerate(
                zip(
                    np.split(item["ids"], np.cumsum(item["sizes"])[:-1]),
                    item["digests"],
                )
            )
        ]
        texts = [
            item for kind in (0, 1, 2) for item in texts if min(item[0], 2) == kind
        ]
        rows = [row for _, row, _ in texts]
        return {
            "ids": padded(rows, padding_of(self.tokenizer)),
            "mask": padded([np.ones(len(row)) for row in rows], 0),
            "digest": torch.tensor([int(digest) for *_, digest in texts]),
            "count": torch.tensor(len(features)),
        }

    def vectors(self, batch: Batch) -> Tensor:
        """Unit vectors [rows, D]."""
        return F.normalize(in_groups(self._pooled, batch).float(), dim=-1)

    def _pooled(self, rows: Batch) -> Tensor:
        found = self.net(input_ids=rows["ids"], attention_mask=rows["mask"])
        if self.pooling == "pooler":
            pooled: Tensor = found.pooler_output
            return pooled
        hidden, mask = found.last_hidden_state, rows["mask"]
        if self.pooling == "mean":
            weights = mask[..., None].to(hidden.dtype)
            return (hidden * weights).sum(1) / weights.sum(1)
        place = (
            torch.zeros_like(mask[:, 0]) if self.pooling == "first" else mask.sum(1) - 1
        )
        return hidden[torch.arange(len(hidden), device=hidden.device), place]

    def _scores(
        self, texts: Tensor, others: Tensor, right: Tensor, digests: Tensor
    ) -> Tensor:
        """cos / τ [n, candidates], -inf where a candidate is the same text as the right
        one. right [n]: the right ones' places.
        """
        own = (
            torch.arange(len(digests), device=digests.device)[None, :] == right[:, None]
        )
        same = digests[None, :] == digests[right][:, None]
        return (texts @ others.T / self.config.temperature).masked_fill(
            same & ~own, -torch.inf
        )

    def loss(self, batch: Batch) -> Loss:
        vectors, count = self.vectors(batch), int(batch["count"])
        right = torch.arange(count, device=vectors.device)
        scores = self._scores(
            vectors[:count], vectors[count:], right, batch["digest"][count:]
        )
        return Loss(F.cross_entropy(scores, right, reduction="sum"), count)

    def metrics(self) -> Sequence[Metric]:
        def mean(counts: np.ndarray) -> np.ndarray:
            return counts[..., 0] / counts[..., 1]

        return [
            Metric("recall@1", mean, "higher", ("Recall at 1", "首位召回率")),
            Metric("recall@10", mean, "higher", ("Recall at 10", "前十召回率")),
            Metric("mrr", mean, "higher", ("Mean reciprocal rank", "平均倒数排名")),
        ]

    def evaluate(self, batch: Batch) -> list[Evaluation]:
        return self.evaluate_all([batch])

    def evaluate_all(self, batches: Iterable[Batch]) -> list[Evaluation]:
        """Each text ranks the partners of all batches."""
        texts, others, digests = list[Tensor](), list[Tensor](), list[Tensor]()
        for batch in batches:
            vectors, count = self.vectors(batch), int(batch["count"])
            texts.append(vectors[:count])
            others.append(vectors[count : 2 * count])
            digests.append(batch["digest"][count : 2 * count])
        whole, partners, names = torch.cat(texts), torch.cat(others), torch.cat(digests)
        found = list[Evaluation]()
        for start in range(0, len(whole), 256):
            right = torch.arange(
                start, min(start + 256, len(whole)), device=whole.device
            )
            scores = self._scores(whole[right], partners, right, names)
            losses, own = (
                F.cross_entropy(scores, right, reduction="none").tolist(),
                scores.gather(1, right[:, None]),
            )
            # Equal partners of several texts are one candidate.
            first = torch.from_numpy(
                np.unique(names.cpu().numpy(), return_index=True)[1]
            ).to(whole.device)
            ranks = 1 + (scores[:, first] > own).sum(1)
            for loss, rank in zip(losses, ranks.tolist()):
                counts = {
                    "recall@1": np.array([float(rank <= 1), 1.0]),
                    "recall@10": np.array([float(rank <= 10), 1.0]),
                    "mrr": np.array([1 / rank, 1.0]),
                }
                found.append(Evaluation(loss, counts, {"rank": rank}))
        return found

    def answer(self, columns: Mapping[str, Any]) -> Any:
        """The text's unit vector."""
        with torch.no_grad():
            return self.vectors(
                self.collate([self.encode({"text": columns["text"]}, 0)])
            )[0].tolist()

    def preview(self, features: Features) -> list[Piece]:
        rows = np.split(features["ids"], np.cumsum(features["sizes"])[:-1])
        marks = ("", " ↔ ", *(" ≠ " for _ in rows[2:]))
        return [
            piece
            for mark, row in zip(marks, rows)
            for piece in (
                *([Piece(mark, True)] if mark else ()),
                *pieces_of(self.tokenizer, row),
            )
        ]

    def save(self, folder: Path) -> None:
        self.tokenizer.save_pretrained(folder)
        (folder / "embedder.json").write_text(
            json.dumps({"pooling": self.pooling}), encoding="utf-8"
        )


def _digest(text: str) -> int:
    """63 bits that tell texts apart."""
    return (
        int.from_bytes(
            hashlib.blake2b(" ".join(text.split()).encode(), digest_size=8).digest(),
            "big",
        )
        >> 1
    )
