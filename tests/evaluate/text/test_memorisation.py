"""The longest verbatim copy, against a search that tries everything."""

import random
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.evaluate.text_models import unigram

from miaobi.evaluate.text import memorisation
from miaobi.evaluate.text.memorisation import longest_copies

TRAINING = (
    "床前明月光，疑是地上霜。举头望明月，低头思故乡。\nShall I compare thee to a "
    "summer's day? Thou art more lovely.\n"
)


@pytest.fixture
def training(tmp_path: Path) -> Path:
    path = tmp_path / "training.txt"
    path.write_text(TRAINING, encoding="utf-8")
    return path


def plainly(text: str, corpus: str) -> int:
    return max(
        (
            last - first
            for first in range(len(text))
            for last in range(first, len(text) + 1)
            if text[first:last] in corpus
        ),
        default=0,
    )


def test_a_copied_sentence_is_found_whole(training: Path) -> None:
    found = longest_copies(
        [
            "他说：举头望明月，低头思故乡。真好",
            "I said: Shall I compare thee to a rose?",
            "qqq",
            "",
        ],
        training,
    )
    assert found == ["举头望明月，低头思故乡。", "Shall I compare thee to a ", "", ""]


def test_never_half_a_character(training: Path) -> None:
    assert longest_copies(["床后"], training) == ["床"]
    assert longest_copies(["\U00024b62"], training) == [""]


@settings(max_examples=150)
@given(
    st.text(alphabet="ab春秋", max_size=60),
    st.lists(st.text(alphabet="ab春秋", max_size=25), min_size=1, max_size=4),
)
def test_it_agrees_with_trying_everything(
    tmp_path_factory: pytest.TempPathFactory, corpus: str, texts: list[str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "corpus.txt"
    path.write_text(corpus, encoding="utf-8", newline="")
    copies = longest_copies(texts, path)
    assert [len(copy) for copy in copies] == [plainly(text, corpus) for text in texts]
    assert all(
        copy in corpus and copy in text
        for copy, text in zip(copies, texts, strict=True)
    )


def test_a_copy_across_a_block_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memorisation, "BLOCK", 64)
    draw = random.Random(0)
    corpus = "".join(draw.choices("abcdefghijklmnopqrstuvwxyz ", k=1000))
    path = tmp_path / "corpus.txt"
    path.write_text(corpus)
    for first in range(0, 200, 7):
        assert longest_copies(["#" + corpus[first : first + 50] + "#"], path) == [
            corpus[first : first + 50]
        ]


def test_fifteen_megabytes_are_searched_quickly(tmp_path: Path) -> None:
    draw = random.Random(0)
    words = [
        "".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9)))
        for _ in range(5000)
    ]
    corpus = " ".join(draw.choices(words, k=2_400_000))
    path = tmp_path / "corpus.txt"
    path.write_text(corpus)
    assert path.stat().st_size > 14e6
    texts = [
        corpus[place * 1000 : place * 1000 + 60] + " ".join(draw.choices(words, k=40))
        for place in range(20)
    ]
    began = time.perf_counter()
    found = longest_copies(texts, path)
    assert time.perf_counter() - began < 20
    assert all(len(copy) >= 60 for copy in found)


def test_a_copier_stands_out_and_a_writer_does_not(training: Path) -> None:
    held = ["乙丙丁戊己庚辛壬癸子丑寅卯辰巳", "午未申酉戌亥东南西北中左右上下前"] * 5
    copier = replace(
        unigram({"a": 1.0}),
        held_out=held,
        training=training,
        count=4,
        generate=lambda prompt, **controls: ["床前明月光，疑是地上霜。"],
    )
    found = {score.name: score for score in memorisation.measure(copier)}
    assert found["longest_copy"].value == 12 and found["copied_share"].value == 1
    assert found["longest_copy_held_out"].value <= 1
    writer = replace(copier, generate=lambda prompt, **controls: ["甲乙丙丁"])
    assert {score.name: score.value for score in memorisation.measure(writer)}[
        "copied_share"
    ] == 0


def test_an_empty_training_text_is_copied_from_by_nobody(tmp_path: Path) -> None:
    path = tmp_path / "empty.txt"
    path.touch()
    assert longest_copies(["anything", ""], path) == ["", ""]
