"""The rewrite of what OpenVINO runs: the same products within an eighth bit's error,
matrices joined, 4 bits and computed inputs left alone.
"""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.engines.small import small_gguf

from miaobi.core.engine import Weights
from miaobi.core.errors import DoesNotFit, Unsupported
from miaobi.engines import openvino
from miaobi.models import converted
from miaobi.models.openvino_rows import rewrite, values
from miaobi.models.requantise import to_q8

ov = pytest.importorskip("openvino")
ops = pytest.importorskip("openvino.opset13")
RANDOM = np.random.default_rng(0)


def blocks(rows: int, columns: int) -> Any:
    """A matrix as GenAI keeps one of q8_0: uint8 in blocks of 32 with a scale and a zero point."""
    shape = (rows, columns // 32, 32)
    whole = ops.convert(
        ops.constant(RANDOM.integers(0, 256, shape).astype(np.uint8)), ov.Type.f16
    )
    zero = ops.convert(
        ops.constant(np.full((*shape[:2], 1), 128, np.uint8)), ov.Type.f16
    )
    scaled = ops.multiply(
        ops.subtract(whole, zero),
        ops.constant((RANDOM.random((*shape[:2], 1)) / 1000 + 1e-4).astype(np.float16)),
    )
    return ops.convert(
        ops.reshape(scaled, ops.constant(np.array([rows, columns])), False), ov.Type.f32
    )


def types(model: Any) -> Counter[str]:
    return Counter(node.get_type_name() for node in model.get_ops())


def run(model: Any, *given: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    exact = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
    return list(ov.Core().compile_model(model, "CPU", exact)(list(given)).values())


def test_products_stay_and_neighbours_are_joined() -> None:
    entry, other = (
        ops.parameter([-1, 64], ov.Type.f32),
        ops.parameter([-1, 64], ov.Type.f32),
    )
    products = [ops.matmul(entry, blocks(rows, 64), False, True) for rows in (8, 3, 5)]
    computed = ops.matmul(entry, other, False, True)
    turned = ops.matmul(
        ops.relu(products[0]), ops.constant(np.ones((8, 2), np.float32)), False, False
    )
    model = ov.Model([*products, turned, computed], [entry, other])
    given = (
        RANDOM.standard_normal((6, 64)).astype(np.float32),
        RANDOM.standard_normal((7, 64)).astype(np.float32),
    )
    before = run(model, *given)
    assert types(model)["MatMul"] == 5
    rewrite(model)
    assert (
        types(model)["MatMul"] == 3
        and types(model)["VariadicSplit"] == 1
        and types(model)["Subtract"] == 0
    )
    for was, now in zip(before, run(model, *given), strict=True):
        assert (
            now.shape == was.shape
            and np.abs(now - was).max() < 0.02 * np.abs(was).max()
        )


def test_four_bits_and_rows_of_zeros() -> None:
    packed = np.arange(64, dtype=np.uint8)
    four = ops.convert(
        ops.constant(ov.Tensor(packed, ov.Shape([4, 32]), ov.Type.u4)), ov.Type.f32
    )
    assert values(four) is None
    weights = np.zeros((3, 32), np.float32)
    weights[1] = 2
    entry = ops.parameter([1, 32], ov.Type.f32)
    model = ov.Model(
        [
            ops.matmul(entry, four, False, True),
            ops.matmul(entry, ops.constant(weights), False, True),
        ],
        [entry],
    )
    before = run(model, np.ones((1, 32), np.float32))
    rewrite(model)
    after = run(model, np.ones((1, 32), np.float32))
    assert types(model)["VariadicSplit"] == 0
    assert (after[0] == before[0]).all() and after[1] == pytest.approx(
        np.array([[0, 64, 0]]), rel=1e-3
    )


def test_a_file_is_prepared_once(
    smollm2: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("MIAOBI_HOME", str(tmp_path))
    folder = converted.as_openvino(smollm2)
    assert capfd.readouterr().err.count("\n") == 1
    assert {file.name for file in folder.iterdir()} == {
        "openvino_model.xml",
        "openvino_model.bin",
    }
    assert converted.as_openvino(smollm2) == folder and capfd.readouterr().err == ""
    assert [path.name for path in (tmp_path / "converted").rglob("*.part")] == []


def test_a_relative_path_and_nothing_beside_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MIAOBI_HOME", str(tmp_path / "home"))
    here = tmp_path / "here"
    here.mkdir()
    to_q8(small_gguf(tmp_path), here / "small.gguf")
    monkeypatch.chdir(here)
    assert converted.as_openvino(Path("small.gguf")).is_dir() and [
        file.name for file in here.iterdir()
    ] == ["small.gguf"]


def test_what_cannot_be_prepared_is_refused_in_words(
    smollm2: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MIAOBI_HOME", str(tmp_path))
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(Unsupported, match=r"cannot load .*ended \(1\)"):
        openvino.open_engine(Weights("gguf", str(smollm2), "smollm2"))
    assert not list((tmp_path / "converted").rglob("*.openvino"))


def test_a_disk_without_room_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIAOBI_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 5, 5)
    )
    with pytest.raises(DoesNotFit, match="0 MB are free"):
        converted.as_openvino(small_gguf(tmp_path))
    assert [path for path in (tmp_path / "home").rglob("*") if path.is_file()] == []
