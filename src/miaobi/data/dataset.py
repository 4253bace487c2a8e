"""What the training loop asks of prepared data, whatever the modality."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from miaobi.nn.objective import Batch


class Dataset(Protocol):
    """Prepared data. A module in the datasets registry has `Config` and
    `prepare(config) -> Dataset`.
    """

    spec: Any
    """What a family needs to know to build a model for it (vocabulary size, picture shape, ...)."""
    fingerprint: str
    folder: Path

    def batch(self, split: str, index: int, size: int, seed: int) -> Batch:
        """Batch number `index` of an endless, shuffled stream: a pure function of its
        arguments, so a run resumes exactly from its step number alone.
        """
        ...

    def batches(self, split: str, size: int) -> Iterator[Batch]:
        """The whole split once, in order."""
        ...

    def save(self, folder: Path) -> None:
        """Write what turns a user's input into the model's (tokenizer, preprocessing)
        into a bundle.
        """
        ...


@runtime_checkable
class Placed(Protocol):
    """Data that can tell where the examples of a batch were written."""

    def places(self, split: str, index: int, size: int, seed: int) -> list[str]:
        """Of `batch` with the same arguments: ["chats.jsonl:12", ...]."""
        ...
