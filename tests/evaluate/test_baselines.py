"""What a model is compared with that costs none: a trigram, a memory, the first sentence."""

from __future__ import annotations

import numpy as np
import pytest

from miaobi.evaluate.fills import Hidden
from miaobi.evaluate.fills.accuracy import trigram
from miaobi.evaluate.pairs import Pair
from miaobi.evaluate.pairs.overlap import (
    exact_counts,
    lead,
    remembered,
    word_f1_counts,
)


def test_a_trigram_asks_both_neighbours_then_one_then_none() -> None:
    training = np.array([1, 2, 3, 1, 2, 3, 1, 4, 3, 5, 6, 7, 7, 7, 7])
    questions = [
        Hidden([1, 0, 3], 1, 0),  # between 1 and 3 stood 2 twice and 4 once
        Hidden([5, 0, 9], 1, 1),  # 5 and 9 never met; 6 stood behind 5
        Hidden([9, 0, 9], 1, 2),  # 9 never occurred; 7 is the commonest
    ]
    assert trigram(training, questions) == [2, 6, 7]


def test_a_memory_answers_with_the_most_alike_in_the_wanted_language() -> None:
    training = [
        Pair(">>en<<打开文件", "Open file"),
        Pair(">>fr<<打开文件", "Ouvrir"),
        Pair(">>en<<保存文件夹", "Save folder"),
        Pair(">>zh<<Open file", "打开文件"),
    ]
    asked = [">>en<<打开文件", ">>en<<保存这个文件夹", ">>zh<<open files", ">>fr<<保存"]
    assert remembered(training, asked) == [
        "Open file",
        "Save folder",
        "打开文件",
        "Ouvrir",
    ]


def test_the_first_sentence() -> None:
    assert lead("One. Two!") == "One."
    assert lead("第一句。第二句。") == "第一句。"
    assert lead("no end") == "no end"


@pytest.mark.parametrize(
    ("answer", "reference", "f1"),
    [("a b", "b a", 1.0), ("A", "a b", 2 / 3), ("", "a", 0.0), ("文 件", "文件", 1.0)],
)
def test_f1_of_words(answer: str, reference: str, f1: float) -> None:
    assert word_f1_counts(answer, reference).tolist() == [pytest.approx(f1), 1.0]
    assert exact_counts(f" {reference}\n", reference).tolist() == [1.0, 1.0]
