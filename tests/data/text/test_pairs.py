"""Pairs: directions, splits without leaks, lengths, and every kind of bad record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from miaobi.core.errors import BadInput, NotFound
from miaobi.data.text import pairs
from miaobi.data.text.pairs import Config, Pairs, tagged


def written(folder: Path, records: list[Any], name: str = "pairs.jsonl") -> str:
    path = folder / name
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def prepared(folder: Path, records: list[Any], **settings: Any) -> Pairs:
    config = Config(path=written(folder, records), **{"vocab_size": 400, **settings})
    return pairs.prepare(config, cache=folder / "cache", progress=False)


def numbered(count: int) -> list[dict[str, str]]:
    return [
        {"zh": f"第{n}个文件", "en": f"file {n}", "package": f"p{n % 7}"}
        for n in range(count)
    ]


def texts(data: Pairs, *splits: str) -> list[tuple[str, str]]:
    splits = splits or ("train", "validation", "test")
    return [pair for split in splits for pair in data.texts(split)]


def test_every_pair_comes_in_both_directions(tmp_path: Path) -> None:
    data = prepared(tmp_path, numbered(50), languages=["zh", "en"])
    expected = [(f">>en<<第{n}个文件", f"file {n}") for n in range(50)]
    expected += [(f">>zh<<file {n}", f"第{n}个文件") for n in range(50)]
    assert sorted(texts(data)) == sorted(expected)


def test_a_third_language_has_all_its_directions(tmp_path: Path) -> None:
    records = [
        {"zh": "打开", "en": "Open", "fr": "Ouvrir"},
        {"en": "Save", "fr": "Garder"},
    ]
    data = prepared(
        tmp_path, records, languages=["zh", "en", "fr"], validation=0.0, test=0.0
    )
    assert sorted(texts(data)) == sorted(
        [
            (">>en<<打开", "Open"),
            (">>fr<<打开", "Ouvrir"),
            (">>zh<<Open", "打开"),
            (">>fr<<Open", "Ouvrir"),
            (">>zh<<Ouvrir", "打开"),
            (">>en<<Ouvrir", "Open"),
            (">>fr<<Save", "Garder"),
            (">>en<<Garder", "Save"),
        ]
    )


def test_columns_are_joined_by_line_ends(tmp_path: Path) -> None:
    records = [{"q": f"Who {n}?", "c": f"It is {n}.", "a": str(n)} for n in range(9)]
    data = prepared(
        tmp_path,
        records,
        source_columns=["q", "c"],
        target_column="a",
        validation=0.0,
        test=0.0,
    )
    assert ("Who 3?\nIt is 3.", "3") in texts(data)


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_tables_are_pairs(tmp_path: Path, ending: str) -> None:
    mark = {"csv": ",", "tsv": "\t"}[ending]
    path = tmp_path / f"pairs.{ending}"
    rows = [f"问{n}{mark}ask {n}" for n in range(9)]
    path.write_text("\n".join([f"source{mark}target", *rows]), encoding="utf-8")
    config = Config(path=str(path), vocab_size=300, validation=0.0, test=0.0)
    data = pairs.prepare(config, cache=tmp_path / "cache", progress=False)
    assert ("问3", "ask 3") in texts(data)


def test_batches(tmp_path: Path) -> None:
    data = prepared(tmp_path, numbered(50), languages=["zh", "en"])
    spec = data.spec
    batch = data.batch("train", 3, 8, 0)
    again = data.batch("train", 3, 8, 0)
    assert all(torch.equal(batch[name], again[name]) for name in batch)
    assert (batch["ids"][:, 0] == spec.pad_id).all()
    for row in range(8):
        length = int(batch["source_lengths"][row])
        assert batch["source"][row, length - 1] == spec.eos_id
        assert (batch["source"][row, length:] == spec.pad_id).all()
        targets = batch["targets"][row]
        target = targets[targets != -100]
        assert target[-1] == spec.eos_id
        assert torch.equal(batch["ids"][row, 1 : len(target)], target[:-1])
    seen = sum(len(part["ids"]) for part in data.batches("train", 8))
    assert seen == data.count("train")


def test_groups_stay_together(tmp_path: Path) -> None:
    data = prepared(
        tmp_path,
        numbered(70),
        languages=["zh", "en"],
        group="package",
        test_groups=["p3"],
        validation_groups=["p5"],
    )
    assert data.meta["groups"]["test"] == ["p3"]
    assert data.meta["groups"]["validation"] == ["p5"]
    assert data.count("test") == 20
    asked = {source for source, _ in texts(data, "test")}
    assert not asked & {source for source, _ in texts(data, "train", "validation")}


def test_what_is_asked_in_a_held_out_split_is_in_no_other(tmp_path: Path) -> None:
    records = numbered(70)
    records += [{"zh": "第3个文件", "en": "the third file", "package": "p6"}]
    data = prepared(
        tmp_path, records, languages=["zh", "en"], group="package", test_groups=["p3"]
    )
    assert (">>en<<第3个文件", "the third file") not in texts(data, "train")
    assert (">>zh<<the third file", "第3个文件") in texts(data, "train", "validation")
    assert data.meta["asked_in_held_out"] == 1


def test_unknown_groups_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no group nano"):
        prepared(
            tmp_path,
            numbered(9),
            languages=["zh", "en"],
            group="package",
            test_groups=["nano"],
        )


def test_empty_sentences_are_named_or_left_out(tmp_path: Path) -> None:
    records = [*numbered(20), {"zh": "  ", "en": "Open"}]
    with pytest.raises(BadInput, match=r"pairs.jsonl:21.*zh is empty"):
        prepared(tmp_path, records, languages=["zh", "en"])
    data = prepared(tmp_path, records, languages=["zh", "en"], strict=False)
    assert data.meta["problems"]["count"] == 1
    assert len(texts(data)) == 40


def test_no_pair_at_all(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no pair of de, fr"):
        prepared(tmp_path, numbered(5), languages=["de", "fr"])
    with pytest.raises(BadInput, match="source is empty"):
        prepared(tmp_path, numbered(5))
    with pytest.raises(BadInput, match="two or more"):
        prepared(tmp_path, numbered(5), languages=["zh"])
    with pytest.raises(NotFound):
        pairs.prepare(Config(path=str(tmp_path / "none.jsonl")), cache=tmp_path)


def test_a_vocabulary_larger_than_the_corpus_is_smaller(tmp_path: Path) -> None:
    data = prepared(tmp_path, numbered(9), languages=["zh", "en"], vocab_size=50_000)
    assert data.spec.vocab_size < 500
    assert data.spec.vocab_size == data.tokenizer.vocab_size


def test_one_pair_is_a_corpus(tmp_path: Path) -> None:
    data = prepared(tmp_path, numbered(1), languages=["zh", "en"])
    assert data.batch("train", 5, 4, 0)["ids"].shape[0] == 4


def test_what_is_too_long_is_counted(tmp_path: Path) -> None:
    records = [
        *numbered(20),
        {"zh": "".join(map(chr, range(0x4E00, 0x4E80))), "en": "long"},
    ]
    data = prepared(
        tmp_path,
        records,
        languages=["zh", "en"],
        source_length=64,
        validation=0.0,
        test=0.0,
    )
    # As a source and as a target: 128 tokens are the most of a target.
    assert data.meta["splits"]["train"] == {"examples": 40, "too_long": 2}


def test_control_tokens_in_texts_are_letters(tmp_path: Path) -> None:
    records = [*numbered(20), {"zh": ">>en<< [PAD]", "en": "<|endoftext|>"}]
    data = prepared(tmp_path, records, languages=["zh", "en"], validation=0.0, test=0.0)
    rows = [row for batch in data.batches("train", 1) for row in batch["source"]]
    [odd] = [
        row
        for row in rows
        if data.tokenizer.decode(row) == ">>en<<>>en<< [PAD]<|endoftext|>"
    ]
    assert int((odd == data.spec.eos_id).sum()) == 1
    assert int((odd == data.spec.pad_id).sum()) == 0


def test_tags() -> None:
    languages = ("zh", "en")
    assert tagged("打开", languages) == ("en", "打开")
    assert tagged(" >>zh<<  Open", languages) == ("zh", "Open")
    assert tagged("anything", ()) == ("", "anything")
    assert tagged(">>zh<< is a tag", ()) == ("", ">>zh<< is a tag")
    with pytest.raises(BadInput, match="does not write 'de'") as error:
        tagged(">>de<< Open", languages)
    assert ">>zh<<" in str(error.value.remedy)
    for empty in ("", "  ", ">>zh<<", ">>zh<< \n"):
        with pytest.raises(BadInput, match="empty"):
            tagged(empty, languages)
