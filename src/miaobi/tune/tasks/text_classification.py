"""Text classification: for a text, or a text and another one, one label, several labels,
or a number.

    single       L = -Σ_i w_{y_i} log softmax(W h_i)_{y_i}
    multi        L = -Σ_i mean_k [w_k y_ik log σ(z_ik) + (1 - y_ik) log(1 - σ(z_ik))]
    regression   L = Σ_i (z_i - (y_i - μ)/s)², with the mean μ and deviation s of the training data

Head: a linear layer over the base's summary of the text (its first token, its last, or
its own pooling, as Transformers has it).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from miaobi.core.errors import BadInput, nearest
from miaobi.core.language import say
from miaobi.data.text.shapes import (
    Record,
    Unusable,
    label_text,
    messages_of,
    unseen,
    written_text,
)
from miaobi.models.base import Base
from miaobi.nn.graphs import Graph
from miaobi.nn.objective import Batch, Loss
from miaobi.tune.heads import TextClassificationHead as Config
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
from miaobi.tune.text.metrics import f1, macro_f1, mean, pearson

NAME = "text-classification"
SUMMARY = (
    "a label, several labels or a number for each text",
    "为每段文本给出一个标签、多个标签或一个数值",
)
MODALITY = "text"
READER = "labelled/texts"
MAKES = "labels"
ASK = "--prompt ..."
EXAMPLE = '{"text": "...", "label": "positive"}'
TEXT_COLUMNS = ("text", "sentence", "sentence1", "premise")
"""Also CLUE's and GLUE's names of it."""
PAIR_COLUMNS = ("text_pair", "sentence2", "hypothesis")
OWN_METRICS = 20
"""Labels that have metrics of their own, the most frequent."""
UNLABELLED = (None, "", "-")
"""What stands for no label; "-" where the annotators of SNLI and OCNLI disagreed."""
NO_LABEL = -100
"""Of a text whose label is not known."""


def columns(record: Mapping[str, Any], config: Config) -> Mapping[str, Any]:
    record = Record.of(record)
    text = _text(record)
    if not text.strip():
        raise Unusable(say("no text.", "缺少 text。"), EXAMPLE)
    columns = {"text": text}
    pair = record.first(PAIR_COLUMNS)
    if pair:
        columns["text_pair"] = written_text(record[pair], pair)
    return {**columns, "label": _label(record.get("label"), config)}


def _text(record: Record) -> str:
    """Return the text to be classified; "" for none.

    It may be the only turn of a conversation, as ms-swift writes it.
    """
    column = record.first(TEXT_COLUMNS)
    if column:
        return written_text(record[column], column)
    if not record.holds("messages"):
        return ""
    messages = messages_of(record.items_of("messages"))
    if [message["role"] for message in messages] != ["user"]:
        raise Unusable(
            say(
                "messages hold a conversation, not one text of the user's.",
                "messages 是一段对话，而不是用户的一段文本。",
            ),
            EXAMPLE,
        )
    return str(messages[0]["content"])


def _label(label: Any, config: Config) -> Any:
    if config.problem == "multi" and isinstance(label, list | tuple):
        return sorted({label_text(item) for item in label})
    if isinstance(label, str):
        label = label.strip()
    if label in UNLABELLED or (isinstance(label, float) and math.isnan(label)):
        raise Unusable(say("no label.", "缺少 label。"), EXAMPLE)
    if config.problem == "multi":
        raise Unusable(
            say(
                f"label is {label!r}, not a list of labels.",
                f"label 为 {label!r}，不是标签列表。",
            ),
            '{"text": "...", "label": ["cheap", "clean"]}',
        )
    if config.problem == "regression":
        return _number(label)
    if isinstance(label, list | tuple | dict):
        raise Unusable(
            say(
                f"label is {label!r}, not one label.",
                f"label 为 {label!r}，不是单个标签。",
            ),
            say(
                "For several labels a text, set head.problem to multi.",
                "若每段文本有多个标签，请将 head.problem 设为 multi。",
            ),
        )
    return label_text(label)


def _number(label: Any) -> float:
    try:
        number = float(label)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise Unusable(
            say(
                f"label is {label!r}, not a number.",
                f"label 为 {label!r}，不是数值。",
            ),
            '{"text": "...", "label": 3.5}',
        )
    return number


def question(columns: Mapping[str, Any]) -> Mapping[str, Any]:
    return {key: columns[key] for key in ("text", "text_pair") if key in columns}


group = question


def survey(examples: Sequence[Example], config: Config) -> Mapping[str, Any]:
    labels = [example.columns["label"] for example in examples]
    if config.problem == "regression":
        return _survey_of_numbers(labels)
    if config.problem == "single":
        counts = Counter(labels)
        _check_two_labels(counts)
    else:
        counts = Counter(label for several in labels for label in several)
        _check_labels_differ(counts, len(labels))
    if isinstance(config.class_weights, dict):
        _check_weights(config.class_weights, counts)
    return {
        "problem": config.problem,
        "labels": sorted(counts),
        "counts": {label: counts[label] for label in sorted(counts)},
        "examples": len(labels),
    }


def _survey_of_numbers(labels: Sequence[float]) -> Mapping[str, Any]:
    numbers = np.array(labels)
    if numbers.std() == 0:
        raise BadInput(
            say(
                f"Every example has the number {numbers[0]:g}.",
                f"所有样本的数值都是 {numbers[0]:g}。",
            ),
            say("Give examples of different numbers.", "请提供数值不同的样本。"),
        )
    return {
        "problem": "regression",
        "mean": float(numbers.mean()),
        "deviation": float(numbers.std()),
        "labels": [],
        "counts": {},
        "examples": len(numbers),
    }


def _check_two_labels(counts: Mapping[str, int]) -> None:
    if len(counts) >= 2:
        return
    label = next(iter(counts))
    raise BadInput(
        say(
            f"Every example has the label {label!r}.",
            f"所有样本的标签都是 {label!r}。",
        ),
        say("Give examples of two labels at least.", "请至少提供两种标签的样本。"),
    )


def _check_labels_differ(counts: Mapping[str, int], examples: int) -> None:
    if any(count != examples for count in counts.values()):
        return
    raise BadInput(
        say(
            "No label distinguishes one example from another: each is on all of them, or on none.",
            "标签无法区分样本：每个标签要么全部出现，要么从不出现。",
        ),
        say(
            "Give examples with and without each label.",
            "请为每个标签提供带有与不带有它的样本。",
        ),
    )


def _check_weights(weights: Mapping[str, float], counts: Mapping[str, int]) -> None:
    unknown = sorted(set(weights) - set(counts))
    if not unknown:
        return
    raise BadInput(
        say(
            f"head.class_weights names {unknown[0]!r}, which no example has.",
            f"head.class_weights 中的 {unknown[0]!r} 未在样本中出现。",
        ),
        nearest(unknown[0], counts),
    )


def check(example: Example, spec: Mapping[str, Any], config: Config) -> None:
    if spec["problem"] == "regression":
        return
    label = example.columns["label"]
    for item in label if spec["problem"] == "multi" else (label,):
        if item not in spec["labels"]:
            raise unseen(item, spec["labels"])


def learner(base: Base, spec: Mapping[str, Any], config: Config) -> Classifier:
    from transformers import AutoModelForSequenceClassification

    labels = spec["labels"] or ["value"]
    net = with_head(
        base,
        AutoModelForSequenceClassification,
        config.dropout,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    return Classifier(net, base.tokenizer, context_length(base), spec, config)


class Classifier(Learner):
    """A net that gives texts labels, or a number.

    Batches: ids and mask [B, T], and label: [B] for single and regression, [B, labels]
    for multi.
    """

    adapter_kind = "SEQ_CLS"
    weights: Tensor | None

    def __init__(
        self,
        net: nn.Module,
        tokenizer: Any,
        max_tokens: int,
        spec: Mapping[str, Any],
        config: Config,
    ) -> None:
        super().__init__(net)
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        """What the base can hold; 0 for no limit."""
        self.spec = spec
        self.problem: str = spec["problem"]
        self.config = config
        self.labels: list[str] = list(spec["labels"])
        self.fresh = fresh_of(net)
        self.blocks = blocks_of(net)
        self.register_buffer("weights", _weights(spec, config), persistent=False)

    def _ids(self, columns: Mapping[str, Any], max_length: int) -> np.ndarray:
        pair = columns.get("text_pair", "")
        return ids_of(self.tokenizer, columns["text"], pair, max_length)

    def length(self, columns: Mapping[str, Any]) -> int:
        return len(self._ids(columns, 0))

    def encode(self, columns: Mapping[str, Any], max_length: int) -> Features:
        return {
            "ids": self._ids(columns, max_length or self.max_tokens),
            "label": self._target(columns.get("label")),
        }

    def _target(self, label: Any) -> np.ndarray:
        """Return the label as an array.

        single: its index, NO_LABEL for none; multi: [labels] of 0 and 1; regression:
        the number.
        """
        if self.problem == "regression":
            return np.array(math.nan if label is None else label, dtype=np.float32)
        if self.problem == "multi":
            present = [name in (label or ()) for name in self.labels]
            return np.array(present, dtype=np.float32)
        return np.array(self.labels.index(label) if label in self.labels else NO_LABEL)

    def collate(self, features: Sequence[Features]) -> Batch:
        rows = [item["ids"] for item in features]
        return {
            "ids": padded(rows, padding_of(self.tokenizer)),
            "mask": padded([np.ones(len(row)) for row in rows], 0),
            "label": torch.from_numpy(np.stack([item["label"] for item in features])),
        }

    def logits(self, batch: Batch) -> Tensor:
        """Return [B, labels], or [B] for regression."""
        logits = in_groups(
            lambda rows: (
                self.net(input_ids=rows["ids"], attention_mask=rows["mask"]).logits
            ),
            batch,
        )
        return logits[:, 0] if self.problem == "regression" else logits

    def graphs(self) -> Sequence[Graph]:
        """Return the classifier: ids and mask to logits [B, labels]."""
        return [text_graph("classifier", self._logits, self.net, "logits")]

    def _logits(self, ids: Tensor, mask: Tensor) -> Tensor:
        logits: Tensor = self.net(input_ids=ids, attention_mask=mask).logits
        return logits

    def _losses(self, logits: Tensor, label: Tensor, smoothing: float) -> Tensor:
        """Return the loss of each example, [B]."""
        if self.problem == "regression":
            target = (label - self.spec["mean"]) / self.spec["deviation"]
            squares: Tensor = (logits - target).square()
            return squares
        if self.problem == "multi":
            smooth = label * (1 - smoothing) + smoothing / 2
            losses = F.binary_cross_entropy_with_logits(
                logits, smooth, pos_weight=self.weights, reduction="none"
            )
            return losses.mean(1)
        return F.cross_entropy(
            logits,
            label,
            weight=self.weights,
            reduction="none",
            label_smoothing=smoothing,
        )

    def _loss(self, batch: Batch, smoothing: float) -> Loss:
        label = batch["label"]
        losses = self._losses(self.logits(batch).float(), label, smoothing)
        return Loss(losses.sum(), len(label))

    def loss(self, batch: Batch) -> Loss:
        return self._loss(batch, self.config.label_smoothing)

    def validate(self, batch: Batch) -> Loss:
        """Return the loss without smoothing, whose least value is not 0."""
        return self._loss(batch, 0.0)

    def metrics(self) -> Sequence[Metric]:
        if self.problem == "regression":
            return [
                Metric("mae", mean, "lower", ("Mean absolute error", "平均绝对误差")),
                Metric("pearson", pearson, "higher", ("Pearson's r", "皮尔逊相关系数")),
            ]
        if self.problem == "multi":
            label = ("All labels right", "标签全部正确")
            return [
                Metric("f1", f1, "higher", ("Micro F1", "微平均 F1")),
                Metric("macro_f1", macro_f1, "higher", ("Macro F1", "宏平均 F1")),
                Metric("exact", mean, "higher", label),
                *self._own_metrics(),
            ]
        return [
            Metric("accuracy", mean, "higher", ("Accuracy", "准确率")),
            Metric("f1", macro_f1, "higher", ("Macro F1", "宏平均 F1")),
            *self._own_metrics(),
        ]

    def _own_metrics(self) -> list[Metric]:
        """Return F1 of the most frequent labels."""
        counts = self.spec["counts"]
        order = sorted(sorted(self.labels), key=lambda label: -counts[label])
        return [
            Metric(f"f1/{label}", f1, "higher", (f"F1 of {label}", f"{label} 的 F1"))
            for label in order[:OWN_METRICS]
        ]

    def evaluate(self, batch: Batch) -> list[Evaluation]:
        logits = self.logits(batch).float()
        label = batch["label"]
        losses = self._losses(logits, label, 0.0).tolist()
        if self.problem == "regression":
            numbers = logits * self.spec["deviation"] + self.spec["mean"]
            rows = zip(losses, numbers.double().tolist(), label.double().tolist())
            return [_evaluate_number(*row) for row in rows]
        if self.problem == "multi":
            predicted = (logits.sigmoid() >= self.config.threshold).cpu().numpy()
            true = label.bool().cpu().numpy()
        else:
            indices = np.arange(len(self.labels))
            predicted = logits.argmax(1).cpu().numpy()[:, None] == indices
            true = label.cpu().numpy()[:, None] == indices
        rows = zip(losses, predicted, true)
        return [self._evaluate_labels(*row) for row in rows]

    def _evaluate_labels(
        self, loss: float, predicted: np.ndarray, true: np.ndarray
    ) -> Evaluation:
        """Return how one example goes; predicted and true: bool [labels]."""
        outcomes = [predicted & true, predicted & ~true, ~predicted & true]
        table = np.stack(outcomes, axis=-1).astype(float)  # [labels, 3]
        own = {f"f1/{label}": row for label, row in zip(self.labels, table)}
        right = np.array([float((predicted == true).all()), 1.0])
        labels = [self.labels[index] for index in np.flatnonzero(predicted)]
        if self.problem == "multi":
            counts = {"f1": table.sum(0), "macro_f1": table.reshape(-1), "exact": right}
            return Evaluation(loss, {**counts, **own}, labels)
        counts = {"accuracy": right, "f1": table.reshape(-1)}
        return Evaluation(loss, {**counts, **own}, labels[0])

    def answer(self, columns: Mapping[str, Any]) -> Any:
        """Return {"label", "score", "scores"}, {"labels", "scores"} or {"value"}."""
        with torch.no_grad():
            logits = self.logits(self.batch_of(columns))[0].float()
        if self.problem == "regression":
            return {"value": float(logits) * self.spec["deviation"] + self.spec["mean"]}
        is_multi = self.problem == "multi"
        probabilities = logits.sigmoid() if is_multi else logits.softmax(0)
        pairs = sorted(
            zip(self.labels, probabilities.tolist()), key=lambda pair: -pair[1]
        )
        scores = {label: round(probability, 6) for label, probability in pairs}
        if is_multi:
            threshold = self.config.threshold
            labels = [label for label, score in scores.items() if score >= threshold]
            return {"labels": labels, "scores": scores}
        best = next(iter(scores))
        return {"label": best, "score": scores[best], "scores": scores}

    def preview(self, features: Features) -> list[Piece]:
        text = pieces_of(self.tokenizer, features["ids"])
        return [*text, Piece(f" → {self._label_text(features['label'])}", True)]

    def _label_text(self, label: np.ndarray) -> str:
        """Return a target as people read it."""
        if self.problem == "multi":
            return ", ".join(self.labels[index] for index in np.flatnonzero(label))
        if self.problem == "regression":
            return f"{float(label):g}"
        return self.labels[int(label)]

    def save(self, folder: Path) -> None:
        self.tokenizer.save_pretrained(folder)
        labels = json.dumps(self.labels, ensure_ascii=False)
        (folder / "labels.json").write_text(labels, encoding="utf-8")


def _evaluate_number(loss: float, predicted: float, true: float) -> Evaluation:
    x = predicted
    y = true
    counts = {
        "mae": np.array([abs(x - y), 1.0]),
        "pearson": np.array([1.0, x, y, x * x, y * y, x * y]),
    }
    return Evaluation(loss, counts, round(x, 4))


def _weights(spec: Mapping[str, Any], config: Config) -> Tensor | None:
    """Return a weight for each label; None for equal ones.

    single: 1 on average over the training examples, so that the loss keeps its size and
    sums of it stay exact. multi: what a present label counts against an absent one.
    """
    if not config.class_weights:
        return None
    labels = spec["labels"]
    examples = spec["examples"]
    counts = np.array([spec["counts"][label] for label in labels], dtype=float)
    if isinstance(config.class_weights, dict):
        own = [float(config.class_weights.get(label, 1.0)) for label in labels]
        weights = np.array(own)
    elif spec["problem"] == "multi":
        weights = np.maximum(examples - counts, 1) / counts
    else:
        weights = 1 / counts
    if spec["problem"] == "single":
        weights *= examples / (weights * counts).sum()
    return torch.tensor(weights, dtype=torch.float32)
