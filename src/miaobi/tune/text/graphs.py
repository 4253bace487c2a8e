"""Graphs of tuned models that read texts: token ids and a mask in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from miaobi.nn.graphs import EXAMPLES, Graph

LENGTH = 7
"""Tokens of the texts that a graph is traced with."""


def text_graph(
    name: str, function: Callable[[Tensor, Tensor], Tensor], net: Any, output: str
) -> Graph:
    """Return a graph of ids and mask, both int64 [B, T].

    Args:
        name: of its file.
        function: from ids and mask to a tensor.
        net: a Transformers model, for the size of its vocabulary.
        output: what the function returns.
    """
    size = net.config.get_text_config().vocab_size
    ids = torch.arange(EXAMPLES * LENGTH).view(EXAMPLES, LENGTH) % size
    mask = torch.ones_like(ids)
    mask[0, -2:] = 0
    inputs = {"ids": ids, "mask": mask}
    return Graph(name, function, inputs, output, lengths={"ids": 1, "mask": 1})
