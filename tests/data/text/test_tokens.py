"""Prepared data: nothing lost, nothing twice, batches a pure function of their index,
cut-off preparations continued.
"""

from __future__ import annotations

import functools
import json
import operator
import os
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from miaobi.core.errors import BadInput, DoesNotFit, NotFound
from miaobi.data import readers, splitting
from miaobi.data.text import packing, tokens
from miaobi.data.text.tokens import SPLITS, Config, Tokens

TEXTS = st.lists(
    st.text(st.characters(exclude_categories=["Cs"])).filter(str.strip),
    min_size=1,
    max_size=30,
)


def corpus(folder: Path, texts: list[str], name: str = "x.jsonl") -> Path:
    path = folder / name
    path.write_text(
        "\n".join(json.dumps({"text": text}) for text in texts), encoding="utf-8"
    )
    return path


def prepared(path: Path, **options: Any) -> Tokens:
    return tokens.prepare(Config(path=str(path), **options), progress=False)


def numbers(count: int) -> list[str]:
    return [f"poem {number}: 春眠不覺曉 {number * 7919}" for number in range(count)]


@given(texts=TEXTS, kind=st.sampled_from(["char", "bpe"]))
@settings(max_examples=60)
def test_the_tokens_decode_to_the_documents(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], kind: str
) -> None:
    folder = tmp_path_factory.mktemp("x")
    data = tokens.prepare(
        Config(
            path=str(corpus(folder, texts)),
            tokenizer=kind,
            vocab_size=300,
            validation=0,
        ),
        cache=folder / "cache",
        progress=False,
    )
    assert list(data.documents("train")) == list(dict.fromkeys(texts))
    counts = data.meta["splits"]["train"]
    assert counts["characters"] == sum(map(len, set(texts)))
    assert counts["bytes"] == sum(len(t.encode()) for t in set(texts))
    assert data.meta["duplicates"] == len(texts) - len(set(texts))


def test_splits_are_by_document_and_complete(tmp_path: Path) -> None:
    texts = numbers(5000)
    data = prepared(corpus(tmp_path, texts), validation=0.1, test=0.05)
    parts = {split: list(data.documents(split)) for split in SPLITS}
    assert Counter(functools.reduce(operator.iadd, parts.values(), [])) == Counter(
        texts
    )
    assert 400 < len(parts["validation"]) < 600
    assert 190 < len(parts["test"]) < 310


def test_a_document_keeps_its_split_when_others_are_added(tmp_path: Path) -> None:
    small, large = (
        prepared(corpus(tmp_path, numbers(count), f"{count}.jsonl"), validation=0.1)
        for count in (4000, 6000)
    )
    assert set(small.documents("validation")) <= set(large.documents("validation"))
    assert set(small.documents("train")) <= set(large.documents("train"))


def test_few_documents_still_give_a_share(tmp_path: Path) -> None:
    data = prepared(corpus(tmp_path, numbers(40)), validation=0.1)
    assert 2 <= data.meta["splits"]["validation"]["documents"] <= 8
    assert sum(data.meta["splits"][split]["documents"] for split in SPLITS) == 40


def test_one_document_is_split_at_its_end(tmp_path: Path) -> None:
    text = "".join(numbers(200))
    (tmp_path / "novel.txt").write_text(text, encoding="utf-8")
    data = prepared(tmp_path / "novel.txt", validation=0.1)
    cut = int(len(text) * 0.9)
    assert list(data.documents("train")) == [text[:cut]]
    assert list(data.documents("validation")) == [text[cut:]]


def test_parts_of_a_long_document_are_one_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from miaobi.data.text import files

    monkeypatch.setattr(files, "PART", 100)
    text = "\n".join(numbers(50))
    (tmp_path / "novel.txt").write_text(text, encoding="utf-8")
    data = prepared(tmp_path / "novel.txt", validation=0.1, test=0.2)
    assert [data.meta["splits"][split]["documents"] for split in SPLITS] == [1, 1, 1]
    assert (
        "".join(document for split in SPLITS for document in data.documents(split))
        == text
    )


