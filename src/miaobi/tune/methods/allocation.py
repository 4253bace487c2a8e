"""AdaLoRA's ranks: an update is B diag(E) A with orthogonal A and B; singular values
that matter little are masked as training goes on.

Zhang et al. 2023 (arXiv:2303.10512), as PEFT does it, but for what our training loop
needs: the run's length is set at every step; importances are buffers, so that a resumed
run allocates as the unbroken one would; and the orthogonality loss does not depend on
the net computing a loss of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from miaobi.tune.learner import Callback, Learner

WARMUP = 0.1
"""Share of the run before ranks are taken away."""
FINAL = 0.3
"""Share of the run after the last rank was taken away."""
ALLOCATIONS = 100
"""How often ranks are allocated during a run."""


class Allocation(Callback):
    """Allocate ranks while training.

    Buffers: `sensitivity|NAME` and `uncertainty|NAME`, shaped as the parameter, and
    `kept|NAME`, bool [r].

    Args:
        net: a PEFT model with an AdaLoRA adapter.
    """

    def __init__(self, net: Any) -> None:
        super().__init__()
        for name, parameter in net.base_model.model.named_parameters():
            if "lora_" not in name or net.active_adapter not in name:
                continue
            for kind in ("sensitivity", "uncertainty"):
                self.register_buffer(
                    _buffer_name(kind, name), torch.zeros_like(parameter)
                )
            if "lora_E" in name:
                mask = torch.ones(len(parameter), dtype=torch.bool)
                self.register_buffer(_buffer_name("kept", name), mask)

    def penalty(self, learner: Learner) -> Tensor:
        """Return λ mean ‖P Pᵀ - I‖ over the A and Bᵀ of all layers, a scalar."""
        net: Any = learner.net
        settings = net.peft_config[net.active_adapter]
        gaps = list[Tensor]()
        for name, parameter in net.base_model.model.named_parameters():
            if net.active_adapter not in name:
                continue
            if "lora_A" in name:
                gaps.append(_orthogonality_gap(parameter @ parameter.T))
            elif "lora_B" in name:
                gaps.append(_orthogonality_gap(parameter.T @ parameter))
        weight = float(settings.orth_reg_weight)
        return weight * torch.stack(gaps).mean()

    @torch.no_grad()
    def after_step(self, learner: Learner, step: int, max_steps: int) -> None:
        net: Any = learner.net
        tuner = net.base_model
        settings = net.peft_config[net.active_adapter]
        settings.total_step = max_steps
        settings.tinit = round(WARMUP * max_steps)
        settings.tfinal = round(FINAL * max_steps)
        settings.deltaT = max(max_steps // ALLOCATIONS, 1)
        if max_steps - settings.tfinal <= settings.tinit:
            return  # too short a run to take anything away
        self._write_to(tuner.rankallocator, settings)
        for name, parameter in tuner.model.named_parameters():
            # A layer that the task never calls has no gradient, which PEFT expects.
            if name in tuner.rankallocator.ipt and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        tuner.update_and_allocate(step)
        self._read_from(tuner.rankallocator, settings)
        # It is set anew at every step. PEFT would cut an adapter by it when saving,
        # though before the end masked values may come back.
        settings.rank_pattern = None

    def _write_to(self, allocator: Any, settings: Any) -> None:
        """Bring PEFT's allocator to the state of the buffers."""
        allocator.exp_avg_ipt = self._buffers_of("sensitivity")
        allocator.exp_avg_unc = self._buffers_of("uncertainty")
        allocator.ipt = dict(allocator.exp_avg_ipt)
        settings.rank_pattern = {
            name: mask.tolist() for name, mask in self._buffers_of("kept").items()
        }

    def _read_from(self, allocator: Any, settings: Any) -> None:
        """Bring the buffers to the state of PEFT's allocator."""
        self._update("sensitivity", allocator.exp_avg_ipt)
        self._update("uncertainty", allocator.exp_avg_unc)
        masks = {
            name: torch.tensor(mask) for name, mask in settings.rank_pattern.items()
        }
        self._update("kept", masks)

    def _update(self, kind: str, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self.get_buffer(_buffer_name(kind, name)).copy_(value)

    def _buffers_of(self, kind: str) -> dict[str, Tensor]:
        """Return the buffers of a kind by the parameter's name."""
        buffers = dict[str, Tensor]()
        for name, value in self.named_buffers():
            prefix, _, parameter = name.partition("|")
            if prefix == kind:
                buffers[parameter.replace("|", ".")] = value
        return buffers


def _orthogonality_gap(gram: Tensor) -> Tensor:
    identity = torch.eye(len(gram), device=gram.device)
    gap: Tensor = torch.linalg.matrix_norm(gram - identity)
    return gap


def _buffer_name(kind: str, name: str) -> str:
    """Return the name of a buffer, which may hold no dots."""
    return f"{kind}|{name.replace('.', '|')}"
