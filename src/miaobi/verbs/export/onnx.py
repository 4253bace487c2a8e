"""Export to ONNX: a folder of graphs that onnxruntime, TensorFlow, browsers and phones run.

Which graphs a model has it says itself (nn/graphs.py). Each is run in onnxruntime on
inputs of another size than it was traced with, and compared with PyTorch.
"""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from miaobi.core.errors import Damaged, MissingPart, Unsupported
from miaobi.core.files import write_beside
from miaobi.core.language import say
from miaobi.families import families
from miaobi.nn.graphs import Graph, Traced, graphs_of
from miaobi.verbs.export.exported import Exported
from miaobi.verbs.export.folder import size_of

if TYPE_CHECKING:
    from miaobi.core.engine import Weights
    from miaobi.models.tuned import Tuned

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-3
"""Largest difference of an output, as a share of the largest output."""
COPIED = ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json")
"""Files that say how inputs are made."""


@dataclass(frozen=True)
class GraphParity:
    """How one graph in onnxruntime compares with PyTorch."""

    name: str
    largest: float
    """Difference of an output."""
    scale: float
    """The largest output."""

    def __str__(self) -> str:
        return say(
            f"{self.name}.onnx: onnxruntime within {self.largest:.1e} of PyTorch (outputs up to {self.scale:.3g})",
            f"{self.name}.onnx：onnxruntime 与 PyTorch 相差不超过 {self.largest:.1e}（输出最大 {self.scale:.3g}）",
        )


def to_onnx(weights: Weights, target: Path) -> Exported:
    """Write a folder of ONNX files, each compared with PyTorch before it gets its name.

    Raises Unsupported for models without graphs, MissingPart, or Damaged where
    onnxruntime answers otherwise.

    Args:
        weights: a bundle.
        target: the folder to write.
    """
    missing = [package for package in PACKAGES if find_spec(package) is None]
    if missing:
        raise MissingPart(
            say(
                f"ONNX needs the package {', '.join(missing)}.",
                f"导出 ONNX 需要 {'、'.join(missing)} 包。",
            ),
            "pip install 'miaobi[onnx]'",
        )
    model, facts = _open(weights)
    graphs = graphs_of(model)
    if not graphs:
        raise _no_graphs(weights)
    with write_beside(target) as draft:
        draft.mkdir()
        parities = [_write(model, graph, draft) for graph in graphs]
        description = {
            "model": weights.label,
            **facts,
            "graphs": [_described(graph) for graph in graphs],
        }
        text = json.dumps(description, ensure_ascii=False, indent=1)
        (draft / "graphs.json").write_text(text, encoding="utf-8")
        for name in COPIED:
            if (weights.path / name).exists():
                (draft / name).write_bytes((weights.path / name).read_bytes())
        _replace(target)
    return Exported(
        model=weights.label,
        path=target,
        format="onnx",
        dtype="f32",
        bytes=size_of(target),
        notes=[str(parity) for parity in parities],
    )


def _open(weights: Weights) -> tuple[torch.nn.Module, Mapping[str, Any]]:
    """Return a model, and what a user of its graphs has to know of it."""
    from miaobi.models.tuned import FAMILY, open_tuned

    if weights.format != "bundle":
        raise _no_graphs(weights)
    if weights.family == FAMILY:
        return _open_tuned(open_tuned(weights))
    net = families.get(weights.family).load(weights.path)
    return net.eval(), {"family": weights.family}


def _open_tuned(tuned: Tuned) -> tuple[torch.nn.Module, Mapping[str, Any]]:
    from miaobi.tune.saved import learner_of

    spec = tuned.manifest.data["spec"]
    facts = {"task": tuned.task_name}
    if "labels" in spec:
        facts["labels"] = spec["labels"]
    return learner_of(tuned), facts


def _no_graphs(weights: Weights) -> Unsupported:
    kind = weights.family or weights.format
    return Unsupported(
        say(
            f"{weights.label} ({kind}) has no graphs for ONNX.",
            f"{weights.label}（{kind}）没有可导出为 ONNX 的计算图。",
        ),
        say(
            "Picture families, lstm, tuned classifiers and encoders have; other language models export with --to gguf.",
            "图片模型、lstm、微调的分类器与编码器可以；其他语言模型请用 --to gguf。",
        ),
    )


def _write(model: torch.nn.Module, graph: Graph, folder: Path) -> GraphParity:
    """Write NAME.onnx and compare it."""
    path = folder / f"{graph.name}.onnx"
    module = Traced(model, graph.function).eval()
    shapes = [_free(name, graph) for name in graph.inputs]
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), redirect_stdout(StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        torch.onnx.export(
            module,
            tuple(graph.inputs.values()),
            path,
            input_names=list(graph.inputs),
            output_names=[graph.output],
            dynamic_shapes={"inputs": tuple(shapes)},
            external_data=False,
            verbose=False,
        )
    return _compared(path, graph)


def _free(name: str, graph: Graph) -> dict[int, Any]:
    """Return the dimensions of an input that may have any size."""
    free: dict[int, Any] = {0: torch.export.Dim.DYNAMIC}
    if name in graph.lengths:
        free[graph.lengths[name]] = torch.export.Dim.DYNAMIC
    return free


def _compared(path: Path, graph: Graph) -> GraphParity:
    """Compare on other inputs than the traced ones. Raises Damaged."""
    import onnxruntime

    session = onnxruntime.InferenceSession(
        str(path), providers=["CPUExecutionProvider"]
    )
    inputs = {name: _other(name, graph) for name in graph.inputs}
    with torch.no_grad():
        expected = graph.function(*inputs.values()).numpy()
    arrays = {name: value.numpy() for name, value in inputs.items()}
    (actual,) = session.run(None, arrays)
    scale = float(np.abs(expected).max())
    largest = float(np.abs(expected - actual).max())
    if largest > TOLERANCE * max(scale, 1.0):
        raise Damaged(
            say(
                f"{path.name} does not answer as the model does: difference {largest:.3g}, outputs up to {scale:.3g}.",
                f"{path.name} 与原模型的输出不同：相差 {largest:.3g}，输出最大 {scale:.3g}。",
            ),
            say(
                "No file was written. Report this as a defect.",
                "没有写入文件。请将此作为缺陷报告。",
            ),
        )
    return GraphParity(graph.name, largest, scale)


def _other(name: str, graph: Graph) -> Tensor:
    """Return a typical input turned round, with one row more, and a longer text."""
    value = graph.inputs[name].flip(0)
    value = torch.cat([value, value[:1]])
    if name in graph.lengths:
        dimension = graph.lengths[name]
        value = torch.cat([value, value.narrow(dimension, 0, 3)], dimension)
    return value


def _described(graph: Graph) -> Mapping[str, Any]:
    return {
        "file": f"{graph.name}.onnx",
        "inputs": {
            name: {"type": str(value.dtype).removeprefix("torch."), "shape": shape}
            for name, value in graph.inputs.items()
            if (shape := _shape(name, value, graph))
        },
        "output": graph.output,
    }


def _shape(name: str, value: Tensor, graph: Graph) -> Sequence[int | str]:
    shape: list[int | str] = ["batch", *value.shape[1:]]
    if name in graph.lengths:
        shape[graph.lengths[name]] = "length"
    return shape


def _replace(target: Path) -> None:
    """Remove an older export, which the new one takes the place of."""
    if target.exists():
        shutil.rmtree(target)
