"""Adapters of PEFT: the settings of each method, the layers it goes into, saving."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from miaobi.core.errors import BadInput, Unsupported
from miaobi.core.language import in_each, say
from miaobi.models.merging import quiet_peft
from miaobi.tune.config import TuneConfig
from miaobi.tune.learner import Learner
from miaobi.tune.methods.allocation import Allocation
from miaobi.tune.methods.freezing import is_fresh

PROMPTS = ("prompt", "prefix", "p-tuning")
POINTWISE = (1, 1)
OUTPUTS = ("logits", "start_logits", "end_logits", "last_hidden_state")
"""Outputs of a model with an entry for each token, those of a learned prompt included."""
ADDED_ROWS = "trainable_tokens_delta"
"""PEFT's name of the rows of tokens that are trained beside an adapter."""
UNKNOWN_LENGTH = 1_000_000
"""Steps that AdaLoRA is made for; the length of the run is set at every step."""


def apply(learner: Learner, config: TuneConfig) -> None:
    """Wrap the net with PEFT.

    Raises Unsupported where the base cannot take such an adapter.
    """
    from peft import get_peft_model

    if config.method in PROMPTS:
        _check_prompts(learner, config)
    settings = peft_settings(learner, config)
    net: Any = learner.net
    with quiet_peft():
        learner.net = get_peft_model(net, settings)
    _drop_prompt_outputs(learner, config)
    if config.method == "adalora":
        learner.callbacks.append(Allocation(learner.net))


def peft_settings(learner: Learner, config: TuneConfig) -> Any:
    """Return PEFT's config of a method."""
    if config.method in PROMPTS:
        return _prompt_settings(learner, config)
    if config.method == "ia3":
        return _ia3_settings(learner, config)
    return _lora_settings(learner, config)


def _prompt_settings(learner: Learner, config: TuneConfig) -> Any:
    from peft import PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig

    shared: dict[str, Any] = {
        "task_type": learner.adapter_kind,
        "num_virtual_tokens": config.virtual_tokens,
    }
    if config.method == "prompt":
        return PromptTuningConfig(**shared)
    if config.method == "prefix":
        return PrefixTuningConfig(**shared)
    return PromptEncoderConfig(encoder_hidden_size=_hidden_size(learner.net), **shared)


