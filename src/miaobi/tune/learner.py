"""The contract between fine-tuning and its tasks: labelled examples in, a head and a
loss, answers and metrics out.

A task is a module in `tune/tasks/` with the names of `Task`. What is tuned is a
`Learner`: a pretrained model with the task's head. Every metric is a function of sums
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
from miaobi.nn.objective import Batch, Loss, Objective, Phase, prepared

Features = Mapping[str, np.ndarray]
"""One encoded example."""
Side = Literal["left", "right"]


@dataclass(frozen=True)
class Example:
    """One labelled example: columns in the task's own terms, and where they were written."""

    columns: Mapping[str, Any]
    location: str
    """chats.jsonl:12"""
    parts: Mapping[str, Any] = field(default_factory=dict)
    """The columns that make up the question, without the answer. Duplicates and leaks
    are recognised by them.
    """
    unused: frozenset[str] = frozenset()
    """Keys of the record that the columns were not made of."""


@dataclass(frozen=True)
class Metric:
    """A function of sums over examples: accuracy = combine([right, all])."""

    name: str
    combine: Callable[[np.ndarray], np.ndarray]
    """counts [..., K] -> values [...]"""
    better: Literal["lower", "higher"]
    label: tuple[str, str]
    """In English and in Chinese."""
    unit: str = ""


class Evaluation(NamedTuple):
    """How well a model did on one example."""

    loss: float
    """The worst examples are those with the greatest."""
    counts: Mapping[str, np.ndarray]
    """By metric, what the example adds to its sums: float64 [K]."""
    answer: Any = None
    """The model's answer, JSON-able; None where the evaluation needs none."""


class Piece(NamedTuple):
    """A part of an encoded example, for the preview."""

    text: str
    learned: bool
    """Whether the loss looks at it."""


class Callback(nn.Module):
    """What accompanies a run: layers that thaw, ranks that are allocated anew.

    Its buffers are saved in checkpoints.
    """

    def before_step(self, learner: Learner) -> None:
        """Called before each step; `learner.progress` is the share of the run so far."""

    def after_step(self, learner: Learner, step: int, max_steps: int) -> None:
        """Called after step number `step` (from 1), with its gradients still there."""

    def penalty(self, learner: Learner) -> Tensor | None:
        """Return what is added to the mean loss while training, a scalar."""
        return None


