"""Lines of Python that are hidden and filled in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from tests.evaluate.text_models import unigram

from miaobi.evaluate.text import filled_lines
from miaobi.evaluate.text.filled_lines import NGram, hidden_lines, parses
from miaobi.evaluate.text.subject import Completer

FILE = '''\
import os

def area(r):
    """In square metres."""
    for _ in range(2): r += 1
    return 3 * r ** 2  # about

print(
    area(2))
'''


def completer(fill: str, training: str = "") -> Completer:
    """One that writes `fill`; its tokens are characters."""
    return Completer(
        lambda before, behind: fill,
        np.array([ord(letter) for letter in training] or [0]),
        lambda text: list(map(ord, text)),
        lambda ids: "".join(map(chr, ids)),
    )


def test_a_statement_of_one_line_is_hidden() -> None:
    lines = set[str]()
    for seed in range(60):
        (hidden,) = hidden_lines([FILE, "def broken(:\n", "x"], seed)
        assert hidden.before + hidden.line + hidden.behind == FILE
        assert parses(hidden, hidden.line)
        assert hidden.behind.startswith("\n")
        lines.add(hidden.line)
    assert lines == {
        "import os",
        '"""In square metres."""',
        "for _ in range(2): r += 1",
        "return 3 * r ** 2  # about",
    }


def test_what_parses_is_python_and_not_empty() -> None:
    (hidden,) = hidden_lines([FILE], 0)
    assert parses(hidden, "pass")
    assert not parses(hidden, "return (")
    assert not parses(hidden, "  ")


def test_scores_of_one_who_always_writes_the_same() -> None:
    files = ["value = 1\n"] * 3 + ["other = 2\n"]
    subject = replace(
        unigram({"a": 1.0}), held_out=files, completer=completer("value = 1")
    )
    scores = {score.name: score for score in filled_lines.measure(subject)}
    assert scores["fills_that_parse"].value == 1
    assert scores["exact_lines"].value == 0.75
    assert scores["exact_lines"].n == 4
    assert scores["exact_lines"].low < 0.75 < scores["exact_lines"].high


def test_the_ngram_writes_what_stood_most_often_behind_the_longest_context() -> None:
    training = "a = 1\nxb = 2\na = 1\nyb = 3\nyb = 3\n"
    ngram = NGram(completer("", training))
    assert ngram.line("a ") == "= 1"
    assert ngram.line("yb =") == " 3"
    assert ngram.line("xb =") == " 3", "the x is too far back"
    assert ngram.next([ord("?")]) == ord(" "), "an unknown context: the commonest"


def test_a_model_that_does_not_fill_in_is_not_concerned() -> None:
    assert not unigram({"a": 1.0}).concerns(filled_lines.NEEDS)
