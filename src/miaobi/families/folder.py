"""Weights and settings of a network as a folder, for families whose networks no other
program opens: model.safetensors, and config.json with its configuration and the data's
specification.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from miaobi.data.text.tokens import TokenSpec

Net = TypeVar("Net", bound=nn.Module)


def write_net(net: Any, family: str, folder: Path) -> None:
    """Write a network with a `config` and a `spec` into a folder."""
    weights = {name: value.contiguous() for name, value in net.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    settings = {
        "model_type": f"miaobi_{family}",
        **asdict(net.config),
        **asdict(net.spec),
        "eos_token_id": net.spec.eos_id,
        "bos_token_id": net.spec.bos_id,
    }
    (folder / "config.json").write_text(
        json.dumps(settings, indent=1), encoding="utf-8"
    )


def read_net(
    make: Callable[[Any, TokenSpec], Net], config_class: type[Any], folder: Path
) -> Net:
    """Return the network of a folder: `make` builds it from configuration and
    specification.
    """
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = config_class(
        **{key.name: settings[key.name] for key in fields(config_class)}
    )
    spec = TokenSpec(**{key.name: settings[key.name] for key in fields(TokenSpec)})
    with torch.device("meta"):
        net = make(config, spec)
    net.load_state_dict(load_file(folder / "model.safetensors"), assign=True)
    return net.eval()
