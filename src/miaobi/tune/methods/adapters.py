"""Adapters of PEFT: what each method is called there, into which layers it goes, and
how it is kept.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from miaobi.core.errors import BadInput, Unsupported
from miaobi.core.language import say
from miaobi.models.merging import quiet_peft
from miaobi.tune.learner import Learner
from miaobi.tune.methods.allocation import Allocation
from miaobi.tune.methods.freezing import is_fresh

if TYPE_CHECKING:
    from miaobi.tune.methods import TuneConfig

PROMPTS = ("prompt", "prefix", "p-tuning")
POINTWISE = (1, 1)


def put(learner: Learner, config: TuneConfig) -> None:
    """Raises Unsupported where the base has no place for such an adapter."""
    from peft import get_peft_model

    if config.method in PROMPTS:
        _check_prompts(learner, config)
    chosen = settings(learner, config)
    with quiet_peft():
        learner.net = get_peft_model(learner.net, chosen)  # type: ignore[arg-type]
    _after(learner, config)
    if config.method == "adalora":
        learner.callbacks.append(Allocation(learner.net))


def settings(learner: Learner, config: TuneConfig) -> Any:
    """PEFT's config of a method."""
    from peft import (
        AdaLoraConfig,
        LoraConfig,
        PrefixTuningConfig,
        PromptEncoderConfig,
        PromptTuningConfig,
    )

    shared: dict[str, Any] = {"task_type": learner.adapter_kind}
    if config.method == "prompt":
        return PromptTuningConfig(num_virtual_tokens=config.virtual_tokens, **shared)
    if config.method == "prefix":
        return PrefixTuningConfig(num_virtual_tokens=config.virtual_tokens, **shared)
    if config.method == "p-tuning":
        return PromptEncoderConfig(
            num_virtual_tokens=config.virtual_tokens,
            encoder_hidden_size=_hidden(learner.net),
            **shared,
        )
    shared["modules_to_save"] = [
        name
        for name in learner.fresh
        if any(found.endswith(name) for found, _ in learner.net.named_modules())
    ] or None
    if config.method == "ia3":
        return _ia3(learner, config, shared)
    lora = {
        **shared,
        "lora_alpha": config.lora_alpha,
        "lora_dropout": config.lora_dropout,
        "target_modules": targets(learner, config.targets),
    }
    if config.method == "adalora":
        # The true length of the run is told at every step (tune/methods/allocation.py).
        return AdaLoraConfig(
            target_r=config.lora_rank,
            init_r=max(config.lora_rank * 3 // 2, config.lora_rank + 1),
            total_step=1_000_000,
            **lora,
        )
    return LoraConfig(
        r=config.lora_rank,
        use_rslora=config.method == "rslora",
        use_dora=config.method == "dora",
        **lora,
    )


def targets(learner: Learner, pattern: str) -> list[str]:
    """Names of the layers that get an adapter: those that match, or all linear ones but
    the head (in a net without any, convolutions of one pixel). Raises BadInput for a
    pattern that matches nothing, Unsupported for a net without such layers.
    """
    from transformers.pytorch_utils import Conv1D

    net: Any = learner.net
    head = (
        net.get_output_embeddings()
        if callable(getattr(net, "get_output_embeddings", None))
        else None
    )
    free = [
        (name, module)
        for name, module in net.named_modules()
        if module is not head and not is_fresh(learner, f"{name}.")
    ]
    kinds = (nn.Linear, nn.Conv2d, nn.Conv1d, nn.Embedding, Conv1D)
    if pattern:
        found = [
            name
            for name, module in free
            if isinstance(module, kinds) and re.search(pattern, name)
        ]
        if not found:
            raise BadInput(
                say(
                    f"tune.targets {pattern!r} matches no layer.",
                    f"tune.targets {pattern!r} 没有匹配任何层。",
                ),
                say(
                    f"Layers are called as {', '.join(_named(free)[:6])}.",
                    f"层的名称例如：{'、'.join(_named(free)[:6])}。",
                ),
            )
        return found
    found = _named(free) or [
        name
        for name, module in free
        if isinstance(module, nn.Conv2d)
        and module.kernel_size == POINTWISE
        and module.groups == 1
    ]
    if not found:
        raise Unsupported(
            say(
                "This base has no linear layers to put an adapter beside.",
                "该基础模型没有可放置适配器的线性层。",
            ),
            say("Take --method full or frozen.", "请使用 --method full 或 frozen。"),
        )
    return found


def _named(modules: Sequence[tuple[str, nn.Module]]) -> list[str]:
    from transformers.pytorch_utils import Conv1D

    return [name for name, module in modules if isinstance(module, nn.Linear | Conv1D)]


def _ia3(learner: Learner, config: TuneConfig, shared: dict[str, Any]) -> Any:
    """Gains on keys, values and the inputs of the layer that ends the feed-forward
    part, by PEFT's list of model types.
    """
    from peft import IA3Config
    from peft.utils import constants

    kind = str(getattr(getattr(learner.net, "config", None), "model_type", ""))
    ends = constants.TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING.get(kind)
    if not ends and not config.targets:
        raise Unsupported(
            say(
                f"IA³ does not know where keys and values are in a {kind or type(learner.net).__name__}.",
                f"IA³ 不清楚 {kind or type(learner.net).__name__} 中键与值的位置。",
            ),
            say(
                "Name the layers with --tune.targets, or take --method lora.",
                "请用 --tune.targets 指明各层，或使用 --method lora。",
            ),
        )
    pattern = config.targets or rf"(?:^|\.)(?:{'|'.join(map(re.escape, ends or []))})$"
    found = targets(learner, pattern)
    inner = constants.TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING.get(
        kind, []
    )
    return IA3Config(
        target_modules=found,
        feedforward_modules=[name for name in found if name.endswith(tuple(inner))]
        if inner
        else [],
        **shared,
    )


def _hidden(net: Any) -> int:
    return int(net.config.get_text_config().hidden_size)


def _check_prompts(learner: Learner, config: TuneConfig) -> None:
    """Raise Unsupported for a base or task that learned tokens cannot be put before."""
    from transformers import PreTrainedModel

    net: Any = learner.net
    if learner.adapter_kind is None or not isinstance(net, PreTrainedModel):
        raise _no_prompt(
            config,
            say(
                "this task asks with something else than a text", "该任务的输入不是文本"
            ),
        )
    if config.method == "prefix" and config.gradient_checkpointing:
        raise _no_prompt(
            config,
            say(
                "learned keys and values are lost with tune.gradient_checkpointing",
                "与 tune.gradient_checkpointing 同用时会丢失学到的键与值",
            ),
        )
    if (
        config.method == "prefix"
        and not net.config.is_encoder_decoder
        and not _has_past(net)
    ):
        raise _no_prompt(
            config,
            say(
                "an encoder has no past to put keys and values into",
                "编码器没有可放入键与值的缓存",
            ),
        )
    # Decoders call their classification head `score`. They look for the last token
    # among the ids, which they do not get with a prompt.
    if config.method != "prefix" and "score" in dict(net.named_children()):
        raise _no_prompt(
            config,
            say(
                "with learned tokens a decoder cannot tell where a padded text ends",
                "加入可学习词元后，解码器无法判断填充文本的结尾",
            ),
        )


def _has_past(net: Any) -> bool:
    import inspect

    return "past_key_values" in inspect.signature(
        net.forward
    ).parameters and not getattr(net.config, "is_encoder", False)


def _no_prompt(config: TuneConfig, why: str) -> Unsupported:
    return Unsupported(
        say(
            f"The method {config.method} does not go with this base and task: {why}.",
            f"{config.method} 方法不适用于该基础模型和任务：{why}。",
        ),
        say("Take --method lora or ia3.", "请使用 --method lora 或 ia3。"),
    )


def _after(learner: Learner, config: TuneConfig) -> None:
    """Answers without those of the learned tokens."""
    if config.method not in PROMPTS:
        return
    learner.virtual_tokens = config.virtual_tokens
    if config.method == "prefix" or learner.adapter_kind in ("SEQ_CLS", "SEQ_2_SEQ_LM"):
        return

    def cut(module: nn.Module, inputs: Any, kwargs: Any, output: Any) -> Any:
        for name in ("logits", "start_logits", "end_logits", "last_hidden_state"):
            if output.get(name) is not None:
                output[name] = output[name][:, config.virtual_tokens :]
        return output

    learner.net.register_forward_hook(cut, with_kwargs=True)


def save(learner: Learner, folder: Path) -> None:
    """In PEFT's layout: adapter_model.safetensors and adapter_config.json."""
    net: Any = learner.net
    net.save_pretrained(folder, save_embedding_layers=False)


def load(learner: Learner, config: TuneConfig, folder: Path) -> None:
    from peft import PeftModel

    net: Any = learner.net
    prompt = config.method in PROMPTS
    with quiet_peft():
        learner.net = PeftModel.from_pretrained(
            net, str(folder), is_trainable=not prompt
        )
    if prompt:  # PEFT brings them back at rest, as plain vectors, which may go on to be trained as such
        learner.net.prompt_encoder.requires_grad_(True)
    _after(learner, config)
