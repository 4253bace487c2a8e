"""The longest verbatim copy, against a search that tries everything."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.evaluate.text_models import unigram

from miaobi.evaluate.score import Score
from miaobi.evaluate.text import memorisation
from miaobi.evaluate.text.memorisation import longest_copies
from miaobi.evaluate.text.subject import TextSubject

TRAINING = (
    "床前明月光，疑是地上霜。举头望明月，低头思故乡。\n"
    "Shall I compare thee to a summer's day? Thou art more lovely.\n"
)
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture
def training(tmp_path: Path) -> Path:
    path = tmp_path / "training.txt"
    path.write_text(TRAINING, encoding="utf-8")
    return path


def longest_by_trying(text: str, corpus: str) -> int:
    lengths = [
        end - start
        for start in range(len(text))
        for end in range(start, len(text) + 1)
        if text[start:end] in corpus
    ]
    return max(lengths, default=0)


def test_a_copied_sentence_is_returned_whole(training: Path) -> None:
    texts = [
        "他说：举头望明月，低头思故乡。真好",
        "I said: Shall I compare thee to a rose?",
        "qqq",
        "",
    ]
    copies = longest_copies(texts, training)
    assert copies == ["举头望明月，低头思故乡。", "Shall I compare thee to a ", "", ""]


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
    for text, copy in zip(texts, longest_copies(texts, path), strict=True):
        assert len(copy) == longest_by_trying(text, corpus)
        assert copy in corpus
        assert copy in text


def test_a_copy_across_a_block_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memorisation, "BLOCK", 64)
    corpus = "".join(random.Random(0).choices(LETTERS + " ", k=1000))
    path = tmp_path / "corpus.txt"
    path.write_text(corpus)
    for start in range(0, 200, 7):
        piece = corpus[start : start + 50]
        assert longest_copies([f"#{piece}#"], path) == [piece]


def test_copies_are_found_in_fifteen_megabytes(tmp_path: Path) -> None:
    draw = random.Random(0)
    words = ["".join(draw.choices(LETTERS, k=draw.randint(2, 9))) for _ in range(5000)]
    corpus = " ".join(draw.choices(words, k=2_400_000))
    path = tmp_path / "corpus.txt"
    path.write_text(corpus)
    assert path.stat().st_size > 14e6
    texts = list[str]()
    for start in range(0, 20_000, 1000):
        others = " ".join(draw.choices(words, k=40))
        texts.append(corpus[start : start + 60] + others)
    assert all(len(copy) >= 60 for copy in longest_copies(texts, path))


def measure(subject: TextSubject) -> dict[str, Score]:
    return {score.name: score for score in memorisation.measure(subject)}


def test_a_copier_stands_out_and_a_writer_does_not(training: Path) -> None:
    held_out = [
        "乙丙丁戊己庚辛壬癸子丑寅卯辰巳",
        "午未申酉戌亥东南西北中左右上下前",
    ]
    copier = replace(
        unigram({"a": 1.0}),
        held_out=held_out * 5,
        training=training,
        count=4,
        generate=lambda prompt, **controls: ["床前明月光，疑是地上霜。"],
    )
    scores = measure(copier)
    assert scores["longest_copy"].value == 12
    assert scores["copied_share"].value == 1
    assert scores["longest_copy_held_out"].value <= 1
    writer = replace(copier, generate=lambda prompt, **controls: ["甲乙丙丁"])
    assert measure(writer)["copied_share"].value == 0


def test_nothing_is_copied_from_an_empty_training_text(tmp_path: Path) -> None:
    path = tmp_path / "empty.txt"
    path.touch()
    assert longest_copies(["anything", ""], path) == ["", ""]
