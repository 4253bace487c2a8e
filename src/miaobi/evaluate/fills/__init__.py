"""What a model that fills masks is evaluated by: held-out texts with a word hidden."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from miaobi.evaluate.subject import Subject


class Hidden(NamedTuple):
    """A text in which one token is hidden."""

    ids: list[int]
    """The text as the model reads it, whole."""
    position: int
    document: int


@dataclass(frozen=True, eq=False)
class FillSubject(Subject):
    """A model with texts in which words are hidden, one at a time."""

    modality = "fills"

    name: str
    questions: Sequence[Hidden]
    rank: Callable[[Hidden], int]
    """How many tokens the model finds likelier than the one that was hidden."""
    training: np.ndarray
    """The tokens that it was trained on, [tokens]."""

    def lacks(self, needs: frozenset[str]) -> str:
        return ""
