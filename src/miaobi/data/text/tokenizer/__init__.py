"""Tokenizers: characters, byte-level BPE trained here, or a pretrained one's. All
lossless, all one format.

Every tokenizer is a byte-level BPE in GPT-2's byte alphabet, because Transformers,
llama.cpp and OpenVINO all read that. Texts are cut into words by Qwen2's rule, which
both llama.cpp and OpenVINO GenAI know by name.
"""

from __future__ import annotations

from pathlib import Path

from miaobi.data.text.tokenizer.building import (
    characters,
    extended,
    train_bpe,
    with_specials,
)
from miaobi.data.text.tokenizer.byte_level import (
    BYTES,
    CHAT_TEMPLATE,
    QWEN2,
    SPECIALS,
    UNICODE,
    Tokenizer,
)
from miaobi.data.text.tokenizer.files import from_file
from miaobi.data.text.tokenizer.gguf import from_gguf

__all__ = [
    "BYTES",
    "CHAT_TEMPLATE",
    "QWEN2",
    "SPECIALS",
    "UNICODE",
    "Tokenizer",
    "characters",
    "extended",
    "load",
    "train_bpe",
    "with_specials",
]


def load(path: Path) -> Tokenizer:
    """Open a pretrained tokenizer: a folder with tokenizer.json (or that file), or a
    GGUF file.

    Raises NotFound, Damaged; Unsupported for kinds that are not byte-level BPE.
    """
    if path.suffix == ".gguf":
        return from_gguf(path)
    return from_file(path / "tokenizer.json" if path.is_dir() else path)
