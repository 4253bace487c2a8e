"""Opening weights for the native engine: bundles through their family, Transformers
checkpoints, bases with adapters.

Only safetensors are read, and no code that came with a checkpoint is ever run. One
adapter is merged into its base, and costs nothing from then on; several stand beside
it, and each request is answered by its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from miaobi.core import bundle, gguf
from miaobi.core.engine import Weights
from miaobi.core.errors import Unsupported
from miaobi.core.language import say
from miaobi.data.text.tokenizer.gguf import word_rule
from miaobi.engines.native.decoders import (
    CachedDecoder,
    Decoder,
    Layer,
    RecurrentDecoder,
)
from miaobi.engines.text.tokenizer import Tokenizer
from miaobi.families import families
from miaobi.models import chat, merging
from miaobi.models import tuned as opening
from miaobi.models.base import open_base
from miaobi.models.weights import read_json, refuse_foreign_code

ENDLESS = 2**31


@runtime_checkable
class Recurrent(Protocol):
    """What a recurrent family's module offers: one call for a prompt or a single token."""

    def step(
        self, ids: torch.Tensor, state: Any = None
    ) -> tuple[torch.Tensor, Any]: ...


@dataclass(frozen=True)
class Adapter:
    """One of several on the same base."""

    key: str
    """What PEFT calls it."""
    chat: chat.ChatTemplate | None


@dataclass(frozen=True)
class Checkpoint:
    name: str
    decoder: Decoder
    tokenizer: Tokenizer
    eos_ids: frozenset[int]
    """Tokens that end an answer."""
    bos_ids: list[int]
    """What an empty prompt begins with."""
    context_length: int
    chat: chat.ChatTemplate | None
    adapters: Mapping[str, Adapter] = field(default_factory=dict)
    """By the names they were asked for with."""


def load(weights: Weights, device: str, dtype: torch.dtype) -> Checkpoint:
    """Raises Damaged, NotFound or Unsupported, each with what to do."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    if weights.format == "gguf":
        return _load_gguf(weights, device, dtype)
    if weights.family == opening.FAMILY:
        return _load_tuned(opening.open_tuned(weights), device, dtype)
    folder = weights.path
    if weights.format == "bundle":
        family = bundle.read(folder).family
        module = families.get(family).load(folder)
    else:
        module = load_transformers(folder, dtype)
    tokenizer = Tokenizer.from_file(_tokenizer_file(folder))
    return _checkpoint(
        weights.name,
        module.eval().to(device, dtype),
        tokenizer,
        _settings(folder),
        chat.from_folder(folder),
    )


def _load_tuned(tuned: opening.Tuned, device: str, dtype: torch.dtype) -> Checkpoint:
    """A tuned language model; an adapter goes into its base's weights, in float32, or
    before every prompt where it is a prefix.
    """
    own = (
        tuned.folder
        if (tuned.folder / "tokenizer.json").exists()
        else tuned.base.folder
    )
    tokenizer = Tokenizer.from_file(_tokenizer_file(own))
    if not tuned.adapter:
        module = load_transformers(tuned.folder, dtype)
        return _checkpoint(
            tuned.label,
            module.eval().to(device),
            tokenizer,
            _settings(tuned.folder),
            chat.from_folder(own),
        )
    kind, prefix = tuned.adapter["peft_type"], list[Layer]()
    if kind in opening.PREFIXES:
        module = load_transformers(tuned.base.folder, torch.float32)
        prefix = prefix_of(module, tuned.folder)
    elif kind in opening.UNMERGEABLE:
        from miaobi.tune.saved import learner_of

        module = learner_of(tuned).net
    else:
        module = merging.put_in(
            load_transformers(tuned.base.folder, torch.float32), tuned.folder
        )
    prefix = [
        (keys.to(device, dtype), values.to(device, dtype)) for keys, values in prefix
    ]
    made = _checkpoint(
        tuned.label,
        module.eval().to(device, dtype),
        tokenizer,
        _settings(tuned.base.folder),
        chat.from_folder(own) or tuned.base.template,
        prefix,
    )
    return replace(
        made,
        context_length=made.context_length - (prefix[0][0].shape[2] if prefix else 0),
    )


def load_adapted(
    weights: Weights, names: Sequence[str], device: str, dtype: torch.dtype
) -> Checkpoint:
    """A base with several adapters. Raises BadInput for an adapter of another base,
    Unsupported for one that is not plain LoRA.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    base = open_base(weights.location)
    chosen = {name: opening.open_adapter(name, base) for name in names}
    for tuned in chosen.values():
        merging.read_update(tuned)  # refuses what cannot share a batch
    keys = {
        name: f"adapter{number}" for number, name in enumerate(chosen)
    }  # a name may hold a dot, a module's must not
    (first, opened), *others = chosen.items()
    module = merging.beside(
        load_transformers(base.folder, dtype), opened.folder, keys[first]
    )
    for name, tuned in others:
        module.load_adapter(str(tuned.folder), keys[name])
    tokenizer, adapters = (
        Tokenizer.from_file(_tokenizer_file(base.folder)),
        {
            name: Adapter(keys[name], chat.from_folder(tuned.folder) or base.template)
            for name, tuned in chosen.items()
        },
    )
    plain = _checkpoint(
        weights.name,
        module.eval().to(device, dtype),
        tokenizer,
        _settings(base.folder),
        base.template,
        adapted=True,
    )
    return replace(plain, adapters=adapters)


