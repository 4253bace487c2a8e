"""Next-token prediction for all text families: the loss, and samples while training.

L = -Σ_t log p(x_t | x_<t)   in nats, summed over the targets that are not masked (-100)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from miaobi.core.artifacts import Artifact, Facts, Text
from miaobi.data.text.tokens import TokenSpec
from miaobi.nn.objective import Batch, Loss, Objective, Phase
from miaobi.nn.sample import TextSample

MASKED = -100


@runtime_checkable
class SentenceLatents(Protocol):
    """A model whose sentences come from points of a latent space: what `load` of such a
    family returns. Texts are token ids without first and end token.
    """

    spec: TokenSpec
    latent_shape: tuple[int, ...]

    def encode(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """Return the likeliest points [B, D] of texts, each of at least one token."""
        ...

    def decode(self, z: Tensor) -> list[list[int]]:
        """Return the text at each point [B, D], the likeliest token at every step."""
        ...

    def bound(
        self,
        texts: Sequence[Sequence[int]],
        samples: int = 200,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return lower bounds on log p(x) in nats, [B], from `samples` draws of q(z|x)."""
        ...


class LanguageModel(Objective):
    """A network that predicts tokens, with its loss.

    Shapes: ids [B, T] -> logits [B, T, V]. Batches: ids, targets, both int64 [B, T].
    """

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


def sample_texts(
    objective: LanguageModel, dataset: Any, config: TextSample
) -> list[Artifact]:
    """Return each of config.prompts with its continuation: the `sample` of a family."""
    tokenizer = dataset.tokenizer
    spec = dataset.spec
    texts = list[Artifact]()
    for prompt in config.prompts or [""]:
        ids = [spec.bos_id]
        if prompt:
            ids += tokenizer.encode([prompt])
        answer = continue_ids(
            objective.net,
            ids,
            config.max_new_tokens,
            spec.context_length,
            spec.eos_id,
        )
        texts.append(Text(prompt + tokenizer.decode(answer), Facts("")))
    return texts


@torch.no_grad()
def continue_ids(
    net: nn.Module,
    prompt: Sequence[int],
    max_new_tokens: int,
    context_length: int,
    eos_id: int,
    temperature: float = 0.9,
    seed: int = 0,
) -> list[int]:
    """Return token ids drawn after `prompt`.

    For samples while training: the whole context is run again for every token.
    `engines/native` is the quick way.

    Args:
        net: ids [1, T] -> logits [1, T, V].
        prompt: token ids, at least one.
        max_new_tokens: the most that are drawn.
        context_length: the most that `net` sees.
        eos_id: the token that ends the text; it is not returned.
        temperature: divides the logits.
        seed: of the draws.
    """
    generator = torch.Generator().manual_seed(seed)
    device = next(net.parameters()).device
    ids = list(prompt)
    for _ in range(max_new_tokens):
        context = torch.tensor([ids[-context_length:]], device=device)
        logits_V = net(context)[0, -1].float().cpu()
        p_V = torch.softmax(logits_V / temperature, -1)
        token = int(torch.multinomial(p_V, 1, generator=generator))
        if token == eos_id:
            break
        ids.append(token)
    return ids[len(prompt) :]
