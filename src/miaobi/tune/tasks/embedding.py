"""Embeddings: texts that belong together get vectors that lie together, for search and
matching.

    L = -Σ_i log [exp(cos(u_i, v_i) / τ) / Σ_j exp(cos(u_i, v_j) / τ)]

over all v of the batch: the partners of the others, and the wrong partners where
examples name some (InfoNCE: van den Oord et al. 2018, arXiv:1807.03748; Henderson et
al. 2017, arXiv:1705.00652). A partner that is the same text as the right one does not
count against it. Evaluated by ranking all partners of the set for each text: recall at
1 and 10, and the mean of 1 / rank.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.data.text.shapes import Unusable, written_text
from miaobi.models.base import Base
from miaobi.models.weights import read_json
from miaobi.nn.graphs import Graph
from miaobi.nn.objective import Batch, Loss
from miaobi.tune.heads import EmbeddingHead as Config
from miaobi.tune.learner import (
    Evaluation,
    Example,
    Features,
    Learner,
    Metric,
    Piece,
    padded,
)
from miaobi.tune.text.graphs import text_graph
from miaobi.tune.text.heads import (
    blocks_of,
    context_length,
    ids_of,
    in_groups,
    padding_of,
    pieces_of,
    with_head,
)
from miaobi.tune.text.metrics import mean

NAME = "embedding"
SUMMARY = (
    "vectors of texts, close where they belong together",
    "文本向量：相关的文本彼此接近",
)
MODALITY = "text"
READER = "labelled/texts"
MAKES = "labels"
ASK = "--prompt ..."
EXAMPLE = (
    '{"text": "How do I get a refund?", "positive": "Refunds are made within 7 '
    'days.", "negative": "We ship on weekdays."}'
)
TEXT_COLUMNS = ("text", "anchor", "query", "question")
POSITIVE_COLUMNS = ("positive", "answer", "text_pair")
NEGATIVE_COLUMNS = ("negative", "negatives")
KINDS = ("query", "passage")
"""What is searched for, and what is found: a text, and its partners."""
PROMPTS = "config_sentence_transformers.json"
"""The file of a model's folder with the words before each kind."""
RANK_BATCH = 256
"""Texts that rank all partners at a time."""


def columns(record: Mapping[str, Any], config: Config) -> Mapping[str, Any]:
    text = _first_value(record, TEXT_COLUMNS)
    positive = _first_value(record, POSITIVE_COLUMNS)
    negatives = _first_value(record, NEGATIVE_COLUMNS)
    for name, value in (("text", text), ("positive", positive)):
        if not isinstance(value, str) or not value.strip():
            raise Unusable(say(f"no {name}.", f"缺少 {name}。"), EXAMPLE)
    if negatives is None:
        negatives = []
    elif not isinstance(negatives, list):
        negatives = [negatives]
    return {
        "text": text,
        "positive": positive,
        "negatives": [written_text(item, "negative") for item in negatives],
    }


def _first_value(record: Mapping[str, Any], names: Sequence[str]) -> Any:
    """Return the first of these columns that holds something; None if none does."""
    for name in names:
        if record.get(name) not in (None, "", []):
            return record[name]
    return None


def question(columns: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"text": columns["text"]}


def group(columns: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the partner: all texts with it stand on one side of a split."""
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
                "There is nothing to distinguish; give pairs with different partners.",
                "没有可区分的内容；请提供不同的配对。",
            ),
        )
    return {"partners": len(partners)}


def check(example: Example, spec: Mapping[str, Any], config: Config) -> None:
    """Any text will do."""


def learner(base: Base, spec: Mapping[str, Any], config: Config) -> Embedder:
    from transformers import AutoModel

    net = with_head(base, AutoModel)
    pooling = _pooling_of(base) if config.pooling == "auto" else config.pooling
    prompts = prompts_of(base.folder)
    return Embedder(net, base.tokenizer, context_length(base), config, pooling, prompts)


def prompts_of(folder: Path) -> Mapping[str, str]:
    """Return the words that a model was trained with before a text, by the text's kind.

    They stand in a file of sentence-transformers': {"query": "query: ", "passage":
    "passage: "}. Empty for a model without it.
    """
    path = folder / PROMPTS
    if not path.exists():
        return {}
    prompts = read_json(path).get("prompts") or {}
    return {kind: str(prompts[kind]) for kind in KINDS if prompts.get(kind)}


def prompted(text: str, kind: str, prompts: Mapping[str, str]) -> str:
    """Return a text with the words of its kind before it, unless it begins with some."""
    if any(text.startswith(words) for words in prompts.values()):
        return text
    return prompts.get(kind, "") + text


def _pooling_of(base: Base) -> str:
    """Return how the base's tokens become a vector."""
    if base.config.get("model_type") == "use-multilingual":
        return "pooler"
    architectures = " ".join(map(str, base.config.get("architectures") or ()))
    is_causal = "CausalLM" in architectures or "LMHead" in architectures
    return "last" if is_causal else "mean"


