"""What helps training whatever the method: noise on embeddings, dropout, gradient
checkpointing. All of it rests with the net.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from miaobi.core.errors import Unsupported
from miaobi.core.language import say
from miaobi.tune.learner import Learner

if TYPE_CHECKING:
    from miaobi.tune.methods import TuneConfig


def prepare(learner: Learner, config: TuneConfig) -> None:
    """Before adapters are put in. Raises Unsupported for what this base has no place for."""
    if config.neftune_alpha and learner.neftune_alpha is not None:
        learner.neftune_alpha = config.neftune_alpha
    elif config.neftune_alpha:
        add_noise(learner.net, config.neftune_alpha)
    if config.dropout >= 0:
        _set_dropout(learner.net, config.dropout)
    if config.gradient_checkpointing:
        _checkpoint_gradients(learner.net)


def add_noise(net: nn.Module, alpha: float) -> None:
    """NEFTune (Jain et al. 2023, arXiv:2310.05914): while training, E + ε with ε ~
    U(-1, 1) α / √(L d), E [B, L, d].
    """
    embedding = input_embedding(net)
    if embedding is None:
        raise _no_place(
            "neftune_alpha",
            say("its inputs are not looked up in an embedding", "其输入不经过词嵌入"),
        )

    def shake(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        if not module.training:
            return output
        return output + torch.empty_like(output).uniform_(-1, 1) * (
            alpha / (output.shape[-2] * output.shape[-1]) ** 0.5
        )

    embedding.register_forward_hook(shake)


def input_embedding(net: nn.Module) -> nn.Embedding | None:
    """Where tokens become vectors; None for models of pictures."""
    from transformers import PreTrainedModel

    if not isinstance(net, PreTrainedModel):
        return None
    try:
        found = net.get_input_embeddings()  # type: ignore[no-untyped-call]
    except NotImplementedError:
        return None
    return found if isinstance(found, nn.Embedding) else None


def _set_dropout(net: nn.Module, share: float) -> None:
    places = [module for module in net.modules() if isinstance(module, nn.Dropout)]
    if not places:
        raise _no_place(
            "dropout", say("it has no dropout layers", "其中没有 dropout 层")
        )
    for module in places:
        module.p = share


def _checkpoint_gradients(net: Any) -> None:
    """Transformers' own and Diffusers' own: layers are worked out again on the way back."""
    from transformers import PreTrainedModel

    if isinstance(net, PreTrainedModel) and net.supports_gradient_checkpointing:
        net.activation_checkpointing_enable()
        net.config.use_cache = (
            False  # keys and values of a training pass are nobody's past
        )
    elif getattr(
        net, "_supports_gradient_checkpointing", False
    ):  # Diffusers' name for it
        net.enable_gradient_checkpointing()
    else:
        raise _no_place(
            "gradient_checkpointing",
            say("its layers cannot be worked out anew", "其各层不支持重新计算"),
        )


def _no_place(key: str, why: str) -> Unsupported:
    return Unsupported(
        say(
            f"tune.{key} does not go with this base: {why}.",
            f"tune.{key} 不适用于该基础模型：{why}。",
        ),
        say("Leave it out.", "请去掉该设置。"),
    )
