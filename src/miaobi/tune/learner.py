"""The contract between fine-tuning and its tasks: labelled examples in, a head and a
loss, answers and figures out.

A task is a module in `tune/tasks/` with the names of `Task`. What is tuned is a
`Learner`: a pretrained model with the task's head. Every figure is a function of sums
over examples, so that intervals and significance come from resampling those
(evaluate/compare.py).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from miaobi.core.errors import Unsupported
from miaobi.core.language import say
from miaobi.models.base import Base
from miaobi.nn.objective import Batch, Loss, Objective, Phase

Features = Mapping[str, np.ndarray]
"""One encoded example. `length` of a Learner tells its cost."""


@dataclass(frozen=True)
class Example:
    """One labelled example: columns in the task's own terms, and where they were written."""

    columns: Mapping[str, Any]
    location: str
    """chats.jsonl:12"""
    parts: Mapping[str, Any] = field(default_factory=dict)
    """The columns that make up the question, without the answer: what duplicates and
    leaks are told by.
    """


@dataclass(frozen=True)
class Metric:
    """A figure as a function of sums over examples: accuracy = combine([right, all]).

    combine: counts [..., K] -> values [...].
    """

    name: str
    combine: Callable[[np.ndarray], np.ndarray]
    better: Literal["lower", "higher"]
    label: tuple[str, str]
    """In English and in Chinese."""
    unit: str = ""


class Evaluation(NamedTuple):
    """How one example went."""

    loss: float
    """The worst examples are those with the greatest."""
    counts: Mapping[str, np.ndarray]
    """By figure, what it adds up: float64 [K]."""
    answer: Any = None
    """What the model said, JSON-able, where evaluating it made it say something."""


class Piece(NamedTuple):
    """A stretch of an encoded example, for the preview."""

    text: str
    learned: bool
    """Whether the loss looks at it."""


class Callback(nn.Module):
    """What goes along with a run beside the net: layers that thaw, ranks that are
    allocated anew. Its buffers are kept in checkpoints.
    """

    def before_step(self, learner: Learner) -> None:
        """Before each step; `learner.progress` tells how far the run is."""

    def after_step(self, learner: Learner, step: int, max_steps: int) -> None:
        """After step number `step` (from 1), its gradients still there."""

    def penalty(self, learner: Learner) -> Tensor | None:
        """What is added to the mean loss while training: a scalar."""
        return None