class Embedder(Learner):
    """A net that gives texts unit vectors.

    Rows of a batch: all texts, then all partners, then all wrong partners. Keys: ids
    and mask [rows, T]; `digest` [rows], the same for equal texts; `count`, how many
    texts there are.
    """

    adapter_kind = "FEATURE_EXTRACTION"

    def __init__(
        self,
        net: nn.Module,
        tokenizer: Any,
        max_tokens: int,
        config: Config,
        pooling: str,
        prompts: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(net)
        self.prompts = prompts or {}
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        """What the base can hold; 0 for no limit."""
        self.config = config
        self.pooling = pooling
        self.blocks = blocks_of(net)

    def length(self, columns: Mapping[str, Any]) -> int:
        return max(len(self._ids(text, 0)) for text in self._texts(columns))

    def _texts(self, columns: Mapping[str, Any]) -> list[str]:
        """Return the text, its partner and its wrong partners as the model reads them;
        of a question the text.
        """
        texts = [prompted(columns["text"], "query", self.prompts)]
        if columns.get("positive"):
            partners = [columns["positive"], *(columns.get("negatives") or ())]
            texts += [prompted(text, "passage", self.prompts) for text in partners]
        return texts

    def _ids(self, text: str, max_length: int) -> np.ndarray:
        return ids_of(self.tokenizer, text, "", max_length)

    def encode(self, columns: Mapping[str, Any], max_length: int) -> Features:
        texts = self._texts(columns)
        rows = [self._ids(text, max_length or self.max_tokens) for text in texts]
        return {
            "ids": np.concatenate(rows),
            "sizes": np.array([len(row) for row in rows]),
            "digests": np.array([_digest(text) for text in texts]),
        }

    def collate(self, features: Sequence[Features]) -> Batch:
        by_kind: list[list[tuple[np.ndarray, int]]] = [[], [], []]
        for item in features:
            rows = zip(_split_rows(item), item["digests"].tolist(), strict=True)
            for index, row_and_digest in enumerate(rows):
                by_kind[min(index, 2)].append(row_and_digest)
        rows_and_digests = [item for kind in by_kind for item in kind]
        ids = [row for row, _ in rows_and_digests]
        return {
            "ids": padded(ids, padding_of(self.tokenizer)),
            "mask": padded([np.ones(len(row)) for row in ids], 0),
            "digest": torch.tensor([digest for _, digest in rows_and_digests]),
            "count": torch.tensor(len(features)),
        }

    def vectors(self, batch: Batch) -> Tensor:
        """Return unit vectors [rows, D]."""
        return F.normalize(in_groups(self._pool, batch).float(), dim=-1)

    def graphs(self) -> Sequence[Graph]:
        """Return the encoder: ids and mask to unit vectors [B, D]."""
        return [text_graph("encoder", self._vectors, self.net, "vectors")]

    def _vectors(self, ids: Tensor, mask: Tensor) -> Tensor:
        return F.normalize(self._pool({"ids": ids, "mask": mask}).float(), dim=-1)

    def _pool(self, rows: Batch) -> Tensor:
        """Return one vector for each row, [rows, D]."""
        mask = rows["mask"]
        output = self.net(input_ids=rows["ids"], attention_mask=mask)
        if self.pooling == "pooler":
            pooled: Tensor = output.pooler_output
            return pooled
        hidden: Tensor = output.last_hidden_state
        if self.pooling == "mean":
            weights = mask[..., None].to(hidden.dtype)
            return (hidden * weights).sum(1) / weights.sum(1)
        last = mask.sum(1) - 1
        positions = torch.zeros_like(last) if self.pooling == "first" else last
        return hidden[torch.arange(len(hidden), device=hidden.device), positions]

    def _scores(
        self, texts: Tensor, others: Tensor, right: Tensor, digests: Tensor
    ) -> Tensor:
        """Return cos / τ of every text and candidate, [n, candidates].

        It is -inf where a candidate is the same text as the right one.

        Args:
            texts: Vectors [n, D].
            others: Vectors of the candidates, [candidates, D].
            right: The index of each text's right candidate, [n].
            digests: Of the candidates' texts.
        """
        candidates = torch.arange(len(digests), device=digests.device)
        is_right = candidates[None, :] == right[:, None]
        is_same = digests[None, :] == digests[right][:, None]
        scores = texts @ others.T / self.config.temperature
        return scores.masked_fill(is_same & ~is_right, -torch.inf)

    def loss(self, batch: Batch) -> Loss:
        vectors = self.vectors(batch)
        count = int(batch["count"])
        right = torch.arange(count, device=vectors.device)
        digests = batch["digest"][count:]
        scores = self._scores(vectors[:count], vectors[count:], right, digests)
        return Loss(F.cross_entropy(scores, right, reduction="sum"), count)

    def metrics(self) -> Sequence[Metric]:
        return [
            Metric("recall@1", mean, "higher", ("Recall at 1", "首位召回率")),
            Metric("recall@10", mean, "higher", ("Recall at 10", "前十召回率")),
            Metric("mrr", mean, "higher", ("Mean reciprocal rank", "平均倒数排名")),
        ]

    def evaluate(self, batch: Batch) -> list[Evaluation]:
        return self.evaluate_all([batch])

    def evaluate_all(self, batches: Iterable[Batch]) -> list[Evaluation]:
        """Return how each text ranks the partners of all batches."""
        text_parts = list[Tensor]()
        partner_parts = list[Tensor]()
        digest_parts = list[Tensor]()
        for batch in batches:
            vectors = self.vectors(batch)
            count = int(batch["count"])
            text_parts.append(vectors[:count])
            partner_parts.append(vectors[count : 2 * count])
            digest_parts.append(batch["digest"][count : 2 * count])
        texts = torch.cat(text_parts)
        partners = torch.cat(partner_parts)
        digests = torch.cat(digest_parts)
        # Equal partners of several texts are one candidate.
        _, first = np.unique(digests.cpu().numpy(), return_index=True)
        candidates = torch.from_numpy(first).to(texts.device)
        evaluations = list[Evaluation]()
        for start in range(0, len(texts), RANK_BATCH):
            end = min(start + RANK_BATCH, len(texts))
            right = torch.arange(start, end, device=texts.device)
            scores = self._scores(texts[right], partners, right, digests)
            losses = F.cross_entropy(scores, right, reduction="none")
            own = scores.gather(1, right[:, None])
            ranks = 1 + (scores[:, candidates] > own).sum(1)
            evaluations += map(_evaluation, losses.tolist(), ranks.tolist())
        return evaluations

    def answer(self, columns: Mapping[str, Any]) -> Any:
        """Return the text's unit vector."""
        with torch.no_grad():
            batch = self.batch_of({"text": columns["text"]})
            return self.vectors(batch)[0].tolist()

    def preview(self, features: Features) -> list[Piece]:
        pieces = list[Piece]()
        for index, row in enumerate(_split_rows(features)):
            if index:
                pieces.append(Piece(" ↔ " if index == 1 else " ≠ ", True))
            pieces += pieces_of(self.tokenizer, row)
        return pieces

    def save(self, folder: Path) -> None:
        self.tokenizer.save_pretrained(folder)
        settings = json.dumps({"pooling": self.pooling})
        (folder / "embedder.json").write_text(settings, encoding="utf-8")
        if self.prompts:
            prompts = json.dumps({"prompts": dict(self.prompts)})
            (folder / PROMPTS).write_text(prompts, encoding="utf-8")


def _split_rows(features: Features) -> list[np.ndarray]:
    """Return the ids of each text of an example."""
    return np.split(features["ids"], np.cumsum(features["sizes"])[:-1])


def _evaluation(loss: float, rank: int) -> Evaluation:
    counts = {
        "recall@1": np.array([float(rank <= 1), 1.0]),
        "recall@10": np.array([float(rank <= 10), 1.0]),
        "mrr": np.array([1 / rank, 1.0]),
    }
    return Evaluation(loss, counts, {"rank": rank})


def _digest(text: str) -> int:
    """Return 63 bits that distinguish texts, whatever their white space."""
    words = " ".join(text.split()).encode()
    digest = hashlib.blake2b(words, digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
