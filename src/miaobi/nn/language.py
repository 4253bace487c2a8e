"""Next-token prediction, for every family that predicts the next token: the loss, and
plain sampling while training.

L = -Σ_t log p(x_t | x_<t)   in nats, summed over the targets that are not masked (-100).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from miaobi.nn.objective import Batch, Loss, Objective, Phase

MASKED = -100


class LanguageModel(Objective):
    """net: ids [B, T] -> logits [B, T, V]. Batches: ids [B, T], targets [B, T], both int64."""

    unit = "tokens"

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def phases(self) -> list[Phase]:
        return [Phase("model", self.net, self.loss)]

    def loss(self, batch: Batch) -> Loss:
        logits_BTV = self.net(batch["ids"])
        targets = batch["targets"]
        total = F.cross_entropy(
            logits_BTV.flatten(0, 1).float(),
            targets.flatten(),
            ignore_index=MASKED,
            reduction="sum",
        )
        return Loss(total, int((targets != MASKED).sum()))


def sample_texts(objective: LanguageModel, dataset: Any, config: Any) -> list[str]:
    """What the model writes after each of config.prompts, to look at while it learns
    (the `sample` of a family).
    """
    net = objective.net
    return [
        prompt
        + dataset.tokenizer.decode(
            continue_ids(
                net,
                [
                    dataset.spec.bos_id,
                    *(dataset.tokenizer.encode([prompt]) if prompt else []),
                ],
                config.max_new_tokens,
                dataset.spec.context_length,
                dataset.spec.eos_id,
            )
        )
        for prompt in config.prompts or [""]
    ]


@torch.no_grad()
def continue_ids(
    net: nn.Module,
    prompt: Sequence[int],
    max_new_tokens: int,
    context_length: int,
    end: int,
    temperature: float = 0.9,
    seed: int = 0,
) -> list[int]:
    """Token ids drawn after `prompt`, until `end` (not returned) or `max_new_tokens`.

    For glimpses while training: the whole context is run again for every token.
        `engines/native` is the quick way.
    """
    draw, ids, device = (
        torch.Generator().manual_seed(seed),
        list(prompt),
        next(net.parameters()).device,
    )
    for _ in range(max_new_tokens):
        logits_V = (
            net(torch.tensor([ids[-context_length:]], device=device))[0, -1]
            .float()
            .cpu()
        )
        token = int(
            torch.multinomial(
                torch.softmax(logits_V / temperature, -1), 1, generator=draw
            )
        )
        if token == end:
            break
        ids.append(token)
    return ids[len(prompt) :]
