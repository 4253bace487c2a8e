"""Tiny random causal models of the real architectures, in folders with a tokenizer, for
tests of what learns to write.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedModel
from transformers import models as known

from miaobi.core.engine import Weights
from miaobi.data.text import tokenizer
from miaobi.models.base import Base

TEXT = "The quick brown fox jumps over the lazy dog. 你好，世界！ {}[]\":<>/_|\n0123456789 it's what'll we're"
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
}
KINDS: dict[str, dict[str, Any]] = {
    "llama": SIZES,
    "qwen2": SIZES,
    "qwen3": SIZES,
    "mistral": {**SIZES, "sliding_window": 6},
    "gemma2": SIZES,
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512},
    "gpt_neox": {**SIZES, "head_dim": None},
    "phi": SIZES,
    "cohere": SIZES,
}
CLASSES = {
    "llama": "Llama",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
    "mistral": "Mistral",
    "gemma2": "Gemma2",
    "gpt2": "GPT2",
    "gpt_neox": "GPTNeoX",
    "phi": "Phi",
    "cohere": "Cohere",
}
HEADS = {"gpt2": "GPT2LMHeadModel"}


def model(kind: str = "llama", vocab_size: int = 97) -> PreTrainedModel:
    torch.manual_seed(0)
    package, name = getattr(known, kind), CLASSES[kind]
    settings = {key: value for key, value in KINDS[kind].items() if value is not None}
    config = getattr(package, f"{name}Config")(
        vocab_size=vocab_size,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        **settings,
    )
    net: PreTrainedModel = getattr(package, HEADS.get(kind, f"{name}ForCausalLM"))(
        config
    )
    # Gains of one and biases of zero would hide mistakes.
    for parameter in net.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return net.eval()


def base(folder: Path, kind: str = "llama", template: str | None = None) -> Base:
    """A folder with model and byte-level BPE; its chat template is ChatML unless
    `template` is another, or "" for none.
    """
    bpe = tokenizer.train_bpe([TEXT], 320)
    bpe.save(folder)
    model(kind, bpe.vocab_size).save_pretrained(folder)
    path = folder / "chat_template.jinja"
    if template is not None:
        path.unlink()
    if template:
        path.write_text(template, encoding="utf-8")
    return Base(Weights("transformers", str(folder), kind), folder)


def reference(folder: Path) -> Any:
    """Transformers' own tokenizer of the folder."""
    return AutoTokenizer.from_pretrained(folder)
