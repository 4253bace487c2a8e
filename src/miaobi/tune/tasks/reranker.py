"""Reranking: how relevant a passage is to a query, by a net that reads both at once.

    L = -Σ_i [r_i log σ(z_i) + (1 - r_i) log(1 - σ(z_i))],   z = w · h(query, passage)

over all pairs, with the relevance r in [0, 1] (a cross-encoder: Nogueira and Cho 2019,
arXiv:1901.04085). Evaluated by ranking each query's passages: the mean of 1 / rank of the
first relevant one, and nDCG over the first ten (Järvelin and Kekäläinen 2002).

A record is a query with lists of its passages, or a query, one passage and its relevance;
then the records of one query are ranked together.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.data.text.shapes import Record, Unusable, written_text
from miaobi.models.base import Base
from miaobi.nn.graphs import Graph
from miaobi.nn.objective import Batch, Loss
from miaobi.tune.heads import RerankerHead as Config
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
    fresh_of,
    ids_of,
    in_groups,
    padding_of,
    pieces_of,
    with_head,
)

NAME = "reranker"
SUMMARY = (
    "how relevant passages are to a query, for the order of search results",
    "判断段落与查询的相关程度，用于检索结果重排",
)
MODALITY = "text"
READER = "labelled/texts"
MAKES = "labels"
ASK = """--prompt '{"query": "...", "passages": ["...", "..."]}'"""
EXAMPLE = (
    '{"query": "How do I get a refund?", "positive": ["Refunds are made within 7 '
    'days."], "negative": ["We ship on weekdays."]}'
)
PAIR = '{"query": "...", "passage": "...", "relevance": 1}'
QUERY_COLUMNS = ("query", "question")
PASSAGE_COLUMNS = ("passage", "document", "doc")
RELEVANCE_COLUMNS = ("relevance", "score", "label")
POSITIVE_COLUMNS = ("positive", "positives", "pos")
NEGATIVE_COLUMNS = ("negative", "negatives", "neg")
RELEVANCE_NAMES = {"true": 1.0, "yes": 1.0, "relevant": 1.0, "false": 0.0, "no": 0.0}
"""Relevance in words; the rest are numbers."""
CUTOFF = 10
"""Passages that nDCG looks at."""


def columns(record: Mapping[str, Any], config: Config) -> Mapping[str, Any]:
    record = Record.of(record)
    query = _one_text(record, QUERY_COLUMNS, "query")
    if record.first(PASSAGE_COLUMNS):
        passages = [_one_text(record, PASSAGE_COLUMNS, "passage")]
        relevance = [_relevance(record)]
    else:
        positives = _texts(record, POSITIVE_COLUMNS)
        negatives = _texts(record, NEGATIVE_COLUMNS)
        if not positives:
            raise Unusable(
                say("no relevant passage.", "缺少相关段落。"),
                EXAMPLE,
            )
        passages = [*positives, *negatives]
        relevance = [1.0] * len(positives) + [0.0] * len(negatives)
    return {"query": query, "passages": passages, "relevance": relevance}


def _one_text(record: Record, names: Sequence[str], name: str) -> str:
    column = record.first(names)
    text = written_text(record[column], column) if column else ""
    if not text.strip():
        raise Unusable(say(f"no {name}.", f"缺少 {name}。"), f"{EXAMPLE}\n{PAIR}")
    return text


def _texts(record: Record, names: Sequence[str]) -> list[str]:
    column = record.first(names)
    if not column:
        return []
    value = record[column]
    values = value if isinstance(value, list) else [value]
    return [written_text(item, column) for item in values]


def _relevance(record: Record) -> float:
    """Return a passage's relevance, 0 or greater. Raises Unusable."""
    column = record.first(RELEVANCE_COLUMNS)
    value: Any = record[column] if column else None
    if isinstance(value, str):
        value = RELEVANCE_NAMES.get(value.strip().lower(), value)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise Unusable(
            say(
                f"relevance is {value!r}, not a number from 0 on.",
                f"relevance 为 {value!r}，不是非负数值。",
            ),
            PAIR,
        )
    return number


def question(columns: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"query": columns["query"], "passages": columns["passages"]}


