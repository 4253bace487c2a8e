"""Bottleneck adapters: after the projection that ends each sub-layer, before its output
is added to its input (Houlsby et al. 2019, arXiv:1902.00751).

    h ← h + W_up GELU(W_down h + b) + c,   W_up = 0 and c = 0 at the start, so that the base is unchanged

Norms move too, as in the paper. Two files are saved: adapter_model.safetensors (all
that moved) and adapter_config.json, whose peft_type distinguishes it from PEFT's.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from miaobi.core.bundle import check_safetensors
from miaobi.core.errors import Damaged, Unsupported
from miaobi.core.language import say
from miaobi.tune.config import TuneConfig
from miaobi.tune.learner import Learner
from miaobi.tune.methods.freezing import is_fresh

SETTINGS = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
KIND = "BOTTLENECK"
PROJECTIONS = (
    r"(?:^|\.)(?:o_proj|out_proj|down_proj|fc2|output\.dense|c_proj|out_lin|lin2|o|wo|"
    r"dense_4h_to_h|attention\.dense)$"
)
"""Names of the projections that end a sub-layer, in the families of Transformers."""
NORMS = re.compile(r"norm|(?:^|\.)ln_?\w*\.", re.IGNORECASE)


class Bottleneck(nn.Module):
    """h [..., d] -> h + up(GELU(down(h)))."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, size)
        self.up = nn.Linear(size, width)
        nn.init.normal_(self.down.weight, std=1e-2)
        nn.init.zeros_(self.down.bias)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        change: Tensor = self.up(F.gelu(self.down(hidden)))
        return hidden + change


def apply(learner: Learner, config: TuneConfig) -> None:
    """Put an adapter behind each projection and freeze the rest.

    Raises Unsupported for a base whose sub-layers end in projections of unknown names.
    """
    net = learner.net
    projections = _projections(learner, config.targets or PROJECTIONS)
    if not projections:
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
    for module in projections:
        adapter = Bottleneck(_width(module), config.bottleneck_size)
        module.register_module("bottleneck", adapter.to(learner.device))
        module.register_forward_hook(_adapt)
    for name, parameter in net.named_parameters():
        is_adapter = ".bottleneck." in name
        is_norm = bool(NORMS.search(name))
        parameter.requires_grad_(is_adapter or is_norm or is_fresh(learner, name))


def _projections(learner: Learner, pattern: str) -> list[nn.Module]:
    return [
        module
        for name, module in learner.net.named_modules()
        if re.search(pattern, name)
        and not is_fresh(learner, f"{name}.")
        and _width(module)
    ]


def _adapt(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    adapter: nn.Module = module.get_submodule("bottleneck")
    adapted: Tensor = adapter(output)
    return adapted


def _width(module: nn.Module) -> int:
    """Return the outputs of a linear layer, Transformers' Conv1D among them; else 0."""
    from transformers.pytorch_utils import Conv1D

    if isinstance(module, nn.Linear):
        return module.out_features
    return int(module.nf) if isinstance(module, Conv1D) else 0


def save(learner: Learner, folder: Path) -> None:
    """Write all parameters that move, and the settings."""
    tensors = {
        name: parameter.detach().contiguous()
        for name, parameter in learner.net.named_parameters()
        if parameter.requires_grad
    }
    save_file(tensors, folder / WEIGHTS)
    settings = {"peft_type": KIND, "task_type": learner.adapter_kind}
    (folder / SETTINGS).write_text(json.dumps(settings), encoding="utf-8")


def load(learner: Learner, config: TuneConfig, folder: Path) -> None:
    """Put in the adapters that `save` wrote. Raises Damaged where they do not fit."""
    apply(learner, config)
    check_safetensors(folder / WEIGHTS)
    tensors = load_file(folder / WEIGHTS)
    expected = {
        name
        for name, parameter in learner.net.named_parameters()
        if parameter.requires_grad
    }
    unmatched = expected ^ tensors.keys()
    if unmatched:
        raise Damaged(
            say(
                f"{folder} does not belong to this base and method: "
                f"{min(unmatched)} is in one and not in the other.",
                f"{folder} 与该基础模型和方法不符：{min(unmatched)} 只存在于其中一方。",
            ),
            say(
                "Restore it with the base and the settings it was tuned with.",
                "请使用微调时的基础模型和设置。",
            ),
        )
    result: Any = learner.net.load_state_dict(tensors, strict=False)
    assert not result.unexpected_keys
