"""Bundles as GGUF for the engines that read only that: made on first use, kept under $MIAOBI_HOME/converted."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from miaobi.core.engine import Weights
from miaobi.core.files import home
from miaobi.engines.weights import read_json

LAYOUTS = ("LlamaForCausalLM", "Qwen3ForCausalLM")


def fits(weights: Weights) -> bool:
    """Whether the bundle's model has a GGUF layout."""
    return any(kind in LAYOUTS for kind in read_json(weights.path / "config.json").get("architectures") or ())


def gguf_of(weights: Weights, dtype: Literal["f16", "q8_0"] = "f16") -> Path:
    """The GGUF of a bundle; the name follows the bytes it was made from, so an altered bundle is converted anew."""
    from miaobi.engines.convert import to_gguf

    digest = hashlib.sha256(dtype.encode())
    for file in sorted(weights.path.iterdir()):
        if file.suffix in (".safetensors", ".json", ".jinja"):
            digest.update(file.name.encode())
            with file.open("rb") as handle:
                digest.update(hashlib.file_digest(handle, "sha256").digest())
    target = home() / "converted" / digest.hexdigest()[:24] / f"{weights.name.replace('/', '_')}.gguf"
    return target if target.exists() else to_gguf(weights.path, target, dtype)
