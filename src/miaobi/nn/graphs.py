"""What of a model can be exported as a graph: tensors in, one tensor out.

A net or a learner that has a `graphs` method exports to ONNX; a net with a latent space
has its graphs from here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from miaobi.nn.image import Encodes, HasLatents, Paints

EXAMPLES = 2
"""Rows of the inputs that a graph is traced with; any number may be given to it later."""


@dataclass(frozen=True)
class Graph:
    """One function of a model."""

    name: str
    """Of its file."""
    function: Callable[..., Tensor]
    """Takes the inputs in their order."""
    inputs: Mapping[str, Tensor]
    """Typical ones, [EXAMPLES, ...]."""
    output: str
    lengths: Mapping[str, int] = field(default_factory=dict)
    """Inputs with another free dimension than the first: which one (texts have tokens)."""


@runtime_checkable
class HasGraphs(Protocol):
    """A model that says itself what of it is exported."""

    def graphs(self) -> Sequence[Graph]:
        """Return its graphs."""
        ...


class Traced(nn.Module):
    """A graph's function as a module, with the weights of the model that it belongs to."""

    def __init__(self, model: nn.Module, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.model = model
        self.function = function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)


def language_graph(function: Callable[..., Tensor], vocab_size: int) -> Graph:
    """Return the graph of a language model: ids [B, T] to logits [B, T, V]."""
    ids = torch.arange(EXAMPLES * 7).view(EXAMPLES, 7) % vocab_size
    return Graph("language", function, {"ids": ids}, "logits", lengths={"ids": 1})


def graphs_of(model: nn.Module) -> Sequence[Graph]:
    """Return the graphs of a model; none where it has no such function."""
    if isinstance(model, HasGraphs):
        return model.graphs()
    if isinstance(model, Paints) and isinstance(model, HasLatents):
        return _latent_graphs(model)
    return ()


def _latent_graphs(net: Paints) -> list[Graph]:
    """Return the decoder of a net with a latent space, and its encoder if it has one."""
    assert isinstance(net, HasLatents)
    generator = torch.Generator().manual_seed(0)
    spec = net.spec
    label = dict[str, Tensor]()
    if "label" in net.controls:
        label = {"label": torch.arange(EXAMPLES) % len(spec.classes)}
    latent = net.draw(EXAMPLES, generator)
    graphs = [Graph("decoder", net.decode, {"latent": latent, **label}, "pixels")]
    if isinstance(net, Encodes):
        shape = (EXAMPLES, spec.channels, spec.height, spec.width)
        pixels = 2 * torch.rand(shape, generator=generator) - 1
        graphs.append(
            Graph("encoder", net.encode, {"pixels": pixels, **label}, "latent")
        )
    return graphs