def _lora_settings(learner: Learner, config: TuneConfig) -> Any:
    from peft import AdaLoraConfig, LoraConfig

    shared: dict[str, Any] = {
        "task_type": learner.adapter_kind,
        "modules_to_save": _modules_to_save(learner),
        "lora_alpha": config.lora_alpha,
        "lora_dropout": config.lora_dropout,
        "target_modules": targets(learner, config.targets),
        "trainable_token_indices": _added_row_indices(learner),
    }
    if config.method == "adalora":
        return AdaLoraConfig(
            target_r=config.lora_rank,
            init_r=max(config.lora_rank * 3 // 2, config.lora_rank + 1),
            total_step=UNKNOWN_LENGTH,
            **shared,
        )
    return LoraConfig(
        r=config.lora_rank,
        use_rslora=config.method == "rslora",
        use_dora=config.method == "dora",
        **shared,
    )


def _added_row_indices(learner: Learner) -> dict[str, list[int]] | None:
    """Return the rows of added tokens by the name of their table; None without any.

    An output layer that is the table of the embeddings follows it by itself. Raises
    Unsupported for an output layer with a bias, which PEFT leaves out beside such rows.
    """
    if not learner.added_ids:
        return None
    net: Any = learner.net
    embedding = net.get_input_embeddings()
    tables = [embedding]
    output: Any = _output_layer(net)
    if output is not None and getattr(output, "bias", None) is not None:
        raise Unsupported(
            say(
                f"{type(net).__name__} has an output layer with a bias, beside which an adapter "
                "cannot train the rows of new tokens.",
                f"{type(net).__name__} 的输出层带偏置，适配器无法训练新词元的行。",
            ),
            say("Take --method full.", "请使用 --method full。"),
        )
    if output is not None and output.weight is not embedding.weight:
        tables.append(output)
    names = {id(module): name for name, module in net.named_modules()}
    ids = list(learner.added_ids)
    return {names[id(table)]: ids for table in tables}


def added_rows(learner: Learner) -> list[str]:
    """Return the names of the parameters that are the rows of added tokens."""
    return [
        name for name, _ in learner.net.named_parameters() if f".{ADDED_ROWS}." in name
    ]


def _ia3_settings(learner: Learner, config: TuneConfig) -> Any:
    """Return gains on keys, values and the inputs of the last feed-forward layer.

    Which layers these are is in PEFT's list of model types.
    """
    from peft import IA3Config
    from peft.utils import constants

    net: Any = learner.net
    model_type = str(getattr(getattr(net, "config", None), "model_type", ""))
    by_type = constants.TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING
    feedforward_by_type = (
        constants.TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING
    )
    suffixes = by_type.get(model_type) or []
    if not suffixes and not config.targets:
        name = model_type or type(net).__name__
        raise Unsupported(
            say(
                f"IA³ does not know where keys and values are in a {name}.",
                f"IA³ 不清楚 {name} 中键与值的位置。",
            ),
            say(
                "Name the layers with --tune.targets, or take --method lora.",
                "请用 --tune.targets 指明各层，或使用 --method lora。",
            ),
        )
    alternatives = "|".join(map(re.escape, suffixes))
    pattern = config.targets or rf"(?:^|\.)(?:{alternatives})$"
    names = targets(learner, pattern)
    feedforward = tuple(feedforward_by_type.get(model_type, []))
    return IA3Config(
        task_type=learner.adapter_kind,
        modules_to_save=_modules_to_save(learner),
        target_modules=names,
        feedforward_modules=[name for name in names if name.endswith(feedforward)],
    )


def _modules_to_save(learner: Learner) -> list[str] | None:
    """Return the fresh modules that are in the net; None for PEFT's "none"."""
    names = [name for name, _ in learner.net.named_modules()]
    fresh = [
        module
        for module in learner.fresh
        if any(name.endswith(module) for name in names)
    ]
    return fresh or None


def targets(learner: Learner, pattern: str) -> list[str]:
    """Return the names of the layers that get an adapter.

    These are the layers that match the pattern; without one all linear layers but the
    head, or in a net without any the convolutions of one pixel. Raises BadInput for a
    pattern that matches nothing, Unsupported for a net without such layers.
    """
    head = _output_layer(learner.net)
    modules = [
        (name, module)
        for name, module in learner.net.named_modules()
        if module is not head and not is_fresh(learner, f"{name}.")
    ]
    if pattern:
        return _matching(modules, pattern)
    names = _linear(modules) or _pointwise(modules)
    if not names:
        raise Unsupported(
            say(
                "This base has no linear layers to put an adapter beside.",
                "该基础模型没有可放置适配器的线性层。",
            ),
            say("Take --method full or frozen.", "请使用 --method full 或 frozen。"),
        )
    return names


def _matching(modules: Sequence[tuple[str, nn.Module]], pattern: str) -> list[str]:
    from transformers.pytorch_utils import Conv1D

    kinds = (nn.Linear, nn.Conv2d, nn.Conv1d, nn.Embedding, Conv1D)
    names = [
        name
        for name, module in modules
        if isinstance(module, kinds) and re.search(pattern, name)
    ]
    if not names:
        examples = _linear(modules)[:6]
        raise BadInput(
            say(
                f"tune.targets {pattern!r} matches no layer.",
                f"tune.targets {pattern!r} 没有匹配任何层。",
            ),
            say(
                f"Layers are called as {', '.join(examples)}.",
                f"层的名称例如：{'、'.join(examples)}。",
            ),
        )
    return names


def _linear(modules: Sequence[tuple[str, nn.Module]]) -> list[str]:
    from transformers.pytorch_utils import Conv1D

    return [name for name, module in modules if isinstance(module, nn.Linear | Conv1D)]


def _pointwise(modules: Sequence[tuple[str, nn.Module]]) -> list[str]:
    return [
        name
        for name, module in modules
        if isinstance(module, nn.Conv2d)
        and module.kernel_size == POINTWISE
        and module.groups == 1
    ]


def _output_layer(net: Any) -> nn.Module | None:
    """Return the head of a language model of Transformers; None for other nets."""
    if not callable(getattr(net, "get_output_embeddings", None)):
        return None
    head: nn.Module | None = net.get_output_embeddings()
    return head


def _hidden_size(net: Any) -> int:
    return int(net.config.get_text_config().hidden_size)


def _check_prompts(learner: Learner, config: TuneConfig) -> None:
    """Raise Unsupported for a base or task that learned tokens cannot be put before."""
    from transformers import PreTrainedModel

    net: Any = learner.net
    if learner.adapter_kind is None or not isinstance(net, PreTrainedModel):
        raise _no_prompt(
            config,
            say("this task's input is not a text", "该任务的输入不是文本"),
        )
    if config.method == "prefix":
        _check_prefix(net, config)
    elif "score" in dict(net.named_children()):
        # Decoders call their classification head `score`. They look for the last token
        # among the ids, which they do not get with a prompt.
        raise _no_prompt(
            config,
            say(
                "with learned tokens a decoder cannot find the end of a padded text",
                "加入可学习词元后，解码器无法判断填充文本的结尾",
            ),
        )


def _check_prefix(net: Any, config: TuneConfig) -> None:
    if config.gradient_checkpointing:
        raise _no_prompt(
            config,
            say(
                "learned keys and values are lost with tune.gradient_checkpointing",
                "与 tune.gradient_checkpointing 同用时会丢失学到的键与值",
            ),
        )
    if not net.config.is_encoder_decoder and not _has_past(net):
        raise _no_prompt(
            config,
            say(
                "an encoder has no past to put keys and values into",
                "编码器没有可放入键与值的缓存",
            ),
        )


def _has_past(net: Any) -> bool:
    takes_past = "past_key_values" in inspect.signature(net.forward).parameters
    return takes_past and not getattr(net.config, "is_encoder", False)


def _no_prompt(config: TuneConfig, why: str) -> Unsupported:
    return Unsupported(
        in_each(
            lambda: say(
                f"The method {config.method} does not go with this base and task: {why}.",
                f"{config.method} 方法不适用于该基础模型和任务：{why}。",
            )
        ),
        say("Take --method lora or ia3.", "请使用 --method lora 或 ia3。"),
    )


def _drop_prompt_outputs(learner: Learner, config: TuneConfig) -> None:
    """Let the net give outputs for the text alone, not for the learned tokens."""
    if config.method not in PROMPTS:
        return
    learner.virtual_tokens = config.virtual_tokens
    if config.method == "prefix" or learner.adapter_kind in ("SEQ_CLS", "SEQ_2_SEQ_LM"):
        return

    def cut(module: nn.Module, inputs: Any, kwargs: Any, output: Any) -> Any:
        for name in OUTPUTS:
            if output.get(name) is not None:
                output[name] = output[name][:, config.virtual_tokens :]
        return output

    learner.net.register_forward_hook(cut, with_kwargs=True)


def save(learner: Learner, folder: Path) -> None:
    """Write adapter_model.safetensors and adapter_config.json, in PEFT's layout."""
    net: Any = learner.net
    net.save_pretrained(folder, save_embedding_layers=False)


def load(learner: Learner, config: TuneConfig, folder: Path) -> None:
    """Wrap the net with the adapter that `save` wrote."""
    from peft import PeftModel

    base: Any = learner.net
    is_prompt = config.method in PROMPTS
    with quiet_peft():
        net: Any = PeftModel.from_pretrained(
            base, str(folder), is_trainable=not is_prompt
        )
    if is_prompt:
        # PEFT refuses to load prompts as trainable and loads them frozen, as plain
        # vectors; these may be trained further as such.
        net.prompt_encoder.requires_grad_(True)
    learner.net = net
    _drop_prompt_outputs(learner, config)
