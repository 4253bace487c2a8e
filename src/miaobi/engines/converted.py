"""Files that an engine reads better than the ones at hand: made on first use, kept under $MIAOBI_HOME/converted."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Literal

from miaobi.core.engine import Weights
from miaobi.core.files import home
from miaobi.core.language import say
from miaobi.engines.weights import read_json

LAYOUTS = ("LlamaForCausalLM", "Qwen3ForCausalLM")


def fits(weights: Weights) -> bool:
    """Whether the bundle's model has a GGUF layout."""
    return weights.modality == "text" and any(kind in LAYOUTS for kind in read_json(weights.path / "config.json").get("architectures") or ())


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


def as_q8(path: Path) -> Path:
    """The same weights as q8_0; told from other files of the name by size and time, since hashing gigabytes takes long."""
    from miaobi.engines.requantise import to_q8

    facts = path.stat()
    digest = hashlib.sha256(f"{path.resolve()} {facts.st_size} {facts.st_mtime_ns}".encode()).hexdigest()[:24]
    target = home() / "converted" / digest / f"{path.stem}.q8_0.gguf"
    if not target.exists():
        print(say(f"Storing {path.name} as q8_0 for OpenVINO, once ...", f"正在为 OpenVINO 将 {path.name} 存为 q8_0（仅此一次）..."), file=sys.stderr)
        to_q8(path, target)
    return target
