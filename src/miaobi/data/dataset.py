"""What the training loop needs of prepared data, whatever the modality."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from miaobi.data.survey import Survey

Batch = Mapping[str, Tensor]
"""Tensors by name; the first axis of each counts the examples."""


class Dataset(Protocol):
    """Prepared data."""

    @property
    def spec(self) -> Any:
        """What a family needs to build a model for it: a TokenSpec, a PictureSpec, ..."""
        ...

    @property
    def fingerprint(self) -> str:
        """Names the content, the configuration and the format of the files."""
        ...

    @property
    def folder(self) -> Path: ...

    def batch(self, split: str, index: int, size: int, seed: int) -> Batch:
        """Return batch number `index` of an endless, shuffled stream.

        It is a pure function of its arguments, so a run resumes exactly from its step
        number alone.
        """
        ...

    def batches(self, split: str, size: int) -> Iterator[Batch]:
        """Yield the whole split once, always in the same order.

        A validation may look at the first batches alone: they are to be like the others.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write what turns a user's input into the model's (tokenizer, preprocessing)
        into a bundle.
        """
        ...


class DatasetModule(Protocol):
    """A module that prepares data, registered by name (`miaobi.data.datasets`)."""

    Config: type
    """A dataclass: where the data lies and how it is prepared."""
    CONTENT: tuple[str, str]
    """What it reads, in English and in Chinese, for an error."""

    def prepare(self, config: Any) -> Dataset: ...

    def holds(self, path: Path) -> bool:
        """Return whether its data lies at `path`, which exists, by content."""
        ...

    def inspect(self, path: Path, *, strict: bool, **options: Any) -> Survey:
        """Read what it holds as training would, and return its content and problems.

        Args:
            path: which it holds.
            strict: raise BadInput at the first problem.
            options: those of `miaobi data inspect` that its signature names.
        """
        ...


@runtime_checkable
class Located(Protocol):
    """Data that records where each example was written."""

    def locations(self, split: str, index: int, size: int, seed: int) -> list[str]:
        """Return file and line of each example of `batch` with the same arguments:
        ["chats.jsonl:12", ...].
        """
        ...
