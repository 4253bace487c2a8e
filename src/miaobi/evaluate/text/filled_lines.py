"""How well a model writes a line of Python that is hidden in a file.

In each held-out file a statement of one line is hidden, and the model writes the rest of
its line between what stands before and behind, greedily. Whether the file parses then is
`ast.parse`'s word. Beside it the line that an n-gram model writes: each token the
commonest behind the longest of the last tokens, four at most, that training has seen
(Brants et al. 2007, "stupid backoff").
"""

from __future__ import annotations

import ast
import random
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from miaobi.core.language import say
from miaobi.evaluate.score import Score, share_interval
from miaobi.evaluate.subject import FILLS, HELD_OUT
from miaobi.evaluate.text.subject import Completer, TextSubject

MODALITY = "text"
NEEDS = frozenset({FILLS, HELD_OUT})
ORDER = 4
"""Tokens that the n-gram model looks back at most."""
LONGEST = 64
"""Tokens of a line."""
SHORTEST = 4
"""Characters of a line that is hidden."""


class HiddenLine(NamedTuple):
    """A file without one of its lines."""

    before: str
    """With the indentation of the line."""
    line: str
    behind: str
    """From the end of the line on."""


def measure(subject: TextSubject) -> list[Score]:
    completer = subject.completer
    assert completer is not None
    hidden = hidden_lines(subject.held_out, subject.seed)
    if not hidden:
        return []
    ngram = NGram(completer)
    lines = list[str]()
    guesses = list[str]()
    for number, (before, _, behind) in enumerate(hidden, 1):
        lines.append(completer.fill(before, behind))
        guesses.append(ngram.line(before))
        subject.progress(number / len(hidden))
    truth = [item.line.strip() for item in hidden]
    rows = {
        "fills_that_parse": (
            [parses(item, line) for item, line in zip(hidden, lines, strict=True)],
            say("Lines filled in that parse", "补全后可解析的行"),
        ),
        "exact_lines": (
            [line.strip() == right for line, right in zip(lines, truth, strict=True)],
            say("Lines filled in exactly", "补全完全正确的行"),
        ),
        "exact_lines_ngram": (
            [line.strip() == right for line, right in zip(guesses, truth, strict=True)],
            say("The same, an n-gram model", "n 元模型的同一指标"),
        ),
    }
    detail = say(
        "statements of one line, one hidden in each held-out file, filled in greedily; Wilson's interval",
        "每个留出文件隐去一条单行语句，贪心补全；Wilson 区间",
    )
    return [
        Score(
            name,
            *share_interval(sum(right) / len(right), len(right)),
            n=len(right),
            better="higher",
            detail=detail,
            label=label,
        )
        for name, (right, label) in rows.items()
    ]


def hidden_lines(files: Sequence[str], seed: int) -> list[HiddenLine]:
    """Return each file that parses without one of its statements, drawn evenly."""
    draw = random.Random(seed)
    hidden = list[HiddenLine]()
    for text in files:
        statements = list(_statements(text))
        if statements:
            hidden.append(draw.choice(statements))
    return hidden


def _statements(text: str) -> Iterator[HiddenLine]:
    """Yield the simple statements that stand on a line of their own."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return
    lines = text.splitlines(keepends=True)
    for node in ast.walk(tree):
        if not isinstance(node, ast.stmt) or node.lineno != node.end_lineno:
            continue
        line = lines[node.lineno - 1]
        content = line.strip()
        if len(content) < SHORTEST:
            continue
        start = len(line) - len(line.lstrip())
        before = "".join(lines[: node.lineno - 1]) + line[:start]
        behind = line[start + len(content) :] + "".join(lines[node.lineno :])
        yield HiddenLine(before, content, behind)


def parses(hidden: HiddenLine, line: str) -> bool:
    """Whether the file parses with a line, not an empty one, in place of the hidden."""
    if not line.strip():
        return False
    try:
        ast.parse(hidden.before + line + hidden.behind)
    except (SyntaxError, ValueError):
        return False
    return True


class NGram:
    """Writes a line token by token, from how training went on after the last tokens."""

    def __init__(self, completer: Completer) -> None:
        self.completer = completer
        self.tokens = np.asarray(completer.training)

    def line(self, before: str) -> str:
        """Return what stands most often behind a text, up to the end of the line."""
        context = self.completer.encode(before[-LONGEST * ORDER :])
        written = list[int]()
        for _ in range(LONGEST):
            written.append(self.next([*context, *written]))
            text = self.completer.decode(written)
            if "\n" in text:
                return text.partition("\n")[0]
        return self.completer.decode(written)

    def next(self, context: Sequence[int]) -> int:
        """Return the commonest token behind the longest end of a context that is known."""
        known = self._behind(context[-1]) if context else np.array([], dtype=int)
        for back in range(2, ORDER + 1):
            if back > len(context):
                break
            at = known[known >= back]
            longer = at[self.tokens[at - back] == context[-back]]
            if not len(longer):
                break
            known = longer
        if not len(known):
            return self._commonest
        return int(np.bincount(self.tokens[known]).argmax())

    def _behind(self, token: int) -> np.ndarray:
        """Return the positions behind a token."""
        first, stop = np.searchsorted(self._sorted, [token, token + 1])
        at = self._order[first:stop] + 1
        return np.compress(at < len(self.tokens), at)

    @cached_property
    def _order(self) -> np.ndarray:
        """The positions of all tokens, by token."""
        return np.argsort(self.tokens, kind="stable")

    @cached_property
    def _sorted(self) -> np.ndarray:
        return np.take(self.tokens, self._order)

    @cached_property
    def _commonest(self) -> int:
        return int(np.bincount(self.tokens).argmax())