def prefix_of(module: Any, folder: Path) -> list[Layer]:
    """What stands before every prompt of a prompt- or prefix-tuned model: keys and
    values [1, heads, n, D] a layer.
    """
    adapted = merging.beside(module, folder)
    with torch.no_grad():
        made: Any = adapted.get_prompt(1)
        cache = (
            module(inputs_embeds=made, use_cache=True).past_key_values
            if isinstance(made, torch.Tensor)
            else made
        )
    return [(layer.keys, layer.values) for layer in cache.layers]


def _checkpoint(
    name: str,
    module: nn.Module,
    tokenizer: Tokenizer,
    settings: dict[str, Any],
    template: chat.ChatTemplate | None,
    prefix: Sequence[Layer] = (),
    adapted: bool = False,
) -> Checkpoint:
    recurrent = isinstance(module, Recurrent)
    decoder: Decoder = (
        RecurrentDecoder(module)
        if recurrent
        else CachedDecoder(module, prefix, adapted)
    )
    eos_ids = _numbers(settings.get("eos_token_id"), settings.get("eos_id"))
    bos_ids = _numbers(settings.get("bos_token_id"), settings.get("bos_id")) or eos_ids
    length = (
        ENDLESS
        if recurrent
        else next(
            (
                settings[key]
                for key in ("max_position_embeddings", "n_positions", "max_seq_len")
                if settings.get(key)
            ),
            ENDLESS,
        )
    )
    return Checkpoint(
        name,
        decoder,
        tokenizer,
        frozenset(eos_ids),
        bos_ids[:1] or [0],
        length,
        template,
    )


def _numbers(*values: Any) -> list[int]:
    """Token ids as config files write them: one, a list, or nothing."""
    return [
        item
        for value in values
        if value is not None
        for item in (value if isinstance(value, list) else [value])
    ]


def _settings(folder: Path) -> dict[str, Any]:
    """config.json, overridden by generation_config.json where both speak of the ends."""
    config = read_json(folder / "config.json")
    generation = folder / "generation_config.json"
    if generation.exists():
        config |= {
            key: value
            for key, value in read_json(generation).items()
            if key in ("eos_token_id", "bos_token_id") and value is not None
        }
    return config


def _tokenizer_file(folder: Path) -> Path:
    path = folder / "tokenizer.json"
    if not path.exists():
        raise Unsupported(
            say(
                f"{folder} has no tokenizer.json.", f"{folder} 中没有 tokenizer.json。"
            ),
            say(
                "Save its tokenizer in the fast format: AutoTokenizer.from_pretrained(folder).save_pretrained(folder).",
                "请把分词器存为 fast 格式：AutoTokenizer.from_pretrained(folder).save_pretrained(folder)。",
            ),
        )
    return path


def load_transformers(folder: Path, dtype: torch.dtype) -> nn.Module:
    """A causal language model from a Transformers folder. Imports the narrow class
    where the layout is Llama's.
    """
    config = read_json(folder / "config.json")
    refuse_foreign_code(config, folder.name)
    if config.get("is_encoder_decoder"):
        raise Unsupported(
            say(
                f"{folder.name} is an encoder-decoder; the native engine runs decoders.",
                f"{folder.name} 是编码器-解码器模型；native 引擎只运行解码器。",
            ),
            say("Choose a causal language model.", "请选用因果语言模型。"),
        )
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise Unsupported(
            say(
                f"{folder.name} has no safetensors weights.",
                f"{folder.name} 没有 safetensors 权重。",
            ),
            say(
                "Convert it: pickled weights (.bin, .pt) can run code when opened, so they are not read.",
                "请先转换：pickle 权重（.bin、.pt）打开时可能执行代码，因此不予读取。",
            ),
        )
    for file in files:
        bundle.check_safetensors(file)
    model: Any
    if config.get("architectures") == ["LlamaForCausalLM"]:
        from transformers.models.llama.modeling_llama import LlamaForCausalLM as model
    else:
        from transformers import AutoModelForCausalLM as model
    loaded: nn.Module = model.from_pretrained(
        folder,
        dtype=dtype,
        use_safetensors=True,
        local_files_only=True,
        attn_implementation="sdpa",
    )
    return loaded


def _load_gguf(weights: Weights, device: str, dtype: torch.dtype) -> Checkpoint:
    """Dequantised by Transformers: slow to open and four times the memory, so the last
    resort for a GGUF.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    header = gguf.read(weights.path)
    where = {
        "pretrained_model_name_or_path": str(weights.path.parent),
        "gguf_file": weights.path.name,
    }
    module: Any = AutoModelForCausalLM.from_pretrained(**where, dtype=dtype)
    tokenizer = AutoTokenizer.from_pretrained(**where).backend_tokenizer
    if (
        header.metadata.get("tokenizer.ggml.model") == "gpt2"
    ):  # Transformers cuts words by GPT-2's rule, whatever the file says
        tokenizer.pre_tokenizer = word_rule(
            header.metadata.get("tokenizer.ggml.pre", "default"), weights.path
        )
    wrapped = Tokenizer(tokenizer)
    settings = {
        "eos_token_id": header.metadata.get("tokenizer.ggml.eos_token_id"),
        "bos_token_id": header.metadata.get("tokenizer.ggml.bos_token_id"),
        "max_position_embeddings": header.of_model("context_length"),
    }
    return _checkpoint(
        weights.name,
        module.eval().to(device),
        wrapped,
        settings,
        chat.from_gguf(header.metadata),
    )
