"""A picture model's own folder: model.safetensors, and config.json with what its family
and its data were.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from miaobi.data.image.prepared import PictureSpec


def write(net: Any, kind: str, folder: Path) -> None:
    """`net` has `config` and `spec`, the dataclasses it was built from. Kernels are
    stored in the usual order.
    """
    save_file(
        {
            name: value.detach().cpu().contiguous()
            for name, value in net.state_dict().items()
        },
        folder / "model.safetensors",
    )
    settings = {
        "model_type": f"miaobi_{kind}",
        "config": asdict(net.config),
        "spec": asdict(net.spec),
    }
    (folder / "config.json").write_text(
        json.dumps(settings, ensure_ascii=False, indent=1), encoding="utf-8"
    )


def settings(folder: Path) -> tuple[dict[str, Any], PictureSpec]:
    """(the family's configuration, what its pictures are) of a folder that `write` made."""
    known = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return known["config"], PictureSpec(
        **{**known["spec"], "classes": tuple(known["spec"]["classes"])}
    )


def weights(net: nn.Module, folder: Path) -> nn.Module:
    """`net` with the folder's weights, ready to be asked."""
    found: dict[str, Tensor] = load_file(folder / "model.safetensors")
    net.load_state_dict(found)
    return net.eval()