@given(
    count=st.integers(1, 60),
    validation=st.sampled_from([0.05, 0.3]),
    test=st.sampled_from([0.0, 0.1]),
    seed=st.integers(0, 99),
)
def test_shares_are_met_or_the_text_is_cut(
    count: int, validation: float, test: float, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    lengths = draw.integers(1, 1000, count)
    assigned = splitting.assign(
        draw.integers(0, 2**63, count, dtype=np.uint64), lengths, validation, test
    )
    if isinstance(assigned, splitting.Cut):
        sizes, position = Counter[int](), 0
        for length in lengths:
            pieces = list(assigned.parts(position, int(length)))
            assert [first for _, first, _ in pieces] + [length] == [0] + [
                last for _, _, last in pieces
            ], "no gap, no overlap"
            sizes.update({split: last - first for split, first, last in pieces})
            position += int(length)
        total = sum(lengths)
        assert abs(sizes[1] - validation * total) <= 2
        assert abs(sizes[2] - test * total) <= 2
    else:
        share = [lengths[assigned == split].sum() / lengths.sum() for split in (1, 2)]
        assert validation / 2 <= share[0] <= validation * 2
        assert test / 2 <= share[1] <= test * 2


def test_batches_cover_every_token_once_in_order(tmp_path: Path) -> None:
    data = prepared(corpus(tmp_path, numbers(300)), validation=0.2, context_length=17)
    stored = np.fromfile(
        data.folder / "validation.bin", dtype=data.meta["dtype"]
    ).astype(np.int64)
    batches = list(data.batches("validation", 4))
    targets = torch.cat([batch["targets"].flatten() for batch in batches])
    ids = torch.cat([batch["ids"].flatten() for batch in batches])
    inside = targets != -100
    assert targets[inside].tolist() == stored[1:].tolist()
    assert ids[inside].tolist() == stored[:-1].tolist()
    assert inside.sum() == data.count("validation")
    assert (~inside).sum() < 17
    assert all(
        batch["ids"].dtype == batch["targets"].dtype == torch.int64 for batch in batches
    )


@pytest.mark.parametrize("length", [1, 7, 64])
def test_an_epoch_is_a_permutation_of_windows(tmp_path: Path, length: int) -> None:
    data = prepared(corpus(tmp_path, numbers(100)), validation=0, context_length=length)
    stored = np.fromfile(data.folder / "train.bin", dtype=data.meta["dtype"])
    windows = data._windows("train")
    epochs = [
        torch.cat(
            [
                data.batch("train", epoch * windows + step, 1, 5)["ids"]
                for step in range(windows)
            ]
        )
        for epoch in range(3)
    ]
    assert not torch.equal(epochs[0], epochs[1])
    for epoch in epochs:
        seen = Counter(epoch.flatten().tolist())
        left = Counter(stored.tolist()) - seen
        assert not seen - Counter(stored.tolist())
        assert sum(left.values()) <= 2 * length


def test_every_token_is_learned_from_sooner_or_later(tmp_path: Path) -> None:
    data = prepared(corpus(tmp_path, numbers(4)), validation=0, context_length=9)
    marked = np.arange(data.count("train") + 1)
    data.__dict__["_files"] = {"train": marked}
    seen = torch.cat(
        [data.batch("train", step, 8, 0)["targets"].flatten() for step in range(400)]
    )
    assert set(seen.tolist()) == set(range(1, len(marked)))


def test_a_batch_depends_on_its_arguments_alone(tmp_path: Path) -> None:
    data = prepared(corpus(tmp_path, numbers(200)), context_length=16)
    first = [data.batch("train", index, 6, 3) for index in range(40)]
    tokens._epoch.cache_clear()
    again = Tokens(data.folder, 16)
    for index in reversed(range(40)):
        batch = again.batch("train", index, 6, 3)
        assert torch.equal(batch["ids"], first[index]["ids"])
        assert torch.equal(batch["targets"], first[index]["targets"])
        assert torch.equal(batch["ids"][:, 1:], batch["targets"][:, :-1])
    assert not torch.equal(data.batch("train", 0, 6, 4)["ids"], first[0]["ids"])
    large = data.batch("train", 1, 12, 3)["ids"]
    assert torch.equal(large, torch.cat([first[2]["ids"], first[3]["ids"]])), (
        "rows are numbered through, whatever the batch size"
    )


def test_a_text_shorter_than_the_context(tmp_path: Path) -> None:
    data = prepared(corpus(tmp_path, ["abc"]), validation=0, context_length=10)
    batch = data.batch("train", 3, 2, 0)
    assert (
        batch["targets"].tolist()
        == [[*data.tokenizer.encode(["abc"]), 0, *[-100] * 6]] * 2
    )
    assert batch["ids"].shape == (2, 10)


def test_large_vocabularies_take_four_bytes(tmp_path: Path) -> None:
    texts = [
        "".join(map(chr, range(0x4E00, 0x9FFF))),
        "".join(map(chr, range(0x20000, 0x2A6DF))),
        "".join(map(chr, range(0xAC00, 0xD7A3))),
    ]
    data = prepared(corpus(tmp_path, texts), validation=0, min_frequency=1)
    assert data.meta["dtype"] == "uint32"
    assert list(data.documents("train")) == texts


def test_a_second_run_starts_at_once_and_changes_are_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = corpus(tmp_path, numbers(50))
    first = prepared(path)
    with monkeypatch.context() as patch:
        patch.setattr(
            packing._Preparation, "run", lambda self: pytest.fail("prepared again")
        )
        assert prepared(path).fingerprint == first.fingerprint
        assert prepared(path, context_length=8).fingerprint == first.fingerprint, (
            "the context is cut later"
        )
        moved = tmp_path / "other"
        moved.mkdir()
        assert prepared(corpus(moved, numbers(50))).fingerprint == first.fingerprint, (
            "the same content elsewhere"
        )
    assert prepared(path, validation=0.2).fingerprint != first.fingerprint
    before = path.stat().st_mtime_ns
    path.write_text(path.read_text().replace("poem 1:", "poem X:"))
    os.utime(path, ns=(before + 1, before + 1))
    assert prepared(path).fingerprint != first.fingerprint


def test_it_can_be_saved_and_loaded(tmp_path: Path) -> None:
    data = prepared(corpus(tmp_path, numbers(50)), context_length=32)
    data.save(tmp_path / "bundle")
    from miaobi.data.text.tokenizer import load

    assert load(tmp_path / "bundle").encode(["春"]) == data.tokenizer.encode(["春"])
    again = Tokens(data.folder, 32)
    assert again.spec == data.spec
    assert data.spec.vocab_size == data.tokenizer.vocab_size
    with pytest.raises(NotFound, match="no prepared data"):
        _ = Tokens(tmp_path / "nowhere", 32).meta


KILLED = """
import sys
from miaobi.data.text import packing
from miaobi.data.text import tokens
packing.CHUNK = packing.BATCH = 20_000
after = packing._Packed.append
def slow(self, items):
    after(self, items)
    print(self.done, flush=True)
    import time; time.sleep(0.05)
packing._Packed.append = slow
tokens.prepare(tokens.Config(path=sys.argv[1], validation=0.1), progress=False)
"""


def test_a_killed_preparation_continues_where_it_stopped(
    tmp_path: Path, miaobi_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = corpus(tmp_path, numbers(20_000))
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    with process:
        for _ in range(6):
            done = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
    [part] = (miaobi_home / "prepared").glob(".*.part")
    noted = json.loads((part / "progress.json").read_text())["done"]
    assert 0 < noted <= done < 20_000
    with (part / "train.bin").open("ab") as file:
        file.write(
            b"half a write"
        )  # what a power cut may leave behind the noted length
    skipped, resume = [], packing._Packed.__init__
    monkeypatch.setattr(
        packing._Packed,
        "__init__",
        lambda self, *arguments: (resume(self, *arguments), skipped.append(self.done))[
            0
        ],
    )
    continued = prepared(path, validation=0.1)
    assert skipped == [noted]
    whole = tokens.prepare(
        Config(path=str(path), validation=0.1), cache=tmp_path / "fresh", progress=False
    )
    for split in ("train", "validation"):
        assert (continued.folder / f"{split}.bin").read_bytes() == (
            whole.folder / f"{split}.bin"
        ).read_bytes()
    assert continued.meta["splits"] == whole.meta["splits"]


def test_two_processes_prepare_once(tmp_path: Path) -> None:
    path = corpus(tmp_path, numbers(3000))
    code = (
        "import sys; from miaobi.data.text import tokens; "
        "print(tokens.prepare(tokens.Config(path=sys.argv[1]), "
        "progress=False).folder)"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    folders = {process.communicate()[0] for process in both}
    assert len(folders) == 1
    assert [process.returncode for process in both] == [0, 0]


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    def full(self: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(packing._Packed, "note", full)
    with pytest.raises(DoesNotFit, match="disk is full"):
        prepared(corpus(tmp_path, numbers(50)))
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "No data is named"),
        ({"path": "x", "pack": "tang-poems"}, "both given"),
        ({"path": "x", "source": "pack"}, "does not go with path"),
        ({"pack": "tang-poems", "separator": "x"}, "separator is for the files source"),
        ({"path": "x", "validation": 0.8, "test": 0.3}, "nothing is left to train on"),
        ({"pack": "smollm2"}, "is a model, not data"),
    ],
)
def test_settings_that_contradict(options: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        tokens.prepare(Config(**options), progress=False)


def test_broken_records_are_counted_and_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = corpus(tmp_path, numbers(30))
    path.write_text(path.read_text() + '\n{"text": "cut\n', encoding="utf-8")
    with pytest.raises(BadInput, match=r"x\.jsonl:31"):
        prepared(path)
    data = prepared(path, strict=False)
    assert data.meta["problems"]["count"] == 1
    assert "1 broken records were left out" in capsys.readouterr().err


def test_only_so_many_documents(tmp_path: Path) -> None:
    data = prepared(corpus(tmp_path, numbers(30)), max_documents=7, validation=0)
    assert list(data.documents("train")) == numbers(7)


def test_a_pretrained_tokenizer(tmp_path: Path) -> None:
    data = prepared(
        corpus(tmp_path, numbers(30)), tokenizer="bpe", vocab_size=300, validation=0
    )
    data.save(tmp_path / "words")
    again = prepared(
        corpus(tmp_path, numbers(20)), tokenizer=str(tmp_path / "words"), validation=0
    )
    assert again.tokenizer.backend.to_str() == data.tokenizer.backend.to_str()
    assert list(again.documents("train")) == numbers(20)


def test_another_packages_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from miaobi.data.text.documents import Document

    module = ModuleType("their_notes")
    module.read = lambda path: (  # type: ignore[attr-defined]
        Document(f"theirs {number}") for number in range(5)
    )
    monkeypatch.setitem(sys.modules, "their_notes", module)
    entry = EntryPoint("text/theirs", "their_notes:read", readers.group)
    monkeypatch.setitem(readers._entries, "text/theirs", entry)
    path = corpus(tmp_path, ["x"])
    data = tokens.prepare(
        Config(path=str(path), source="theirs", validation=0), progress=False
    )
    assert list(data.documents("train")) == [f"theirs {number}" for number in range(5)]


def test_another_context_length_shares_the_files(tmp_path: Path) -> None:
    data = prepared(corpus(tmp_path, numbers(2000)))
    short = replace(data, context_length=8)
    assert short.batch("train", 0, 2, 0)["ids"].shape == (2, 8)
