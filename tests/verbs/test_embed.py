"""`miaobi embed`: vectors of files in every format, and what is wrong with a file or a
model, said before anything is written.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet
from tests.tune import encoders

from miaobi import cli
from miaobi.core.errors import BadInput, MiaobiError, NotFound, Unsupported
from miaobi.engines.embedding import encoder as encoding
from miaobi.engines.embedding.engine import BATCH_TOKENS, batches
from miaobi.engines.load import load
from miaobi.models.encoders import parse
from miaobi.verbs import embed as verb
from miaobi.verbs.embed import Embedded, embed

TEXTS = ["good room", "awful staff and bad price", "nice food"]


@pytest.fixture
def bert(tmp_path: Path) -> str:
    """The folder of a tiny encoder."""
    return str(encoders.base(tmp_path / "bert", "bert").folder)


def written(folder: Path, ending: str) -> Path:
    """Write TEXTS as a file of a format."""
    path = folder / f"texts{ending}"
    rows = [{"id": number, "text": text} for number, text in enumerate(TEXTS)]
    if ending == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif ending == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["id", "text"])
            writer.writeheader()
            writer.writerows(rows)
    elif ending == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    else:
        path.write_text("\n\n".join(TEXTS), encoding="utf-8")
    return path


def expected(model: str) -> np.ndarray:
    """Return the vectors of TEXTS as the engine makes them."""
    with load(model, engine="embedding") as opened:
        vectors: np.ndarray = opened.generate(TEXTS)[0].vectors
    return vectors


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet", ".txt"])
def test_every_format_is_read(tmp_path: Path, bert: str, ending: str) -> None:
    out = tmp_path / "vectors.npy"
    result = embed(str(written(tmp_path, ending)), model=bert, out=out)
    assert (result.texts, result.truncated, result.skipped) == (3, 0, 0)
    np.testing.assert_allclose(np.load(out), expected(bert), atol=1e-6)


def test_every_format_is_written(tmp_path: Path, bert: str) -> None:
    data = str(written(tmp_path, ".txt"))
    vectors = expected(bert)
    out = tmp_path / "vectors.parquet"
    embed(data, model=bert, out=out)
    table = parquet.read_table(out)
    assert table["row"].to_pylist() == [1, 3, 5]
    assert table["text"].to_pylist() == TEXTS
    assert table.schema.metadata[b"model"] == b"bert"
    np.testing.assert_allclose(np.stack(table["vector"].to_numpy()), vectors, atol=1e-6)
    out = tmp_path / "vectors.jsonl"
    embed(data, model=bert, out=out)
    rows = [json.loads(row) for row in out.read_text(encoding="utf-8").splitlines()]
    assert [row["text"] for row in rows] == TEXTS
    np.testing.assert_allclose([row["vector"] for row in rows], vectors, atol=1e-6)


def test_blocks_are_put_together_in_their_order(
    tmp_path: Path, bert: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verb, "BLOCK", 2)
    out = tmp_path / "vectors.npy"
    embed(str(written(tmp_path, ".jsonl")), model=bert, out=out)
    np.testing.assert_allclose(np.load(out), expected(bert), atol=1e-6)


def test_torch_and_openvino_agree(bert: str, monkeypatch: pytest.MonkeyPatch) -> None:
    by_openvino = expected(bert)
    monkeypatch.setattr(encoding, "find_spec", lambda name: None)
    np.testing.assert_allclose(expected(bert), by_openvino, atol=1e-5)


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([{"text": "good"}, {"text": " "}], r"texts.jsonl:2: the text is empty"),
        ([{"text": "good"}, {"number": 1}], r"texts.jsonl:2"),
        ([{"messages": [{"role": "user", "content": "x"}]}], "holds a dialogue"),
        ([], "holds no text"),
    ],
)
def test_a_file_that_cannot_be_used(
    tmp_path: Path, rows: list[dict[str, Any]], problem: str
) -> None:
    data = tmp_path / "texts.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    out = tmp_path / "vectors.npy"
    with pytest.raises(BadInput, match=problem):
        embed(str(data), model="use-multilingual", out=out)
    assert not out.exists()


def test_records_without_a_text_are_left_out_on_request(
    tmp_path: Path, bert: str
) -> None:
    rows = [{"text": "good room"}, {"text": ""}, {"text": "nice food"}]
    data = tmp_path / "texts.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    out = tmp_path / "vectors.parquet"
    result = embed(str(data), model=bert, out=out, strict=False)
    assert (result.texts, result.skipped) == (2, 1)
    assert "1 records without a text were left out" in str(result)
    assert parquet.read_table(out)["row"].to_pylist() == [1, 3]


def test_texts_that_are_too_long(tmp_path: Path, bert: str) -> None:
    data = tmp_path / "texts.txt"
    data.write_text("good room\n" + "nice food " * 400, encoding="utf-8")
    out = tmp_path / "vectors.npy"
    result = embed(str(data), model=bert, out=out)
    assert result.truncated == 1
    assert "1 texts were longer" in str(result)
    truncated = np.load(out)
    embed(str(data), model=bert, out=out, too_long="split")
    split = np.load(out)
    np.testing.assert_allclose(split[0], truncated[0], atol=1e-6)
    assert (split[1] * truncated[1]).sum() < 0.999999
    assert np.linalg.norm(split[1]) == pytest.approx(1, abs=1e-5)
    before = out.read_bytes()
    with pytest.raises(BadInput, match=r"Text 1 has \d+ tokens"):
        embed(str(data), model=bert, out=out, too_long="error")
    assert out.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == [
        "texts.txt",
        "vectors.npy",
    ]


@pytest.mark.parametrize(
    ("model", "error", "problem"),
    [
        ("e5-smal", NotFound, "no model named 'e5-smal'"),
        ("esrgan-slim", Unsupported, "makes image, not vectors"),
        ("e5-small:klingon", BadInput, "cannot be pruned"),
    ],
)
def test_a_model_that_makes_no_vectors(
    tmp_path: Path,
    pack: Callable[[str], Path],
    model: str,
    error: type[MiaobiError],
    problem: str,
) -> None:
    pack("esrgan-slim")
    with pytest.raises(error, match=problem):
        embed(str(written(tmp_path, ".txt")), model=model, out=tmp_path / "v.npy")


def test_an_ending_that_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no known ending"):
        embed("texts.txt", model="e5-small", out=tmp_path / "vectors.csv")


def test_queries_and_passages(pack: Callable[[str], Path], bert: str) -> None:
    pack("e5-small")
    with load("e5-small") as model:
        texts = ["query: 想退货", "passage: 想退货", "想退货"]
        plain = model.generate(texts)[0].vectors
        queries = model.generate(texts, input_type="query")[0].vectors
    np.testing.assert_allclose(plain[2], plain[1], atol=1e-6)
    np.testing.assert_allclose(queries[2], plain[0], atol=1e-6)
    np.testing.assert_allclose(queries[:2], plain[:2], atol=1e-6)
    with load(bert) as model, pytest.raises(Unsupported, match="input_type"):
        model.generate(["x"], input_type="query")


def test_batches_are_of_similar_length() -> None:
    lengths = [3, 500, 7, 600, 7, 7, 120, 130]
    groups = list(batches(lengths))
    assert sorted(row for group in groups for row in group) == list(range(8))
    assert groups[0] == [3]
    for group in groups:
        longest = max(lengths[row] for row in group)
        assert len(group) == 1 or len(group) * longest <= BATCH_TOKENS


def test_results_for_machines(
    tmp_path: Path, bert: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(written(tmp_path, ".txt"))
    out = tmp_path / "vectors.npy"
    arguments = ["embed", data, "--model", bert, "--out", str(out), "--json"]
    assert cli.main(arguments) == 0
    result = json.loads(capsys.readouterr().out)
    assert {"texts": 3, "model": "bert"}.items() <= result.items()
    assert set(result) == set(Embedded.__dataclass_fields__)
    assert parse("bert") is None
