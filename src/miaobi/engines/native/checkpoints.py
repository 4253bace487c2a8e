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
from miaobi.data.text.tokenizer.gguf import pre_tokenizer_of
from miaobi.engines.native.decoders import (
    CachedDecoder,
    Decoder,
    Layer,
    RecurrentDecoder,
)
from miaobi.engines.native.encoder_decoder import (
    EncoderDecoderDecoder,
    SourceTokenizer,
)
from miaobi.engines.text.tokenizer import Tokenizer
from miaobi.families import families
from miaobi.families.seq2seq import EncoderDecoder
from miaobi.models import chat, merging
from miaobi.models import tuned as opening
from miaobi.models.base import open_base
from miaobi.models.weights import configured_context, read_json, refuse_foreign_code

ENDLESS = 2**31
"""The context length of a model that has no limit."""


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
    """An opened model: what the native engine steps, and what it knows of its tokens."""

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
    """By the names that they were opened with."""
    start_ids: list[int] | None = None
    """What an answer begins with, where the prompt is a source with a context of its
    own; None where the answer continues the prompt.
    """


def load(weights: Weights, device: str, dtype: torch.dtype) -> Checkpoint:
    """Open weights of any format that the native engine reads.

    Raises Damaged, NotFound or Unsupported, each with what to do.
    """
    _disable_progress_bar()
    if weights.format == "gguf":
        return _load_gguf(weights, device, dtype)
    if weights.family == opening.FAMILY:
        return _load_tuned(opening.open_tuned(weights), device, dtype)
    folder = weights.path
    if weights.format == "bundle":
        module = families.get(weights.family).load(folder)
        if isinstance(module, EncoderDecoder):
            return _load_encoder_decoder(weights, module.to(device, dtype))
    else:
        module = load_transformers(folder, dtype)
    return _checkpoint(
        weights.name,
        _decoder(module.eval().to(device, dtype)),
        _open_tokenizer(folder),
        _settings(folder),
        chat.from_folder(folder),
    )


def _load_encoder_decoder(weights: Weights, module: EncoderDecoder) -> Checkpoint:
    spec = module.spec
    plain = _open_tokenizer(weights.path)
    return Checkpoint(
        weights.name,
        EncoderDecoderDecoder(module),
        SourceTokenizer(plain.tokenizer, module),
        eos_ids=frozenset([spec.eos_id]),
        bos_ids=[],
        context_length=spec.target_length,
        chat=None,
        start_ids=[spec.pad_id],
    )


def _disable_progress_bar() -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def _load_tuned(tuned: opening.Tuned, device: str, dtype: torch.dtype) -> Checkpoint:
    """A tuned language model.

    An adapter goes into its base's weights, in float32, or before every prompt where it
    is a prefix.
    """
    has_tokenizer = (tuned.folder / "tokenizer.json").exists()
    tokenizer_folder = tuned.folder if has_tokenizer else tuned.base.folder
    tokenizer = _open_tokenizer(tokenizer_folder)
    template = chat.from_folder(tokenizer_folder)
    if not tuned.adapter:
        module = load_transformers(tuned.folder, dtype)
        return _checkpoint(
            tuned.label,
            _decoder(module.eval().to(device)),
            tokenizer,
            _settings(tuned.folder),
            template,
        )
    module, prefix = _load_adapter(tuned)
    prefix = [
        (keys.to(device, dtype), values.to(device, dtype)) for keys, values in prefix
    ]
    checkpoint = _checkpoint(
        tuned.label,
        _decoder(module.eval().to(device, dtype), prefix),
        tokenizer,
        {**_settings(tuned.base.folder), **_generation(tuned.folder)},
        template or tuned.base.template,
    )
    if not prefix:
        return checkpoint
    prefix_length = prefix[0][0].shape[2]
    context_length = checkpoint.context_length - prefix_length
    return replace(checkpoint, context_length=context_length)


def _load_adapter(tuned: opening.Tuned) -> tuple[nn.Module, list[Layer]]:
    """The base with the adapter merged into it, and what it puts before every prompt."""
    kind = tuned.adapter["peft_type"]
    if kind in opening.PREFIXES:
        module = load_transformers(tuned.base.folder, torch.float32)
        return module, prefix_of(module, tuned.folder)
    if kind in opening.UNMERGEABLE:
        from miaobi.tune.saved import learner_of

        return learner_of(tuned).net, []
    module = load_transformers(tuned.base.folder, torch.float32)
    return merging.merge_adapter(module, tuned.folder), []


