"""Texts rearranged for filling in: nothing is lost, nothing is special that somebody
wrote, and every fill ends.
"""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from miaobi.data.text import tokens
from miaobi.data.text.config import IGNORED, Config
from miaobi.data.text.filling import FILL_TOKENS, MARGIN, Filling, for_filling
from miaobi.data.text.packing import fingerprint
from miaobi.data.text.tokenizer import Tokenizer, characters, load
from miaobi.data.text.tokens import Tokens

SOURCE = "def area(r):\n    return 3.14 * r ** 2  # 面积\n\n\n"
TOKENIZER = for_filling(characters(Counter(SOURCE), 1))
PREFIX, SUFFIX, MIDDLE = (TOKENIZER.backend.token_to_id(token) for token in FILL_TOKENS)
END = TOKENIZER.end_id


def restored(ids: list[int], tokenizer: Tokenizer = TOKENIZER) -> str:
    """The text of one rearranged example, in its own order."""
    assert ids[0] == PREFIX and ids[-1] == END
    suffix, middle = ids.index(SUFFIX), ids.index(MIDDLE)
    before = tokenizer.decode(ids[1:suffix])
    behind = tokenizer.decode(ids[suffix + 1 : middle])
    return before + tokenizer.decode(ids[middle + 1 : -1]) + behind


def written(filling: Filling, text: str, length: int, seed: int) -> list[int]:
    window = np.array([*TOKENIZER.encode([text]), END])[:length]
    window = np.pad(window, (0, max(0, length - len(window))), constant_values=IGNORED)
    row = filling.rearranged(window, np.random.default_rng(seed))
    assert len(row) == length
    ids: list[int] = row[row != IGNORED].tolist()
    return ids


@given(
    text=st.text(st.characters(exclude_categories=["Cs"]), min_size=8, max_size=60),
    seed=st.integers(0, 2**32),
    suffix_first=st.sampled_from([0.0, 1.0]),
)
def test_a_rearranged_text_holds_the_same_characters(
    text: str, seed: int, suffix_first: float
) -> None:
    filling = Filling(TOKENIZER, 1.0, suffix_first)
    ids = written(filling, text, 4 * len(text) + MARGIN + 8, seed)
    assert restored(ids) == text
    assert (ids[1] == SUFFIX) or not suffix_first


@given(seed=st.integers(0, 2**32), length=st.integers(40, 200))
def test_what_a_window_cuts_off_ends_all_the_same(seed: int, length: int) -> None:
    text = SOURCE * 20
    ids = written(Filling(TOKENIZER, 1.0, 0.5), text, length, seed)
    assert text.startswith(restored(ids))
    assert len(ids) >= length - MARGIN


def test_several_documents_of_a_window_are_rearranged_one_by_one() -> None:
    parts = [SOURCE, SOURCE.upper(), "x = 1\n" * 10]
    window = np.concatenate([[*TOKENIZER.encode([part]), END] for part in parts])
    window = np.pad(window, (0, 60), constant_values=IGNORED)
    row = Filling(TOKENIZER, 1.0, 0.5).rearranged(window, np.random.default_rng(0))
    ids = row[row != IGNORED].tolist()
    ends = [-1, *np.flatnonzero(np.array(ids) == END).tolist()]
    texts = [restored(ids[first + 1 : last + 1]) for first, last in pairwise(ends)]
    assert texts == parts


def test_turns_and_short_texts_stay_as_they_are() -> None:
    turn = TOKENIZER.backend.token_to_id("<|im_start|>")
    window = np.array([turn, *TOKENIZER.encode([SOURCE]), END, 5, 6, END])
    row = Filling(TOKENIZER, 1.0, 0.5).rearranged(window, np.random.default_rng(0))
    assert row.tolist() == window.tolist()


@pytest.mark.parametrize("token", FILL_TOKENS)
def test_a_token_that_a_text_spells_is_text(token: str) -> None:
    ids = TOKENIZER.encode([f"a{token}b"])
    assert TOKENIZER.backend.token_to_id(token) not in ids
    assert TOKENIZER.decode(ids) == f"a{token}b"


def prepared(path: Path, **options: Any) -> Tokens:
    config = Config(path=str(path), validation=0.2, context_length=64, **options)
    return tokens.prepare(config, cache=path.parent / "cache", progress=False)


def corpus(folder: Path, count: int = 40) -> Path:
    lines = [
        json.dumps({"text": f"{SOURCE}y = {number} ** 2\n"}) for number in range(count)
    ]
    path = folder / "x.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_batches_are_pure_and_validation_reads_from_left_to_right(
    tmp_path: Path,
) -> None:
    path = corpus(tmp_path)
    plain, data = prepared(path), prepared(path, fill_rate=0.5)
    assert plain.folder == data.folder, "what is prepared does not depend on it"
    assert data.spec.vocab_size == plain.spec.vocab_size + len(FILL_TOKENS)
    first = data.batch("train", 3, 8, 1)
    again = data.batch("train", 3, 8, 1)
    assert first["ids"].equal(again["ids"])
    assert first["targets"].equal(again["targets"])
    rows = data.batch("train", 6, 4, 1)
    assert rows["ids"].equal(first["ids"][:4]), "it depends on the row's number alone"
    has_fill = (first["ids"] >= plain.spec.vocab_size).any(1)
    assert 0 < has_fill.sum() < 8
    for rate in (plain, data):
        [batch] = rate.batches("validation", 1000)
        assert (batch["ids"] < plain.spec.vocab_size).all()


def test_the_three_tokens_are_saved_with_the_model(tmp_path: Path) -> None:
    data = prepared(corpus(tmp_path), fill_rate=1.0)
    data.save(tmp_path / "bundle")
    saved = load(tmp_path / "bundle")
    assert [saved.backend.token_to_id(token) for token in FILL_TOKENS] == [
        data.spec.vocab_size - 3,
        data.spec.vocab_size - 2,
        data.spec.vocab_size - 1,
    ]


def test_one_document_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "one.txt"
    path.write_text(SOURCE * 30, encoding="utf-8")
    data = prepared(path, fill_rate=1.0)
    batch = data.batch("train", 0, 4, 0)
    assert (batch["ids"] == MIDDLE).sum(1).min() >= 1


def test_a_tokenizer_that_has_the_tokens_keeps_their_numbers() -> None:
    assert for_filling(TOKENIZER) is TOKENIZER


def test_fill_settings_do_not_change_the_fingerprint(tmp_path: Path) -> None:
    path = str(corpus(tmp_path))
    names = {
        fingerprint(Config(path=path, fill_rate=rate, fill_suffix_first=rate), tmp_path)
        for rate in (0.0, 1.0)
    }
    assert len(names) == 1