class Learner(Objective):
    """A pretrained model with the head of a task, and the loss it is tuned by.

    `net` is what adapters are put into and what is frozen; call it as `self.net`, since
    it is wrapped after the learner was made.
    """

    unit = "examples"
    fresh: Sequence[str] = ()
    """Names of modules inside `net` whose weights are new: always trained, and kept
    whole beside an adapter.
    """
    blocks: str = ""
    """The name inside `net` of the ModuleList of its layers ("model.layers"), for
    freezing by layer; empty where there is none.
    """
    adapter_kind: str | None = None
    """PEFT's name of the task (CAUSAL_LM, SEQ_CLS, ...), for adapters that ask for it."""
    learning_rate_factor = 1.0
    """Multiplies the learning rate that is derived where none is given."""
    neftune_alpha: float | None = None
    """Noise on embeddings while training; None where the net's input embeddings are to
    do it, a number (0 for none) where the learner does it itself.
    """
    virtual_tokens = 0
    """Tokens that `self.net` puts before those of every row (prompt and prefix tuning):
    then call the net whole, one example a row, with an attention mask, and its answers
    come without them.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.register_module("companions", nn.ModuleList())  # their key in checkpoints
        self.rates: dict[str, float] = {}
        """Multiples of the learning rate, by the name of a parameter of `net`."""

    def phases(self) -> list[Phase]:
        return [Phase("model", self.net, self.penalised, rates=self.rates)]

    def penalised(self, batch: Batch) -> Loss:
        """The loss with what callbacks add to its mean."""
        loss, total = self.loss(batch), torch.zeros(())
        for callback in self._callbacks():
            penalty = callback.penalty(self)
            total = total if penalty is None else total + penalty
        return (
            replace(loss, total=loss.total + loss.count * total)
            if total.requires_grad
            else loss
        )

    def validate(self, batch: Batch) -> Loss:
        return self.loss(batch)

    def before_step(self) -> None:
        for callback in self._callbacks():
            callback.before_step(self)

    def after_step(self, step: int, max_steps: int) -> None:
        for callback in self._callbacks():
            callback.after_step(self, step, max_steps)

    def _callbacks(self) -> Iterator[Callback]:
        for callback in self.callbacks:
            assert isinstance(callback, Callback)
            yield callback

    @abstractmethod
    def encode(self, columns: Mapping[str, Any], max_length: int) -> Features:
        """An example as arrays; those of a question without an answer too. Too long a
        one is cut to `max_length`; how many were is told by `length` before
        (tune/examples.py counts, and splits or drops where that was asked for).
        """

    @abstractmethod
    def length(self, columns: Mapping[str, Any]) -> int:
        """Tokens of an example before any cutting; 0 where examples have no length (pictures)."""

    @abstractmethod
    def collate(self, features: Sequence[Features]) -> Batch:
        """Encoded examples as one batch."""

    @abstractmethod
    def loss(self, batch: Batch) -> Loss:
        """The summed loss and its count."""

    @abstractmethod
    def metrics(self) -> Sequence[Metric]:
        """What this task is measured by; the first is what models are compared by."""

    @abstractmethod
    def evaluate(self, batch: Batch) -> list[Evaluation]:
        """How each example of a batch goes. Called without gradients, with `net` at rest."""

    def evaluate_all(self, batches: Iterable[Batch]) -> list[Evaluation]:
        """How each example of a set goes, in order; for tasks that evaluate an example by
        all others (embedding ranks them).
        """
        return [item for batch in batches for item in self.evaluate(batch)]

    def answer(self, columns: Mapping[str, Any]) -> Any:
        """What the model says to one question, JSON-able: for people to read, and for
        the engine that serves it.
        """
        with torch.no_grad():
            return self.evaluate(self.collate([self.encode(columns, 0)]))[0].answer

    def preview(self, features: Features) -> list[Piece]:
        """An encoded example as the model will see it, with what the loss looks at;
        empty where nothing can be shown as text.
        """
        return []

    def split(
        self, columns: Mapping[str, Any], max_length: int
    ) -> list[Mapping[str, Any]]:
        """Too long an example as several. Raises Unsupported where that makes no sense
        for the task.
        """
        raise Unsupported(
            say(
                "data.too_long is split, but examples of this task cannot be split.",
                "data.too_long 为 split，但此任务的样本无法拆分。",
            ),
            "--data.too_long truncate",
        )

    @abstractmethod
    def save(self, folder: Path) -> None:
        """What turns a user's input into the model's, and what the head's outputs mean
        (tokenizer, template, labels): everything but weights. The same files are read
        by the task's `learner` through `spec`.
        """

    @property
    def callbacks(self) -> nn.ModuleList:
        """What goes along with the run: `Callback`s."""
        callbacks = self.get_submodule("companions")
        assert isinstance(callbacks, nn.ModuleList)
        return callbacks

    @property
    def device(self) -> torch.device:
        return next(self.net.parameters()).device


class Task(Protocol):
    """A module in tune/tasks/, registered by name."""

    NAME: str
    SUMMARY: tuple[str, str]
    """In English and in Chinese."""
    MODALITY: str
    """Of what is asked: "text" or "image"."""
    MAKES: str
    """What a tuned model gives: "text" (it writes), "image" (it paints), "labels"
    (labels, places, vectors: the `tuned` engine).
    """
    READER: str
    """What opens its data: a name in the readers registry."""
    EXAMPLE: str
    """One line of JSONL as it is expected, for error messages and help."""
    Config: type
    """A dataclass: the head and the loss, the `head` section of a recipe."""

    def columns(self, record: Mapping[str, Any], config: Any) -> Mapping[str, Any]:
        """A record as people write it, in the task's terms: {"text": ..., "label":
        ...}; extra keys are left out.

        Raises Unusable (data/text/shapes.py), with what is wrong and the remedy. A missing
        answer is Unusable too.
        """
        ...

    def question(self, columns: Mapping[str, Any]) -> Mapping[str, Any]:
        """The columns without the answer."""
        ...

    def group(self, columns: Mapping[str, Any]) -> Mapping[str, Any]:
        """What examples share that must stand on one side of a split: the question, or
        more (all questions about one text).
        """
        ...

    def survey(self, examples: Sequence[Example], config: Any) -> Mapping[str, Any]:
        """What the head needs to know of the training data, JSON-able (labels, how many
        of each). Raises BadInput for data that cannot teach (one class only).
        """
        ...

    def check(self, example: Example, spec: Mapping[str, Any], config: Any) -> None:
        """Raise Unusable for an example that does not fit what training showed (a label
        never seen).
        """
        ...

    def learner(self, base: Base, spec: Mapping[str, Any], config: Any) -> Learner:
        """The base's model with this task's head. Raises Unsupported for a base of
        another kind, naming kinds that would do.
        """
        ...


def padded(
    rows: Sequence[np.ndarray],
    value: int,
    side: Literal["left", "right"] = "right",
    multiple: int = 8,
) -> Tensor:
    """Rows of unequal length as int64 [rows, length], filled up with `value` to a
    multiple of `multiple`.
    """
    length = -(-max(map(len, rows)) // multiple) * multiple
    filled = np.full((len(rows), length), value, dtype=np.int64)
    for place, row in enumerate(rows):
        filled[
            place,
            slice(length - len(row), None) if side == "left" else slice(0, len(row)),
        ] = row
    return torch.from_numpy(filled)
