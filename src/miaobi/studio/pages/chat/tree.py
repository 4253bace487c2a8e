"""A conversation as a tree: the branch that is looked at, and what stands beside each of
its turns.

Turns with the same parent are branches. Those with the same input are variants of one
answer; those with another are the question, worded otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from miaobi.serve.conversations import missing_turn, path_to
from miaobi.serve.records import Turn


@dataclass(frozen=True)
class Step:
    """A turn of the branch."""

    turn: Turn
    variants: list[Turn]
    """Answers to the same question, in the order in which they came; `turn` is one."""
    questions: list[Turn]
    """For each wording of the question the turn that was stored last; `turn` stands for
    its own.
    """

    @property
    def number(self) -> int:
        """Which of the variants it is, from 1."""
        return [turn.id for turn in self.variants].index(self.turn.id) + 1

    @property
    def question(self) -> int:
        """Which wording of the question it answers, from 1."""
        return [turn.id for turn in self.questions].index(self.turn.id) + 1


def branch(turns: Sequence[Turn], chosen: str | None) -> list[Step]:
    """Return the branch through `chosen`, to its newest end; without it, the one that was
    used last. Raise NotFound for a turn that is not there.
    """
    if not turns:
        return []
    by_id = {turn.id: turn for turn in turns}
    if chosen is not None and chosen not in by_id:
        raise missing_turn(chosen)
    last = by_id[chosen] if chosen else turns[-1]
    while children := [turn for turn in turns if turn.parent_id == last.id]:
        last = children[-1]
    return [step_of(turn, turns) for turn in path_to(last, turns)]


def step_of(turn: Turn, turns: Sequence[Turn]) -> Step:
    siblings = [other for other in turns if other.parent_id == turn.parent_id]
    variants = [other for other in siblings if other.input == turn.input]
    questions = list[Turn]()
    for other in siblings:
        alike = [question for question in questions if question.input == other.input]
        if not alike:
            questions.append(other)
        elif turn.id != alike[0].id:
            questions[questions.index(alike[0])] = other
    return Step(turn, variants, questions)


def turn_of(turns: Sequence[Turn], id: str) -> Turn:
    """Return a turn of a conversation. Raise NotFound."""
    for turn in turns:
        if turn.id == id:
            return turn
    raise missing_turn(id)
