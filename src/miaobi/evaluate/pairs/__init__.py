"""What a model that writes targets for sources is evaluated by: held-out pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from miaobi.evaluate.subject import Subject


class Pair(NamedTuple):
    source: str
    """With its language token, where there are languages."""
    target: str


@dataclass(frozen=True, eq=False)
class PairSubject(Subject):
    """A model with held-out pairs, and those that it was trained on."""

    modality = "pairs"

    name: str
    write: Callable[[str], str]
    """What the model writes for a source."""
    held_out: Sequence[Pair]
    training: Sequence[Pair]
    translates: bool
    """Whether source and target are in two languages."""

    @cached_property
    def answers(self) -> list[str]:
        """What the model writes for every held-out source."""
        answers = list[str]()
        for number, pair in enumerate(self.held_out, 1):
            answers.append(self.write(pair.source))
            self.progress(number / len(self.held_out))
        return answers

    def lacks(self, needs: frozenset[str]) -> str:
        return ""
