"""Bottleneck adapters: after the projection that ends each sub-layer, before it is
added to what went in (Houlsby et al. 2019, arXiv:1902.00751).

    h ← h + W_up GELU(W_down h + b) + c,   W_up = 0 and c = 0 at the start, so that the base is unchanged

Norms move too, as in the paper. Kept beside each other: adapter_model.safetensors (all
that moved) and adapter_config.json, told from PEFT's by its peft_type.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from miaobi.core.bundle import check_safetensors
from miaobi.core.errors import Damaged, Unsupported
from miaobi.core.language import say
from miaobi.tune.learner import Learner
from miaobi.tune.methods.freezing import is_fresh

if TYPE_CHECKING:
    from miaobi.tune.methods import TuneConfig

SETTINGS, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
KIND = "BOTTLENECK"
ENDS = r"(?:^|\.)(?:o_proj|out_proj|down_proj|fc2|output\.dense|c_proj|out_lin|lin2|o|wo|dense_4h_to_h|attention\.dense)$"
"""Names of the projections that end a sub-layer, in the families of Transformers."""


class Bottleneck(nn.Module):
    """h [..., d] -> h + up(GELU(down(h)))."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, size), nn.Linear(size, width)
        nn.init.normal_(self.down.weight, std=1e-2)
        nn.init.zeros_(self.down.bias)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.up(F.gelu(self.down(hidden)))


def put(learner: Learner, config: TuneConfig) -> None:
    """Raises Unsupported for a base whose sub-layers end in projections of unknown names."""
    net = learner.net
    pattern = config.targets or ENDS
    places = [
        (name, module, width)
        for name, module in net.named_modules()
        if re.search(pattern, name) and not is_fresh(learner, f"{name}.")
        if (width := _width(module))
    ]
    if not places:
        raise Unsupported(
            say(
                "No layer that ends a sub-layer was found in this base.",
                "在该基础模型中没有找到子层末端的投影层。",
            ),
            say(
                "Name them with --tune.targets, or take --method lora.",
                "请用 --tune.targets 指明，或使用 --method lora。",
            ),
        )
    net.requires_grad_(False)
    for _, module, width in places:
        adapter = Bottleneck(width, config.bottleneck_size).to(learner.device)
        module.register_module("bottleneck", adapter)
        module.register_forward_hook(
            lambda module, inputs, output: module.bottleneck(output)
        )
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(
            ".bottleneck." in name
            or bool(re.search(r"norm|(?:^|\.)ln_?\w*\.", name, re.IGNORECASE))
            or is_fresh(learner, name)
        )


def _width(module: nn.Module) -> int:
    """Outputs of a linear layer, Transformers' Conv1D among them; 0 for anything else."""
    from transformers.pytorch_utils import Conv1D

    if isinstance(module, nn.Linear):
        return module.out_features
    return int(module.nf) if isinstance(module, Conv1D) else 0


def save(learner: Learner, folder: Path) -> None:
    moved = {
        name: parameter.detach().contiguous()
        for name, parameter in learner.net.named_parameters()
        if parameter.requires_grad
    }
    save_file(moved, folder / WEIGHTS)
    (folder / SETTINGS).write_text(
        json.dumps({"peft_type": KIND, "task_type": learner.adapter_kind}),
        encoding="utf-8",
    )


def load(learner: Learner, config: TuneConfig, folder: Path) -> None:
    put(learner, config)
    check_safetensors(folder / WEIGHTS)
    found, net = load_file(folder / WEIGHTS), learner.net
    expected = {
        name for name, parameter in net.named_parameters() if parameter.requires_grad
    }
    if expected ^ found.keys():
        raise Damaged(
            say(
                f"{folder} does not belong to this base and method: "
                f"{min(expected ^ found.keys())} is in one and not in the "
                "other.",
                f"{folder} 与该基础模型和方法不符：{min(expected ^ found.keys())} 只存在于其中一方。",
            ),
            say(
                "Restore it with the base and the settings it was tuned with.",
                "请使用微调时的基础模型和设置。",
            ),
        )
    result: Any = net.load_state_dict(found, strict=False)
    assert not result.unexpected_keys