def load_adapted(
    weights: Weights, names: Sequence[str], device: str, dtype: torch.dtype
) -> Checkpoint:
    """Open a base with several adapters beside it.

    Args:
        weights: The base.
        names: The adapters, as a request's `adapter` will name them.
        device: A PyTorch device.
        dtype: The numbers to compute with.

    Raises BadInput for an adapter of another base, Unsupported for one that is not
    plain LoRA.
    """
    _disable_progress_bar()
    base = open_base(weights.location)
    adapters = {name: opening.open_adapter(name, base) for name in names}
    for tuned in adapters.values():
        merging.read_update(tuned)  # refuses what cannot share a batch
    # A name may hold a dot, the name of a module must not.
    keys = {name: f"adapter{index}" for index, name in enumerate(adapters)}
    (first_name, first), *others = adapters.items()
    module = load_transformers(base.folder, dtype)
    adapted = merging.with_adapter(module, first.folder, keys[first_name])
    for name, tuned in others:
        adapted.load_adapter(str(tuned.folder), keys[name])
    checkpoint = _checkpoint(
        weights.name,
        CachedDecoder(adapted.eval().to(device, dtype), adapted=True),
        _open_tokenizer(base.folder),
        _settings(base.folder),
        base.template,
    )
    by_name = {
        name: Adapter(keys[name], chat.from_folder(tuned.folder) or base.template)
        for name, tuned in adapters.items()
    }
    return replace(checkpoint, adapters=by_name)


def prefix_of(module: Any, folder: Path) -> list[Layer]:
    """What stands before every prompt of a prompt- or prefix-tuned model.

    Keys and values [1, heads, n, D] a layer.
    """
    adapted = merging.with_adapter(module, folder)
    with torch.no_grad():
        prompt: Any = adapted.get_prompt(1)
        if isinstance(prompt, torch.Tensor):  # embeddings [1, n, D]
            cache = module(inputs_embeds=prompt, use_cache=True).past_key_values
        else:
            cache = prompt
    return [(layer.keys, layer.values) for layer in cache.layers]


def _decoder(module: nn.Module, prefix: Sequence[Layer] = ()) -> Decoder:
    if isinstance(module, Recurrent):
        return RecurrentDecoder(module)
    return CachedDecoder(module, prefix)


def _checkpoint(
    name: str,
    decoder: Decoder,
    tokenizer: Tokenizer,
    settings: Mapping[str, Any],
    template: chat.ChatTemplate | None,
) -> Checkpoint:
    """`settings`: what config.json says of the model."""
    eos_ids = _token_ids(settings, "eos_token_id", "eos_id")
    bos_ids = _token_ids(settings, "bos_token_id", "bos_id") or eos_ids
    context_length = ENDLESS
    if isinstance(decoder, CachedDecoder):
        context_length = configured_context(settings) or ENDLESS
    return Checkpoint(
        name,
        decoder,
        tokenizer,
        frozenset(eos_ids),
        bos_ids[:1] or [0],
        context_length,
        template,
    )


def _token_ids(settings: Mapping[str, Any], *keys: str) -> list[int]:
    """Token ids as config files write them: one, a list, or nothing."""
    ids: list[int] = []
    for key in keys:
        value = settings.get(key)
        if isinstance(value, list):
            ids += value
        elif value is not None:
            ids.append(value)
    return ids


def _settings(folder: Path) -> dict[str, Any]:
    """config.json; generation_config.json wins where both name the end tokens."""
    return {**read_json(folder / "config.json"), **_generation(folder)}


def _generation(folder: Path) -> dict[str, Any]:
    """The tokens that begin and end texts by generation_config.json, where there is one."""
    path = folder / "generation_config.json"
    if not path.exists():
        return {}
    return {
        key: value
        for key, value in read_json(path).items()
        if key in ("eos_token_id", "bos_token_id") and value is not None
    }


def _open_tokenizer(folder: Path) -> Tokenizer:
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
    return Tokenizer.from_file(path)


def load_transformers(folder: Path, dtype: torch.dtype) -> nn.Module:
    """Open a causal language model from a Transformers folder.

    Imports only Llama's class where the layout is Llama's, which is quicker.
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
    """A GGUF file, dequantised by Transformers.

    Slow to open and four times the memory, so the last resort for such files.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    header = gguf.read(weights.path)
    source = {
        "pretrained_model_name_or_path": str(weights.path.parent),
        "gguf_file": weights.path.name,
    }
    module: Any = AutoModelForCausalLM.from_pretrained(**source, dtype=dtype)
    tokenizer = AutoTokenizer.from_pretrained(**source).backend_tokenizer
    if header.metadata.get("tokenizer.ggml.model") == "gpt2":
        # Transformers cuts words by GPT-2's rule, whatever the file says.
        rule = header.metadata.get("tokenizer.ggml.pre", "default")
        tokenizer.pre_tokenizer = pre_tokenizer_of(rule, weights.path)
    settings = {
        "eos_token_id": header.metadata.get("tokenizer.ggml.eos_token_id"),
        "bos_token_id": header.metadata.get("tokenizer.ggml.bos_token_id"),
        "max_position_embeddings": header.of_model("context_length"),
    }
    return _checkpoint(
        weights.name,
        _decoder(module.eval().to(device)),
        Tokenizer(tokenizer),
        settings,
        chat.from_gguf(header.metadata),
    )
