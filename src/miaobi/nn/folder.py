"""A picture model's own folder: model.safetensors, and config.json with the settings of
its family and the spec of its data.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import nn

from miaobi.data.image.prepared import PictureSpec


def write(net: Any, kind: str, folder: Path) -> None:
    """Write the weights and settings of `net`; kernels are stored in the usual order.

    Args:
        net: a module with `config` and `spec`, the dataclasses it was built from.
        kind: the family's name.
        folder: where to write.
    """
    weights = {
        name: value.detach().cpu().contiguous()
        for name, value in net.state_dict().items()
    }
    save_file(weights, folder / "model.safetensors")
    settings = {
        "model_type": f"miaobi_{kind}",
        "config": asdict(net.config),
        "spec": asdict(net.spec),
    }
    text = json.dumps(settings, ensure_ascii=False, indent=1)
    (folder / "config.json").write_text(text, encoding="utf-8")


def settings(folder: Path) -> tuple[dict[str, Any], PictureSpec]:
    """Return the family's configuration and the spec of a folder that `write` wrote."""
    saved = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    spec = {**saved["spec"], "classes": tuple(saved["spec"]["classes"])}
    return saved["config"], PictureSpec(**spec)


def weights(net: nn.Module, folder: Path) -> nn.Module:
    """Return `net` with the folder's weights, in evaluation mode."""
    net.load_state_dict(load_file(folder / "model.safetensors"))
    return net.eval()
