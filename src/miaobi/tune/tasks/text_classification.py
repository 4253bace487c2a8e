"""Text classification: for a text, or a text and another beside it, one label, several
labels, or a number.

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from miaobi.core.errors import BadInput, nearest
from miaobi.core.language import say
from miaobi.data.text.shapes import Unusable, unseen
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
    fresh_of,
    ids_of,
    in_groups,
    padding_of,
    pieces_of,
    with_head,
)

NAME = "text-classification"
SUMMARY = (
    "a label, several labels or a number for each text",
    "为每段文本给出一个标签、多个标签或一个数值",
)
MODALITY, READER, MAKES = "text", "texts", "labels"
EXAMPLE = '{"text": "...", "label": "positive"}'
SHOWN = 20
"""Labels that have figures of their own, the most frequent."""


@dataclass(frozen=True)
class Config:
    problem: Literal["single", "multi", "regression"] = "single"
    """One label for a text; a list of any number of labels; or a number."""
    class_weights: str | dict[str, float] = ""
    """balanced (a label counts the more, the rarer it is), or {label: weight}; scaled
    so that the loss keeps its size.
    """
    label_smoothing: float = 0.0
    """Share of certainty that is spread over all labels."""
    dropout: float | None = None
    """Share of what the head sees that is left out while training; the base's own
    setting if not given (tune.dropout is the base's).
    """
    threshold: float = 0.5
    """For multi: probability from which a label is given."""

    def __post_init__(self) -> None:
        if isinstance(self.class_weights, str) and self.class_weights not in (
            "",
            "balanced",
        ):
            raise BadInput(
                say(
                    f"head.class_weights is {self.class_weights!r}.",
                    f"head.class_weights 为 {self.class_weights!r}。",
                ),
                say(
                    "Give balanced, or a weight for each label: {positive: 1, negative: 3}.",
                    "请写 balanced，或为每个标签给出权重：{positive: 1, negative: 3}。",
                ),
            )
        if self.class_weights and self.problem == "regression":
            raise BadInput(
                say(
                    "head.class_weights does not go with head.problem regression.",
                    "head.class_weights 不能与 head.problem regression 同用。",
                ),
                say("Leave it out.", "请去掉它。"),
            )
        if not 0 <= self.label_smoothing < 1:
            raise BadInput(
                say(
                    f"head.label_smoothing is {self.label_smoothing}.",
                    f"head.label_smoothing 为 {self.label_smoothing}。",
                ),
                say(
                    "Give a share from 0 to below 1.",
                    "请给出 0 到 1 之间（不含 1）的比例。",
                ),
            )


def columns(record: Mapping[str, Any], config: Config) -> Mapping[str, Any]:
    if not str(record.get("text") or "").strip():
        raise Unusable(say("no text.", "缺少 text。"), EXAMPLE)
    pair = record.get("text_pair")
    return {
        "text": str(record["text"]),
        **({"text_pair": str(pair)} if pair not in (None, "") else {}),
        "label": _label(record.get("label"), config),
    }


def _label(label: Any, config: Config) -> Any:
    if config.problem == "multi" and isinstance(label, list | tuple):
        return sorted({str(item) for item in label})
    if label in (None, "") or (isinstance(label, float) and math.isnan(label)):
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
    return str(label)


def question(columns: Mapping[str, Any]) -> Mapping[str, Any]:
    return {key: columns[key] for key in ("text", "text_pair") if key in columns}


group = question


def survey(examples: Sequence[Example], config: Config) -> Mapping[str, Any]:
    if config.problem == "regression":
        numbers = np.array([example.columns["label"] for example in examples])
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
    labels = [
        example.columns["label"]
        if config.problem == "multi"
        else [example.columns["label"]]
        for example in examples
    ]
    counts = Counter(label for given in labels for label in given)
    if config.problem == "single" and len(counts) < 2:
        raise BadInput(
            say(
                f"Every example has the label {next(iter(counts))!r}.",
                f"所有样本的标签都是 {next(iter(counts))!r}。",
            ),
            say("Give examples of two labels at least.", "请至少提供两种标签的样本。"),
        )
    if config.problem == "multi" and all(
        count == len(labels) for count in counts.values()
    ):
        raise BadInput(
            say(
                "No label tells one example from another: each stands at all of them, or at none.",
                "标签无法区分样本：每个标签要么全部出现，要么从不出现。",
            ),
            say(
                "Give examples with and without each label.",
                "请为每个标签提供带有与不带有它的样本。",
            ),
        )
    if isinstance(config.class_weights, dict) and set(config.class_weights) - set(
        counts
    ):
        wrong = sorted(set(config.class_weights) - set(counts))[0]
        raise BadInput(
            say(
                f"head.class_weights names {wrong!r}, which no example has.",
                f"head.class_weights 中的 {wrong!r} 未在样本中出现。",
            ),
            nearest(wrong, counts),
        )
    return {
        "problem": config.problem,
        "labels": sorted(counts),
        "counts": {label: counts[label] for label in sorted(counts)},
        "examples": len(labels),
    }


def check(example: Example, spec: Mapping[str, Any], config: Config) -> None:
    given = example.columns["label"]
    for label in (
        ()
        if spec["problem"] == "regression"
        else given
        if spec["problem"] == "multi"
        else (given,)
    ):
        if label not in spec["labels"]:
            raise unseen(label, spec["labels"])


def learner(base: Base, spec: Mapping[str, Any], config: Config) -> Classifier:
    from transformers import AutoModelForSequenceClassification

    labels = spec["labels"] or ["value"]
    net = with_head(
        base,
        AutoModelForSequenceClassification,
        config.dropout,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={label: at for at, label in enumerate(labels)},
    )
    return Classifier(net, base.tokenizer, context_length(base), spec, config)


class Classifier(Learner):
    adapter_kind = "SEQ_CLS"

    def __init__(
        self,
        net: nn.Module,
        tokenizer: Any,
        room: int,
        spec: Mapping[str, Any],
        config: Config,
    ) -> None:
        super().__init__(net)
        self.tokenizer, self.room, self.spec, self.config = (
            tokenizer,
            room,
            spec,
            config,
        )
        self.labels, self.fresh, self.blocks = (
            list(spec["labels"]),
            fresh_of(net),
            blocks_of(net),
        )
        self.register_buffer("weights", _weights(spec, config), persistent=False)

    def length(self, columns: Mapping[str, Any]) -> int:
        return len(
            ids_of(self.tokenizer, columns["text"], columns.get("text_pair", ""), 0)
        )

    def encode(self, columns: Mapping[str, Any], max_length: int) -> Features:
        ids = ids_of(
            self.tokenizer,
            columns["text"],
            columns.get("text_pair", ""),
            max_length or self.room,
        )
        return {"ids": ids, "label": self._target(columns.get("label"))}

    def _target(self, label: Any) -> np.ndarray:
        """single: a place in the labels, -100 for none; multi: [labels] of 0 and 1;
        regression: the number.
        """
        if self.spec["problem"] == "regression":
            return np.array(math.nan if label is None else label, dtype=np.float32)
        if self.spec["problem"] == "multi":
            return np.array(
                [name in (label or ()) for name in self.labels], dtype=np.float32
            )
        return np.array(self.labels.index(label) if label in self.labels else -100)

    def collate(self, features: Sequence[Features]) -> Batch:
        rows = [item["ids"] for item in features]
        return {
            "ids": padded(rows, padding_of(self.tokenizer)),
            "mask": padded([np.ones(len(row)) for row in rows], 0),
            "label": torch.from_numpy(np.stack([item["label"] for item in features])),
        }

    def logits(self, batch: Batch) -> Tensor:
        """[B, labels], or [B] for regression."""
        found = in_groups(
            lambda rows: (
                self.net(input_ids=rows["ids"], attention_mask=rows["mask"]).logits
            ),
            batch,
        )
        return found[:, 0] if self.spec["problem"] == "regression" else found

    def _losses(self, logits: Tensor, label: Tensor, smoothing: float) -> Tensor:
        """[B]"""
        if self.spec["problem"] == "regression":
            return (
                logits - (label - self.spec["mean"]) / self.spec["deviation"]
            ).square()
        if self.spec["problem"] == "multi":
            smooth = label * (1 - smoothing) + smoothing / 2
            return F.binary_cross_entropy_with_logits(
                logits, smooth, pos_weight=self.weights, reduction="none"
            ).mean(1)
        return F.cross_entropy(
            logits,
            label,
            weight=self.weights,
            reduction="none",
            label_smoothing=smoothing,
        )

    def loss(self, batch: Batch) -> Loss:
        return Loss(
            self._losses(
                self.logits(batch).float(), batch["label"], self.config.label_smoothing
            ).sum(),
            len(batch["label"]),
        )

    def validate(self, batch: Batch) -> Loss:
        """Without smoothing, whose least value is not 0."""
        return Loss(
            self._losses(self.logits(batch).float(), batch["label"], 0.0).sum(),
            len(batch["label"]),
        )

    def metrics(self) -> Sequence[Metric]:
        if self.spec["problem"] == "regression":
            return [
                Metric(
                    "mae",
                    lambda c: c[..., 0] / c[..., 1],
                    "lower",
                    ("Mean absolute error", "平均绝对误差"),
                ),
                Metric("pearson", pearson, "higher", ("Pearson's r", "皮尔逊相关系数")),
            ]
        frequent = sorted(
            sorted(self.labels), key=lambda label: -self.spec["counts"][label]
        )[:SHOWN]
        own = [
            Metric(f"f1/{label}", f1, "higher", (f"F1 of {label}", f"{label} 的 F1"))
            for label in frequent
        ]
        accuracy = Metric(
            "accuracy",
            lambda c: c[..., 0] / c[..., 1],
            "higher",
            ("Accuracy", "准确率"),
        )
        if self.spec["problem"] == "multi":
            exact = Metric(
                "exact",
                accuracy.combine,
                "higher",
                ("All labels right", "标签全部正确"),
            )
            return [
                Metric("f1", f1, "higher", ("Micro F1", "微平均 F1")),
                Metric("macro_f1", macro_f1, "higher", ("Macro F1", "宏平均 F1")),
                exact,
                *own,
            ]
        return [
            accuracy,
            Metric("f1", macro_f1, "higher", ("Macro F1", "宏平均 F1")),
            *own,
        ]

    def evaluate(self, batch: Batch) -> list[Evaluation]:
        logits = self.logits(batch).float()
        losses = self._losses(logits, batch["label"], 0.0).tolist()
        if self.spec["problem"] == "regression":
            numbers = (
                (logits * self.spec["deviation"] + self.spec["mean"]).double().tolist()
            )
            return [
                Evaluation(
                    loss,
                    {
                        "mae": np.array([abs(x - y), 1.0]),
                        "pearson": np.array([1.0, x, y, x * x, y * y, x * y]),
                    },
                    round(x, 4),
                )
                for loss, x, y in zip(losses, numbers, batch["label"].double().tolist())
            ]
        if self.spec["problem"] == "multi":
            given, wanted = (
                (logits.sigmoid() >= self.config.threshold).cpu().numpy(),
                batch["label"].bool().cpu().numpy(),
            )
        else:
            kinds = np.arange(len(self.labels))
            given, wanted = (
                logits.argmax(1).cpu().numpy()[:, None] == kinds,
                batch["label"].cpu().numpy()[:, None] == kinds,
            )
        return [self._judged(loss, *pair) for loss, *pair in zip(losses, given, wanted)]

    def _judged(self, loss: float, given: np.ndarray, wanted: np.ndarray) -> Evaluation:
        """given, wanted: bool [labels]."""
        table = np.stack(
            [given & wanted, given & ~wanted, ~given & wanted], axis=-1
        ).astype(float)
        own = {f"f1/{label}": table[place] for place, label in enumerate(self.labels)}
        right = np.array([float((given == wanted).all()), 1.0])
        said = [self.labels[place] for place in np.flatnonzero(given)]
        if self.spec["problem"] == "multi":
            return Evaluation(
                loss,
                {
                    "f1": table.sum(0),
                    "macro_f1": table.reshape(-1),
                    "exact": right,
                    **own,
                },
                said,
            )
        return Evaluation(
            loss, {"accuracy": right, "f1": table.reshape(-1), **own}, said[0]
        )

    def answer(self, columns: Mapping[str, Any]) -> Any:
        """{"label", "score", "scores"}; {"labels", "scores"}; {"value"}."""
        with torch.no_grad():
            logits = self.logits(self.collate([self.encode(columns, 0)]))[0].float()
        if self.spec["problem"] == "regression":
            return {"value": float(logits) * self.spec["deviation"] + self.spec["mean"]}
        shares = (
            logits.sigmoid() if self.spec["problem"] == "multi" else logits.softmax(0)
        ).tolist()
        scores = {
            label: round(share, 6)
            for label, share in sorted(
                zip(self.labels, shares), key=lambda item: -item[1]
            )
        }
        if self.spec["problem"] == "multi":
            return {
                "labels": [
                    label
                    for label, share in scores.items()
                    if share >= self.config.threshold
                ],
                "scores": scores,
            }
        return {
            "label": next(iter(scores)),
            "score": next(iter(scores.values())),
            "scores": scores,
        }

    def preview(self, features: Features) -> list[Piece]:
        label = features["label"]
        if self.spec["problem"] == "multi":
            spelled = ", ".join(self.labels[place] for place in np.flatnonzero(label))
        else:
            spelled = (
                f"{float(label):g}"
                if self.spec["problem"] == "regression"
                else self.labels[int(label)]
            )
        return [
            *pieces_of(self.tokenizer, features["ids"]),
            Piece(f" → {spelled}", True),
        ]

    def save(self, folder: Path) -> None:
        self.tokenizer.save_pretrained(folder)
        (folder / "labels.json").write_text(
            json.dumps(self.labels, ensure_ascii=False), encoding="utf-8"
        )


def _weights(spec: Mapping[str, Any], config: Config) -> Tensor | None:
    """single: a weight for each label, 1 on average over the training examples, so that
    the loss keeps its size and sums of it stay exact. multi: what a label that is there
    counts against one that is not.
    """
    if not config.class_weights:
        return None
    counts, whole = (
        np.array([spec["counts"][label] for label in spec["labels"]], dtype=float),
        spec["examples"],
    )
    if isinstance(config.class_weights, dict):
        weights = np.array(
            [float(config.class_weights.get(label, 1.0)) for label in spec["labels"]]
        )
    else:
        weights = (
            np.maximum(whole - counts, 1) / counts
            if spec["problem"] == "multi"
            else 1 / counts
        )
    if spec["problem"] == "single":
        weights *= whole / (weights * counts).sum()
    return torch.tensor(weights, dtype=torch.float32)


def f1(counts: np.ndarray) -> np.ndarray:
    """[..., (right, wrong, missed)] -> 2 right / (2 right + wrong + missed); 0 where
    there is nothing.
    """
    right, errors = counts[..., 0], counts[..., 1] + counts[..., 2]
    return 2 * right / np.maximum(2 * right + errors, 1e-12)


def macro_f1(counts: np.ndarray) -> np.ndarray:
    """[..., labels * 3] -> the mean F1 of the labels that occur."""
    table = counts.reshape(*counts.shape[:-1], -1, 3)
    occurs = table.sum(-1) > 0
    return (f1(table) * occurs).sum(-1) / np.maximum(occurs.sum(-1), 1)


def pearson(counts: np.ndarray) -> np.ndarray:
    """[..., (n, Σx, Σy, Σx², Σy², Σxy)] -> r; 0 where one of them never varies."""
    n, x, y, xx, yy, xy = np.moveaxis(counts, -1, 0)
    spread = np.sqrt(np.maximum(n * xx - x * x, 0) * np.maximum(n * yy - y * y, 0))
    return np.where(spread > 1e-9, (n * xy - x * y) / np.maximum(spread, 1e-9), 0.0)
