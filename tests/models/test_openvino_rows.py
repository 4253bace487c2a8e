"""The graph that OpenVINO runs: the same products within the error of eight bits, matrices
joined, 4 bits and computed inputs unchanged.
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
    """Return a random matrix as GenAI stores one of q8_0.

    uint8 in blocks of 32, each with a scale and a zero point.
    """
    shape = (rows, columns // 32, 32)
    per_block = (rows, columns // 32, 1)
    whole = RANDOM.integers(0, 256, shape).astype(np.uint8)
    zero_point = np.full(per_block, 128, np.uint8)
    scale = (RANDOM.random(per_block) / 1000 + 1e-4).astype(np.float16)
    centred = ops.subtract(half(whole), half(zero_point))
    scaled = ops.multiply(centred, ops.constant(scale))
    size = ops.constant(np.array([rows, columns]))
    return ops.convert(ops.reshape(scaled, size, False), ov.Type.f32)


def half(array: Any) -> Any:
    return ops.convert(ops.constant(array), ov.Type.f16)


def types(model: Any) -> Counter[str]:
    return Counter(node.get_type_name() for node in model.get_ops())


def run(model: Any, *inputs: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    exact = {
        "INFERENCE_PRECISION_HINT": "f32",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
    }
    compiled = ov.Core().compile_model(model, "CPU", exact)
    return list(compiled(list(inputs)).values())


def test_products_stay_and_neighbours_are_joined() -> None:
    entry = ops.parameter([-1, 64], ov.Type.f32)
    other = ops.parameter([-1, 64], ov.Type.f32)
    products = [
        ops.matmul(entry, blocks(8, 64), False, True),
        ops.matmul(entry, blocks(3, 64), False, True),
        ops.matmul(entry, blocks(5, 64), False, True),
    ]
    computed = ops.matmul(entry, other, False, True)
    ones = ops.constant(np.ones((8, 2), np.float32))
    hidden = ops.relu(products[0])
    untransposed = ops.matmul(hidden, ones, False, False)
    model = ov.Model(
        [*products, untransposed, computed],
        [entry, other],
    )
    inputs = (
        normal(6, 64),
        normal(7, 64),
    )
    before = run(model, *inputs)
    assert types(model)["MatMul"] == 5
    rewrite(model)
    counts = types(model)
    assert counts["MatMul"] == 3
    assert counts["VariadicSplit"] == 1
    assert counts["Subtract"] == 0
    after = run(model, *inputs)
    for old, new in zip(before, after, strict=True):
        assert new.shape == old.shape
        error = np.abs(new - old).max()
        assert error < 0.02 * np.abs(old).max()


def normal(*shape: int) -> np.ndarray[Any, Any]:
    return RANDOM.standard_normal(shape).astype(np.float32)


def test_four_bits_and_rows_of_zeros() -> None:
    packed = ov.Tensor(
        np.arange(64, dtype=np.uint8),
        ov.Shape([4, 32]),
        ov.Type.u4,
    )
    four_bits = ops.convert(ops.constant(packed), ov.Type.f32)
    assert values(four_bits) is None
    weights = np.zeros((3, 32), np.float32)
    weights[1] = 2
    entry = ops.parameter([1, 32], ov.Type.f32)
    products = [
        ops.matmul(entry, four_bits, False, True),
        ops.matmul(entry, ops.constant(weights), False, True),
    ]
    model = ov.Model(products, [entry])
    ones = np.ones((1, 32), np.float32)
    before = run(model, ones)
    rewrite(model)
    after = run(model, ones)
    assert types(model)["VariadicSplit"] == 0
    assert (after[0] == before[0]).all()
    sums = np.array([[0, 64, 0]])
    assert after[1] == pytest.approx(sums, rel=1e-3)


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
    assert converted.as_openvino(smollm2) == folder
    assert capfd.readouterr().err == ""
    partial = (tmp_path / "converted").rglob("*.part")
    assert list(partial) == []


def test_a_relative_path_and_nothing_beside_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MIAOBI_HOME", str(tmp_path / "home"))
    here = tmp_path / "here"
    here.mkdir()
    to_q8(small_gguf(tmp_path), here / "small.gguf")
    monkeypatch.chdir(here)
    folder = converted.as_openvino(Path("small.gguf"))
    assert folder.is_dir()
    assert list(here.iterdir()) == [here / "small.gguf"]


def test_what_cannot_be_prepared_is_refused_with_a_reason(
    smollm2: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MIAOBI_HOME", str(tmp_path))
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(Unsupported, match=r"cannot load .*ended \(1\)"):
        openvino.open_engine(Weights("gguf", str(smollm2), "smollm2"))
    folders = (tmp_path / "converted").rglob("*.openvino")
    assert list(folders) == []


def test_a_full_disk_is_an_error_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIAOBI_HOME", str(tmp_path / "home"))
    usage = shutil._ntuple_diskusage(10**9, 10**9 - 5, 5)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DoesNotFit, match="0 MB are free"):
        converted.as_openvino(small_gguf(tmp_path))
    paths = (tmp_path / "home").rglob("*")
    assert [path for path in paths if path.is_file()] == []
