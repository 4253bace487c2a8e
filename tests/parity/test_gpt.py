"""The gpt family computes what Transformers' LlamaForCausalLM computes, in every
variant of its configuration.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from miaobi.core.errors import BadInput
from miaobi.data.text.tokens import TokenSpec
from miaobi.families import gpt

SPEC = TokenSpec(
    vocab_size=97, context_length=32, bos_id=0, eos_id=0, pad_id=0, tokenizer="test"
)


@pytest.mark.parametrize(
    "config",
    [
        gpt.Config(num_layers=2, hidden_size=64),
        gpt.Config(num_layers=3, hidden_size=64, num_heads=4, num_kv_heads=2),
        gpt.Config(
            num_layers=1,
            hidden_size=96,
            num_heads=3,
            intermediate_size=100,
            rope_theta=500.0,
        ),
        gpt.Config(num_layers=2, hidden_size=64, tie_embeddings=True, norm_eps=1e-6),
    ],
)
def test_logits_and_gradients_equal_llama(config: gpt.Config, tmp_path: Path) -> None:
    torch.manual_seed(1)
    objective = gpt.build(config, SPEC)
    for parameter in objective.parameters():  # away from the zeros it starts with
        nn.init.normal_(parameter, std=0.1)
    gpt.save(objective, tmp_path)
    theirs = gpt.load(tmp_path)
    theirs.model.embed_tokens.padding_idx = (
        None  # Transformers gives the padding token no gradient
    )
    ids = torch.randint(0, 97, (3, 32))
    mine, other = objective.net(ids), theirs(ids).logits
    torch.testing.assert_close(mine, other, rtol=1e-4, atol=2e-5)
    mine.square().mean().backward()
    other.square().mean().backward()
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name, parameter in objective.net.named_parameters():
        torch.testing.assert_close(
            parameter.grad, gradients[name], rtol=1e-3, atol=1e-5
        )


def test_odd_shapes_are_refused() -> None:
    with pytest.raises(BadInput, match="heads of even width"):
        gpt.Config(hidden_size=100, num_heads=3)
    with pytest.raises(BadInput, match="no multiple"):
        gpt.Config(hidden_size=64, num_heads=4, num_kv_heads=3)