def group(columns: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the query: all its passages stand on one side of a split."""
    return {"query": columns["query"]}


def survey(examples: Sequence[Example], config: Config) -> Mapping[str, Any]:
    by_query = defaultdict[str, set[float]](set)
    for example in examples:
        by_query[example.columns["query"]] |= set(example.columns["relevance"])
    if all(len(values) < 2 for values in by_query.values()):
        raise BadInput(
            say(
                "No query has passages of different relevance: there is nothing to rank.",
                "没有一个查询带有相关程度不同的段落：无从排序。",
            ),
            say(
                f"Give each query relevant and irrelevant passages: {EXAMPLE}",
                f"请为每个查询同时给出相关与不相关的段落：{EXAMPLE}",
            ),
        )
    return {
        "queries": len(by_query),
        "largest": max(max(values) for values in by_query.values()),
    }


def check(example: Example, spec: Mapping[str, Any], config: Config) -> None:
    """Any passage will do."""


def learner(base: Base, spec: Mapping[str, Any], config: Config) -> Reranker:
    from transformers import AutoModelForSequenceClassification

    net = with_head(
        base, AutoModelForSequenceClassification, config.dropout, num_labels=1
    )
    return Reranker(net, base.tokenizer, context_length(base), spec)


class Reranker(Learner):
    """A net that gives a query and a passage one number, the logit of the relevance.

    Rows of a batch are pairs, those of an example together. Keys: ids and mask [rows,
    T]; relevance [rows] as it was written, NaN where it is not known; query [rows], the
    same number for equal queries; sizes [examples], rows of each.
    """

    adapter_kind = "SEQ_CLS"

    def __init__(
        self,
        net: nn.Module,
        tokenizer: Any,
        max_tokens: int,
        spec: Mapping[str, Any],
    ) -> None:
        super().__init__(net)
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        """What the base can hold; 0 for no limit."""
        self.largest = float(spec["largest"])
        """The relevance that counts as 1."""
        self.fresh = fresh_of(net)
        self.blocks = blocks_of(net)

    def _rows(self, columns: Mapping[str, Any], max_length: int) -> list[np.ndarray]:
        query = columns["query"]
        return [
            ids_of(self.tokenizer, query, passage, max_length)
            for passage in columns["passages"]
        ]

    def length(self, columns: Mapping[str, Any]) -> int:
        return max(map(len, self._rows(columns, 0)))

    def encode(self, columns: Mapping[str, Any], max_length: int) -> Features:
        rows = self._rows(columns, max_length or self.max_tokens)
        unknown = [math.nan] * len(rows)
        relevance = columns.get("relevance") or unknown
        return {
            "ids": np.concatenate(rows),
            "sizes": np.array([len(row) for row in rows]),
            "relevance": np.array(relevance, dtype=np.float32),
            "query": np.array(_digest(columns["query"])),
        }

    def collate(self, features: Sequence[Features]) -> Batch:
        rows = [row for item in features for row in _split_rows(item)]
        sizes = [len(item["sizes"]) for item in features]
        queries = np.repeat([int(item["query"]) for item in features], sizes)
        relevance = np.concatenate([item["relevance"] for item in features])
        return {
            "ids": padded(rows, padding_of(self.tokenizer)),
            "mask": padded([np.ones(len(row)) for row in rows], 0),
            "relevance": torch.from_numpy(relevance),
            "query": torch.from_numpy(queries),
            "sizes": torch.tensor(sizes),
        }

    def logits(self, batch: Batch) -> Tensor:
        """Return z of each pair, [rows]."""
        rows = {"ids": batch["ids"], "mask": batch["mask"]}
        return in_groups(
            lambda group: self._logits(group["ids"], group["mask"]), rows
        ).float()

    def _logits(self, ids: Tensor, mask: Tensor) -> Tensor:
        logits: Tensor = self.net(input_ids=ids, attention_mask=mask).logits
        return logits[:, 0]

    def graphs(self) -> Sequence[Graph]:
        """Return the reranker: ids and mask of pairs to logits [B]."""
        return [text_graph("reranker", self._logits, self.net, "logits")]

    def _losses(self, logits: Tensor, relevance: Tensor) -> Tensor:
        """Return the loss of each pair, [rows]."""
        target = (relevance / self.largest).clamp(max=1)
        return F.binary_cross_entropy_with_logits(logits, target, reduction="none")

    def loss(self, batch: Batch) -> Loss:
        losses = self._losses(self.logits(batch), batch["relevance"])
        return Loss(losses.sum(), len(losses))

    def metrics(self) -> Sequence[Metric]:
        label = (f"nDCG over the first {CUTOFF}", f"前 {CUTOFF} 名 nDCG")
        return [
            Metric("ndcg@10", _mean, "higher", label),
            Metric("mrr", _mean, "higher", ("Mean reciprocal rank", "平均倒数排名")),
        ]

    def evaluate(self, batch: Batch) -> list[Evaluation]:
        return self.evaluate_all([batch])

    def evaluate_all(self, batches: Iterable[Batch]) -> list[Evaluation]:
        """Return how each query's passages are ranked, over the examples of all batches.

        What a query adds to the sums stands with the first of its examples.
        """
        scores = list[np.ndarray]()
        relevance = list[np.ndarray]()
        losses = list[float]()
        of_query = defaultdict[int, list[int]](list)
        for batch in batches:
            logits = self.logits(batch)
            pair_losses = self._losses(logits, batch["relevance"])
            sizes = batch["sizes"].tolist()
            examples = zip(
                torch.split(logits, sizes),
                torch.split(batch["relevance"], sizes),
                torch.split(pair_losses, sizes),
                torch.split(batch["query"], sizes),
                strict=True,
            )
            for own_logits, own_relevance, own_losses, query in examples:
                of_query[int(query[0])].append(len(losses))
                scores.append(own_logits.cpu().numpy())
                relevance.append(own_relevance.cpu().numpy())
                losses.append(float(own_losses.mean()))
        counts = [_nothing() for _ in losses]
        for members in of_query.values():
            counts[members[0]] = ranking(
                np.concatenate([scores[member] for member in members]),
                np.concatenate([relevance[member] for member in members]),
            )
        return [
            Evaluation(loss, count, _rounded(score))
            for loss, count, score in zip(losses, counts, scores, strict=True)
        ]

    def answer(self, columns: Mapping[str, Any]) -> Any:
        """Return {"scores", "order"}: the relevance of each passage in [0, 1], and their
        indices, the most relevant first.
        """
        with torch.no_grad():
            relevance = self.logits(self.batch_of(columns)).sigmoid()
        order = relevance.argsort(descending=True, stable=True)
        return {"scores": _rounded(relevance.cpu().numpy()), "order": order.tolist()}

    def preview(self, features: Features) -> list[Piece]:
        pieces = list[Piece]()
        rows = zip(_split_rows(features), features["relevance"].tolist(), strict=True)
        for ids, relevance in rows:
            pieces += pieces_of(self.tokenizer, ids)
            pieces.append(Piece(f" → {relevance:g} ", True))
        return pieces

    def save(self, folder: Path) -> None:
        self.tokenizer.save_pretrained(folder)
        settings = json.dumps({"largest": self.largest})
        (folder / "reranker.json").write_text(settings, encoding="utf-8")


def ranking(scores: np.ndarray, relevance: np.ndarray) -> Mapping[str, np.ndarray]:
    """Return what the passages of one query add to the sums, by metric.

    Nothing where none is more relevant than another. Equal scores keep the worst order,
    so that a model without an opinion gains nothing.

    Args:
        scores: of the model, [passages].
        relevance: as written, [passages].
    """
    if len(set(relevance.tolist())) < 2:
        return _nothing()
    order = np.lexsort((relevance, -scores))
    ranked = relevance[order]
    first = int(np.argmax(ranked > 0)) + 1
    best = np.sort(relevance)[::-1]
    ndcg = _gain(ranked) / _gain(best)
    return {"ndcg@10": np.array([ndcg, 1.0]), "mrr": np.array([1 / first, 1.0])}


def _gain(relevance: np.ndarray) -> float:
    """Return Σ (2^r - 1) / log2(rank + 1) over the first CUTOFF."""
    top = relevance[:CUTOFF].astype(np.float64)
    discounts = np.log2(np.arange(2, len(top) + 2))
    return float(((2**top - 1) / discounts).sum())


def _nothing() -> Mapping[str, np.ndarray]:
    return {"ndcg@10": np.zeros(2), "mrr": np.zeros(2)}


def _mean(counts: np.ndarray) -> np.ndarray:
    """Return sums over numbers of [..., (sum, number)]; 0 where no query was ranked."""
    return np.asarray(counts[..., 0] / np.maximum(counts[..., 1], 1e-12))


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 6) for value in values]


def _split_rows(features: Features) -> list[np.ndarray]:
    """Return the ids of each pair of an example."""
    return np.split(features["ids"], np.cumsum(features["sizes"])[:-1])


def _digest(text: str) -> int:
    """Return 63 bits that distinguish queries, whatever their white space."""
    normalised = " ".join(text.split()).encode()
    digest = hashlib.blake2b(normalised, digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
