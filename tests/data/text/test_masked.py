"""What is hidden in a text, and what is not: shares, whole words, halves, and that a
batch is a pure function of its number.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from miaobi.core.errors import BadInput
from miaobi.data.text import masked
from miaobi.data.text.masked import Config, Masked

SENTENCES = [f"The fox number {n} sleeps. It dreams of {n} grapes." for n in range(60)]


def prepared(folder: Path, texts: list[str] | None = None, **settings: Any) -> Masked:
    path = folder / "texts.jsonl"
    lines = [json.dumps({"text": text}) for text in texts or SENTENCES]
    path.write_text("\n".join(lines), encoding="utf-8")
    config = Config(path=str(path), min_frequency=1, **settings)
    return masked.prepare(config, cache=folder / "cache", progress=False)


def text_of(data: Masked, batch: dict[str, torch.Tensor], row: int) -> str:
    """A row without what was done to it."""
    targets, ids = batch["targets"][row], batch["ids"][row]
    whole = torch.where(targets == -100, ids, targets)[: int(batch["lengths"][row])]
    return data.tokenizer.decode(whole)


def test_rows_are_the_documents(tmp_path: Path) -> None:
    data = prepared(tmp_path, context_length=128, validation=0.2)
    rows = [
        text_of(data, batch, row)
        for split in ("train", "validation")
        for batch in data.batches(split, 7)
        for row in range(len(batch["ids"]))
    ]
    assert sorted(rows) == sorted(f"[CLS]{text}[SEP]" for text in SENTENCES)


def test_long_documents_come_in_parts(tmp_path: Path) -> None:
    data = prepared(tmp_path, ["abcdefghij" * 20], context_length=16, validation=0.0)
    parts = [
        text_of(data, batch, row)
        for batch in data.batches("train", 5)
        for row in range(len(batch["ids"]))
    ]
    assert len(parts) == -(-200 // 14)
    assert all(part.startswith("[CLS]") and part.endswith("[SEP]") for part in parts)


def test_batches_are_pure_functions(tmp_path: Path) -> None:
    data = prepared(tmp_path, context_length=64, sentences="nsp")
    again = prepared(tmp_path, context_length=64, sentences="nsp")
    for index in (0, 3, 40):
        one, two = data.batch("train", index, 8, 5), again.batch("train", index, 8, 5)
        assert all(torch.equal(one[name], two[name]) for name in one)
        other = data.batch("train", index, 8, 6)
        assert not torch.equal(one["targets"], other["targets"])
    first, second = (
        list(data.batches("validation", 4)),
        list(data.batches("validation", 4)),
    )
    assert all(
        torch.equal(a["ids"], b["ids"]) for a, b in zip(first, second, strict=True)
    )


def test_shares_are_those_of_the_paper(tmp_path: Path) -> None:
    data = prepared(tmp_path, context_length=128, mask=0.15, validation=0.0)
    hidden = replaced = kept = chosen = present = 0
    for index in range(120):
        batch = data.batch("train", index, 32, 0)
        targets, ids = batch["targets"], batch["ids"]
        here = targets != -100
        chosen += int(here.sum())
        present += int((batch["lengths"] - 2).sum())
        hidden += int((ids[here] == data.spec.mask_id).sum())
        kept += int((ids[here] == targets[here]).sum())
        replaced += int(here.sum()) - int(
            ((ids == targets) | (ids == data.spec.mask_id))[here].sum()
        )
    assert chosen / present == pytest.approx(0.15, abs=0.01)
    assert hidden / chosen == pytest.approx(0.8, abs=0.02)
    assert replaced / chosen == pytest.approx(0.1, abs=0.02)
    assert kept / chosen == pytest.approx(0.1, abs=0.02)


def test_every_row_hides_something_and_no_special_token(tmp_path: Path) -> None:
    data = prepared(tmp_path, context_length=64, mask=0.01, sentences="sop")
    for index in range(5):
        batch = data.batch("train", index, 16, 0)
        assert ((batch["targets"] != -100).sum(1) >= 1).all()
        assert (batch["targets"] < data.spec.pad_id).all()


def test_whole_words_are_hidden_together(tmp_path: Path) -> None:
    text = "春眠 don't (walk) éé 42x"
    data = prepared(tmp_path, [text] * 1 + SENTENCES, whole_words=True, validation=0.0)
    ids = np.array([data.tokenizer.encode([text])])
    words = data._words(ids)[0]
    pieces = data.tokenizer.decode
    joined: list[list[int]] = []
    for token, begins in zip(ids[0].tolist(), words.tolist(), strict=True):
        joined += [[token]] if begins else []
        if not begins:
            joined[-1].append(token)
    spelled = [pieces(word) for word in joined]
    assert "".join(spelled) == text
    assert {"春", "眠", "walk", "don", "éé"} <= {word.strip() for word in spelled}
    for index in range(3):
        batch = data.batch("train", index, 32, 0)
        for row in range(32):
            whole = torch.where(
                batch["targets"][row] == -100, batch["ids"][row], batch["targets"][row]
            )
            begins = data._words(whole[None].numpy())[0]
            chosen = (batch["targets"][row] != -100).numpy()
            number = begins.cumsum()
            for word in set(number[chosen].tolist()):
                assert chosen[number == word].all()


@pytest.mark.parametrize("task", ["nsp", "sop"])
def test_halves_are_in_order_or_not(tmp_path: Path, task: str) -> None:
    data = prepared(tmp_path, context_length=128, sentences=task, validation=0.0)
    found = {0: 0, 1: 0}
    for index in range(20):
        batch = data.batch("train", index, 16, 0)
        for row in range(16):
            _, first, second, _ = (
                text_of(data, batch, row)
                .replace("[CLS]", "|")
                .replace("[SEP]", "|")
                .split("|")
            )
            order = int(batch["order"][row])
            found[order] += 1
            if order == 0:
                assert first + second in SENTENCES
            elif task == "sop":
                assert second + first in SENTENCES
            else:
                assert first + second not in SENTENCES
            types = batch["types"][row][: int(batch["lengths"][row])]
            assert int((types == 0).sum()) == len(first) + 2
            assert first.endswith(".")
            assert len(data.tokenizer.encode([second])) + 1 == int(types.sum())
    assert 0.35 < found[1] / sum(found.values()) < 0.65


def test_a_written_mask_is_letters(tmp_path: Path) -> None:
    data = prepared(tmp_path, ["a [MASK] b [SEP] c"] * 1 + SENTENCES, validation=0.0)
    for batch in data.batches("train", 64):
        specials = batch["targets"][batch["targets"] != -100]
        assert (specials < data.spec.pad_id).all()
    tokens = data.text.stream("train")
    assert int(tokens.max()) < data.spec.pad_id
    assert "[MASK]" in data.text.text("train")


def test_one_document_has_no_other(tmp_path: Path) -> None:
    text = "The fox sleeps under the tree. " * 40
    data = prepared(tmp_path, [text], sentences="nsp", context_length=64)
    with pytest.raises(BadInput, match="one document") as error:
        data.batch("train", 0, 4, 0)
    assert "sop" in str(error.value.remedy)
    sop = prepared(tmp_path, [text], sentences="sop", context_length=64)
    assert sop.batch("train", 0, 4, 0)["order"].min() >= 0


def test_documents_of_one_token_have_no_halves(tmp_path: Path) -> None:
    data = prepared(tmp_path, ["a", "b", *SENTENCES], sentences="sop", validation=0.0)
    orders = torch.cat([batch["order"] for batch in data.batches("train", 1)])
    assert (orders == -100).sum() == 2


def test_a_context_without_room_is_refused(tmp_path: Path) -> None:
    data = prepared(tmp_path, context_length=3)
    with pytest.raises(BadInput, match="no text fits"):
        data.batch("train", 0, 2, 0)
