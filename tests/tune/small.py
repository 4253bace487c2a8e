"""Tiny random models of the real architectures with the simplest learners, for what
does not depend on a task.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
)

from miaobi.nn.objective import Batch, Loss
from miaobi.tune.learner import Evaluation, Features, Learner, Metric

VOCABULARY = 48
LENGTH = 12


class Small(Learner):
    """Takes whole batches; nothing is encoded."""

    def logits(self, batch: Batch) -> Tensor:
        output = self.net(input_ids=batch["ids"], attention_mask=batch["mask"])
        logits: Tensor = output.logits
        return logits

    def encode(self, columns: Mapping[str, Any], max_length: int) -> Features:
        raise NotImplementedError

    def length(self, columns: Mapping[str, Any]) -> int:
        return LENGTH

    def collate(self, features: Sequence[Features]) -> Batch:
        raise NotImplementedError

    def metrics(self) -> Sequence[Metric]:
        return []

    def evaluate(self, batch: Batch) -> list[Evaluation]:
        return []

    def save(self, folder: Path) -> None:
        """Nothing beside the weights."""


class Causal(Small):
    adapter_kind = "CAUSAL_LM"

    def loss(self, batch: Batch) -> Loss:
        logits = self.logits(batch)[:, :-1].flatten(0, 1)
        return Loss(
            F.cross_entropy(logits, batch["ids"][:, 1:].flatten(), reduction="sum"),
            len(logits),
        )


class Classifier(Small):
    adapter_kind = "SEQ_CLS"
    fresh = ("classifier", "score")

    def loss(self, batch: Batch) -> Loss:
        return Loss(
            F.cross_entropy(self.logits(batch), batch["label"], reduction="sum"),
            len(batch["label"]),
        )


def causal() -> Causal:
    torch.manual_seed(0)
    settings = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
    )
    return Causal(LlamaForCausalLM(settings))


def classifier() -> Classifier:
    torch.manual_seed(0)
    settings = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=64,
        num_labels=3,
        hidden_dropout_prob=0.1,
        attention_probs_dropout_prob=0.0,
    )
    return Classifier(BertForSequenceClassification(settings))


LEARNERS = {"causal": causal, "classifier": classifier}


class Texts:
    """Random ids whose label is the remainder of their first by three. Batches are a
    pure function of (split, index, size, seed).
    """

    spec, fingerprint, folder = None, "texts", Path()

    def count(self, split: str) -> int:
        return 600

    def batch(self, split: str, index: int, size: int, seed: int) -> Batch:
        draw = torch.Generator().manual_seed(
            hash((split == "train", index, seed)) % 2**31
        )
        ids = torch.randint(3, VOCABULARY, (size, LENGTH), generator=draw)
        return {"ids": ids, "mask": torch.ones_like(ids), "label": ids[:, 0] % 3}

    def batches(self, split: str, size: int) -> Iterator[Batch]:
        return (self.batch(split, index, size, 1) for index in range(3))

    def save(self, folder: Path) -> None:
        """Nothing beside the batches."""


def answers(learner: Small) -> Tensor:
    """Return the logits of a fixed batch, in evaluation mode."""
    training = learner.training
    learner.eval()
    with torch.no_grad():
        logits = learner.logits(Texts().batch("test", 0, 4, 0))
    learner.train(training)
    return logits


def values(net: nn.Module) -> dict[str, Tensor]:
    return {
        name: parameter.detach().clone() for name, parameter in net.named_parameters()
    }
