"""What helps training whatever the method: noise on embeddings, dropout, gradient
checkpointing. All of it is in the net itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from miaobi.core.errors import Unsupported
from miaobi.core.language import in_each, say
from miaobi.tune.config import TuneConfig
from miaobi.tune.learner import Learner


def apply(learner: Learner, config: TuneConfig) -> None:
    """Change the net before adapters are put in.

    Raises Unsupported for a setting that does not go with this base.
    """
    if config.neftune_alpha and learner.neftune_alpha is not None:
        learner.neftune_alpha = config.neftune_alpha
    elif config.neftune_alpha:
        _add_noise(learner.net, config.neftune_alpha)
    if config.dropout >= 0:
        _set_dropout(learner.net, config.dropout)
    if config.gradient_checkpointing:
        _checkpoint_gradients(learner.net)


def _add_noise(net: nn.Module, alpha: float) -> None:
    """Let embeddings E [B, L, d] be E + ε while training, ε ~ U(-1, 1) α / √(L d).

    NEFTune (Jain et al. 2023, arXiv:2310.05914).
    """
    embedding = input_embedding(net)
    if embedding is None:
        raise _unsupported(
            "neftune_alpha",
            say("its inputs are not looked up in an embedding", "其输入不经过词嵌入"),
        )

    def add(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        if not module.training:
            return output
        length, width = output.shape[-2:]
        noise = torch.empty_like(output).uniform_(-1, 1)
        scale = float(alpha / (length * width) ** 0.5)
        return output + noise * scale

    embedding.register_forward_hook(add)


def input_embedding(net: nn.Module) -> nn.Embedding | None:
    """Return the layer where tokens become vectors; None for models of pictures."""
    from transformers import PreTrainedModel

    if not isinstance(net, PreTrainedModel):
        return None
    try:
        embedding = net.get_input_embeddings()
    except NotImplementedError:
        return None
    return embedding if isinstance(embedding, nn.Embedding) else None


def _set_dropout(net: nn.Module, share: float) -> None:
    layers = [module for module in net.modules() if isinstance(module, nn.Dropout)]
    if not layers:
        raise _unsupported(
            "dropout", say("it has no dropout layers", "其中没有 dropout 层")
        )
    for layer in layers:
        layer.p = share


def _checkpoint_gradients(net: Any) -> None:
    """Let activations be recomputed in the backward pass.

    Transformers' models and Diffusers' models each have a way of their own.
    """
    from transformers import PreTrainedModel

    if isinstance(net, PreTrainedModel) and net.supports_gradient_checkpointing:
        net.activation_checkpointing_enable()
        net.config.use_cache = False  # training never reads cached keys and values
    elif getattr(net, "_supports_gradient_checkpointing", False):  # Diffusers
        net.enable_gradient_checkpointing()
    else:
        raise _unsupported(
            "gradient_checkpointing",
            say("its layers cannot be recomputed", "其各层不支持重新计算"),
        )


def _unsupported(key: str, why: str) -> Unsupported:
    return Unsupported(
        in_each(
            lambda: say(
                f"tune.{key} does not go with this base: {why}.",
                f"tune.{key} 不适用于该基础模型：{why}。",
            )
        ),
        say("Leave it out.", "请去掉该设置。"),
    )