class Learner(Objective):
    """A pretrained model with the head of a task, and the loss it is tuned by.

    Adapters are put into `net`, and it is what is frozen. It is wrapped after the
    learner was made, so call it as `self.net`.
    """

    unit = "examples"
    writes = False
    """Whether its answers are texts that it writes, worth reading while it learns."""
    fresh: Sequence[str] = ()
    """Names of modules inside `net` whose weights are new: always trained, and saved
    whole beside an adapter.
    """
    blocks: str = ""
    """The name inside `net` of the ModuleList of its layers ("model.layers"), for
    freezing by layer; empty where there is none.
    """
    adapter_kind: str | None = None
    """PEFT's name of the task (CAUSAL_LM, SEQ_CLS, ...), for adapters that need it."""
    learning_rate_factor = 1.0
    """Multiplies the learning rate that is derived where none is given."""
    neftune_alpha: float | None = None
    """Noise on embeddings while training. None: the net's input embeddings add it. A
    number (0 for none): the learner adds it itself.
    """
    virtual_tokens = 0
    """Tokens that `self.net` puts before those of every row (prompt and prefix tuning).
    Then call the net whole, one example a row, with an attention mask; its answers
    come without them.
    """

    added_ids: Sequence[int] = ()
    """Numbers of the tokens that were added to the base: their rows are trained, beside
    an adapter too.
    """

    may_teach_nothing = False
    """Whether the loss may look at nothing of an encoded example; then `learned` counts."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        # Checkpoints know the callbacks by this name.
        self.register_module("companions", nn.ModuleList())
        self.rates: dict[str, float] = {}
        """Multiples of the learning rate, by the name of a parameter of `net`."""

    @property
    def callbacks(self) -> nn.ModuleList:
        """A list of `Callback`s."""
        callbacks = self.get_submodule("companions")
        assert isinstance(callbacks, nn.ModuleList)
        return callbacks

    def phases(self) -> list[Phase]:
        return [Phase("model", self.net, self.penalised_loss, rates=self.rates)]

    def penalised_loss(self, batch: Batch) -> Loss:
        """Return the loss with the callbacks' penalties added to its mean."""
        loss = self.loss(batch)
        penalties = torch.zeros(())
        for callback in self._callbacks():
            penalty = callback.penalty(self)
            if penalty is not None:
                penalties = penalties + penalty
        if not penalties.requires_grad:
            return loss
        return replace(loss, total=loss.total + loss.count * penalties)

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
        """Return an example as arrays, also that of a question without an answer.

        An example longer than `max_length` is cut (0: nothing is). Whoever wants to
        split, drop or count such examples uses `length` before (tune/examples.py).
        """

    @abstractmethod
    def length(self, columns: Mapping[str, Any]) -> int:
        """Return the tokens of an example before any cutting; 0 for pictures."""

    def unwritten(self, columns: Mapping[str, Any]) -> frozenset[str]:
        """Return the keys of an example that the base has no way to read.

        Raises Unusable or BadInput for an example that it cannot learn.
        """
        return frozenset()

    def learned(self, features: Features) -> int:
        """Return at how many tokens, or labels, of an encoded example the loss looks."""
        return 1

    def loses_answer(self, columns: Mapping[str, Any], max_length: int) -> bool:
        """Return whether cutting a longer example to `max_length` takes the end of what is
        learned, not only the beginning of what is read.
        """
        return True

    @abstractmethod
    def collate(self, features: Sequence[Features]) -> Batch:
        """Return encoded examples as one batch."""

    @abstractmethod
    def loss(self, batch: Batch) -> Loss:
        """Return the summed loss of a prepared batch, and its count."""

    @abstractmethod
    def metrics(self) -> Sequence[Metric]:
        """Return what this task is measured by; models are compared by the first."""

    @abstractmethod
    def evaluate(self, batch: Batch) -> list[Evaluation]:
        """Return how well each example of a prepared batch went.

        Called without gradients, with `net` in evaluation mode.
        """

    def evaluate_all(self, batches: Iterable[Batch]) -> list[Evaluation]:
        """Return how well each example of a set of prepared batches went, in order.

        For tasks that evaluate an example by all others (embedding ranks them).
        """
        evaluations = list[Evaluation]()
        for batch in batches:
            evaluations += self.evaluate(batch)
        return evaluations

    def answer(self, columns: Mapping[str, Any]) -> Any:
        """Return the model's answer to one question, JSON-able.

        For people to read, and for the engine that serves the model.
        """
        with torch.no_grad():
            return self.evaluate(self.batch_of(columns))[0].answer

    def batch_of(self, columns: Mapping[str, Any]) -> Batch:
        """Return one example, of any length, as a prepared batch."""
        return prepared(self, self.collate([self.encode(columns, 0)]))

    def preview(self, features: Features) -> list[Piece]:
        """Return an encoded example as the model will see it, with what the loss looks
        at; empty where nothing can be shown as text.
        """
        return []

    def split(
        self, columns: Mapping[str, Any], max_length: int
    ) -> list[Mapping[str, Any]]:
        """Return an example that is too long as several.

        Raises Unsupported where that makes no sense for the task.
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
        """Write what turns a user's input into the model's, and what the head's outputs
        mean (tokenizer, template, labels): everything but weights.

        The task's `learner` reads the same through its base and `spec`.
        """

    @property
    def device(self) -> torch.device:
        return next(self.net.parameters()).device


class Task(Protocol):
    """A module in tune/tasks/, registered by name."""

    NAME: str
    SUMMARY: tuple[str, str]
    """In English and in Chinese."""
    MODALITY: str
    """Of the question: "text" or "image"."""
    MAKES: str
    """What a tuned model makes: "text" (it writes), "image" (it makes pictures) or "labels"
    (labels, boxes, vectors: the `tuned` engine).
    """
    ASK: str
    """The options of `miaobi generate` that a question to a tuned model needs."""
    READER: str
    """What opens its data: a name in the readers registry."""
    EXAMPLE: str
    """One line of JSONL as it is expected, for error messages and help."""
    Config: type
    """A dataclass: the head and the loss, the `head` section of a recipe."""

    def columns(self, record: Mapping[str, Any], config: Any) -> Mapping[str, Any]:
        """Return a record as people write it in the task's terms.

        {"text": ..., "label": ...}; keys that it does not read are named as unused.
        Raises Unusable (data/text/shapes), with what is wrong and the remedy, also for
        a missing answer.
        """
        ...

    def question(self, columns: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the columns without the answer."""
        ...

    def group(self, columns: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what examples share that must stand on one side of a split.

        This is the question, or less of it (the text that several questions are about).
        """
        ...

    def survey(self, examples: Sequence[Example], config: Any) -> Mapping[str, Any]:
        """Return what the head needs to know of the training data, JSON-able.

        Labels, for instance, and how many there are of each. Raises BadInput for data
        that cannot teach (one class only).
        """
        ...

    def check(self, example: Example, spec: Mapping[str, Any], config: Any) -> None:
        """Raise Unusable for an example that does not fit the training data.

        It has, for instance, a label that never occurred there.
        """
        ...

    def learner(self, base: Base, spec: Mapping[str, Any], config: Any) -> Learner:
        """Return the base's model with this task's head.

        Raises Unsupported for a base of another kind, naming kinds that would do.
        """
        ...


def padded(
    rows: Sequence[np.ndarray],
    value: int,
    side: Side = "right",
    multiple: int = 8,
) -> Tensor:
    """Return rows of unequal length as one tensor, int64 [rows, length].

    Args:
        rows: integers [length].
        value: what rows are filled up with.
        side: where they are filled up.
        multiple: the length is a multiple of it.
    """
    length = -(-max(map(len, rows)) // multiple) * multiple
    result = np.full((len(rows), length), value, dtype=np.int64)
    for number, row in enumerate(rows):
        if side == "left":
            result[number, length - len(row) :] = row
        else:
            result[number, : len(row)] = row
    return torch.from_numpy(result)
