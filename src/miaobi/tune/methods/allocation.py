"""AdaLoRA's ranks: an update is B diag(E) A with orthogonal A and B; singular values
that matter little are masked as training goes on.

Zhang et al. 2023 (arXiv:2303.10512), as PEFT does it, but for what a loop of our kind
needs: the run's length is told at every step, importances are buffers, so that a
resumed run allocates as the unbroken one would, and the orthogonality loss does not
depend on the net working out a loss of its own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from miaobi.tune.learner import Callback, Learner

BEGINS, ENDS, LOOKS = 0.1, 0.3, 100
"""Shares of the run before ranks are taken away and after the last were; how often they
are looked at in between.
"""


class Allocation(Callback):
    """Buffers: `sensitivity|NAME` and `uncertainty|NAME`, shaped as the parameter, and
    `kept|NAME`, bool [r].
    """

    def __init__(self, net: Any) -> None:
        super().__init__()
        tuner, adapter = net.base_model, net.active_adapter
        for name, parameter in tuner.model.named_parameters():
            if "lora_" in name and adapter in name:
                for kind in ("sensitivity", "uncertainty"):
                    self.register_buffer(
                        _spelled(kind, name), torch.zeros_like(parameter)
                    )
                if "lora_E" in name:
                    self.register_buffer(
                        _spelled("kept", name),
                        torch.ones(len(parameter), dtype=torch.bool),
                    )

    def penalty(self, learner: Learner) -> Tensor:
        """λ mean ‖P Pᵀ - I‖ over the A and Bᵀ of all layers."""
        net: Any = learner.net
        settings, gaps = net.peft_config[net.active_adapter], list[Tensor]()
        for name, parameter in net.base_model.model.named_parameters():
            if net.active_adapter in name and ("lora_A" in name or "lora_B" in name):
                gram = (
                    parameter @ parameter.T
                    if "lora_A" in name
                    else parameter.T @ parameter
                )
                gaps.append(
                    torch.linalg.matrix_norm(
                        gram - torch.eye(len(gram), device=gram.device)
                    )
                )
        return settings.orth_reg_weight * torch.stack(gaps).mean()

    @torch.no_grad()
    def after_step(self, learner: Learner, step: int, max_steps: int) -> None:
        net: Any = learner.net
        tuner, settings = net.base_model, net.peft_config[net.active_adapter]
        settings.total_step, settings.tinit, settings.tfinal = (
            max_steps,
            round(BEGINS * max_steps),
            round(ENDS * max_steps),
        )
        settings.deltaT = max(max_steps // LOOKS, 1)
        last = max_steps - settings.tfinal
        if last <= settings.tinit:  # too short a run to take anything away
            return
        allocator = tuner.rankallocator
        allocator.exp_avg_ipt, allocator.exp_avg_unc = (
            self._named("sensitivity"),
            self._named("uncertainty"),
        )
        allocator.ipt = dict(allocator.exp_avg_ipt)
        settings.rank_pattern = {
            name: kept.tolist() for name, kept in self._named("kept").items()
        }
        for name, parameter in tuner.model.named_parameters():
            if (
                name in allocator.ipt and parameter.grad is None
            ):  # a layer that the task never calls
                parameter.grad = torch.zeros_like(parameter)
        tuner.update_and_allocate(step)
        for kind, found in (
            ("sensitivity", allocator.exp_avg_ipt),
            ("uncertainty", allocator.exp_avg_unc),
        ):
            for name, value in found.items():
                self.get_buffer(_spelled(kind, name)).copy_(value)
        for name, kept in settings.rank_pattern.items():
            self.get_buffer(_spelled("kept", name)).copy_(torch.tensor(kept))
        # Told anew at every step. PEFT would cut an adapter by it when saving, though
        # before the end what is masked may come back.
        settings.rank_pattern = None

    def _named(self, kind: str) -> dict[str, Tensor]:
        return {
            name.partition("|")[2].replace("|", "."): value
            for name, value in self.named_buffers()
            if name.startswith(f"{kind}|")
        }


def _spelled(kind: str, name: str) -> str:
    """A buffer's name may hold no dots."""
    return f"{kind}|{name.replace('.', '|')}"
