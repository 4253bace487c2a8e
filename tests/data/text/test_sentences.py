"""Sentences as rows: every one once, whole, and none that is empty or too long."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from miaobi.core.errors import BadInput
from miaobi.data.text import sentences
from miaobi.data.text.config import Config
from miaobi.data.text.sentences import Sentences

TEXTS = [f"sentence {number} says {number * number}" for number in range(60)]


def prepared(folder: Path, texts: list[str], length: int = 40) -> Sentences:
    path = folder / "x.jsonl"
    lines = [json.dumps({"text": text}) for text in texts]
    path.write_text("\n".join(lines), encoding="utf-8")
    config = Config(path=str(path), context_length=length, validation=0.2, strict=False)
    return sentences.prepare(config, cache=folder / "cache", progress=False)


def test_an_epoch_has_every_sentence_once(tmp_path: Path) -> None:
    data = prepared(tmp_path, TEXTS)
    count = data.count("train")
    assert count + data.count("validation") == len(TEXTS)
    for rows in (
        [data.batch("train", index, 1, 7) for index in range(count)],
        data.batches("train", 7),
    ):
        texts = list[str]()
        for batch in rows:
            ids, targets = batch["ids"], batch["targets"]
            assert (ids[:, 0] == data.spec.bos_id).all()
            for row, target in zip(ids, targets, strict=True):
                length = int((target != -100).sum())
                assert target[length - 1] == data.spec.eos_id
                assert row[1:length].equal(target[: length - 1])
                texts.append(data.tokenizer.decode(row[1:length].tolist()))
        assert sorted(texts) == sorted(data.documents("train"))
    first, again = data.batch("train", 2, 8, 7), data.batch("train", 2, 8, 7)
    assert first["ids"].equal(again["ids"])


def test_what_is_longer_than_the_context_is_left_out(tmp_path: Path) -> None:
    data = prepared(tmp_path, [*TEXTS, "x" * 200])
    assert data.count("train") + data.count("validation") == len(TEXTS)


def test_empty_sentences_are_left_out(tmp_path: Path) -> None:
    data = prepared(tmp_path, [*TEXTS, "", "   "])
    assert data.count("train") + data.count("validation") <= len(TEXTS) + 1
    assert all(batch["ids"].size(1) > 1 for batch in data.batches("train", 1))


def test_a_corpus_of_one_document_says_how_to_cut_it(tmp_path: Path) -> None:
    data = prepared(tmp_path, [" ".join(TEXTS)])
    with pytest.raises(BadInput, match="no sentence of 1 to 39 tokens") as refused:
        data.batch("train", 0, 4, 0)
    assert "separator" in str(refused.value.remedy)
