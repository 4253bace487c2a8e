"""A pretrained base: its folder, its configuration, and its identity, which an adapter
refers to.

A GGUF is turned into a Transformers folder once (dequantised, under
$MIAOBI_HOME/converted), so that the rest knows one layout.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from miaobi.core import bundle, gguf
from miaobi.core.engine import Weights
from miaobi.core.errors import Unsupported
from miaobi.core.files import home, write_beside
from miaobi.core.language import say
from miaobi.data import packs
from miaobi.data.text.tokenizer.gguf import pre_tokenizer_of
from miaobi.models import chat, encoders
from miaobi.models.weights import find, read_json, refuse_foreign_code

if TYPE_CHECKING:
    from torch import nn


USE = "use-multilingual"
"""The packaged sentence encoder, and the model_type of what was tuned from it: a
Transformers model that is written in models/use.
"""
WRITTEN_HERE = {
    USE: "miaobi.models.use.questions",
    "miaobi-recurrent": "miaobi.models.recurrent",
}
"""By model_type: the modules of Transformers models that are written here."""
FORMAT = 2
"""Of the folder that a GGUF is unpacked to. 2: with the file's own pre-tokenizer; folders
of older formats are not read.
"""


class Growth(NamedTuple):
    """The tokens that were added to a base (models/added_tokens.py)."""

    original: Path
    """The folder of the base, without them."""
    tokens: tuple[str, ...]
    special: tuple[str, ...]


@dataclass(frozen=True)
class Base:
    """A pretrained model to be tuned."""

    weights: Weights
    folder: Path
    """A Transformers, Diffusers or bundle folder; the file of a packaged part
    (efficientnet-lite0), whose weights.format is "part".
    """
    growth: Growth | None = None
    """What was added to the base, if the folder is a copy with further tokens."""

    @property
    def name(self) -> str:
        return self.weights.label

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.json; empty where there is none."""
        path = self.folder / "config.json"
        return read_json(path) if path.exists() else {}

    @cached_property
    def identity(self) -> str:
        """SHA-256 over the weights: an adapter belongs to these and no others.

        With added tokens it is that of the base without them.
        """
        folder = self.growth.original if self.growth else self.folder
        files = [folder]
        if folder.is_dir():
            files = sorted(folder.rglob("*.safetensors"))
        digest = hashlib.sha256()
        for file in files:
            facts = file.stat()
            digest.update(_digest(file, facts.st_size, facts.st_mtime_ns))
        return digest.hexdigest()

    @cached_property
    def tokenizer(self) -> Any:
        """Its own, in Transformers' fast form. Raises Unsupported where it has none."""
        from transformers import AutoTokenizer

        self.register()
        try:
            return AutoTokenizer.from_pretrained(
                self.folder, local_files_only=True, use_fast=True
            )
        except Exception as error:  # of any class: `tokenizers` raises Exception itself
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise Unsupported(
                say(
                    f"{self.name} has no tokenizer that Transformers can read in {self.folder}: {reason}",
                    f"{self.name} 在 {self.folder} 中没有 Transformers 可读取的分词器：{reason}",
                ),
                say(
                    "Choose a base of this task's kind.", "请选用适合该任务的基础模型。"
                ),
            ) from None

    @cached_property
    def added_ids(self) -> list[int]:
        """The numbers of the tokens that were added to it."""
        if self.growth is None:
            return []
        vocabulary = self.tokenizer.get_vocab()
        return [
            vocabulary[token] for token in (*self.growth.tokens, *self.growth.special)
        ]

    @cached_property
    def template(self) -> chat.ChatTemplate | None:
        """Its chat template, if it has one."""
        return chat.from_folder(self.folder)

    def register(self) -> None:
        """Make a model that is written here known to Transformers."""
        module = WRITTEN_HERE.get(str(self.config.get("model_type")))
        if module is not None:
            # The module registers its own classes and those that it imports.
            import_module(module)

    def model(self, auto: Any, **settings: Any) -> nn.Module:
        """Return the weights in float32, of safetensors only.

        Args:
            auto: one of Transformers' Auto classes.
            settings: override config.json.
        """
        refuse_foreign_code(self.config, self.name)
        self.register()
        from transformers.utils import logging

        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        # Its report of a new head repeats what the preview and the report say.
        logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        loaded: nn.Module = auto.from_pretrained(
            self.folder,
            dtype="float32",
            use_safetensors=True,
            local_files_only=True,
            **settings,
        )
        return loaded


@lru_cache(maxsize=64)
def _digest(file: Path, size: int, changed: int) -> bytes:
    """Return the SHA-256 of a file, read again only when its size or time changed."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").digest()


def open_base(name: str) -> Base:
    """Return the base called `name`: a pack, a model in the store, a path, a hub id.

    Raises NotFound with the nearest names, Unsupported for what cannot be tuned.
    """
    encoder = encoders.parse(name)
    if encoder is not None:
        folder = encoders.folder(encoder)
        weights = Weights("transformers", str(folder), name, modality="labels")
        return Base(weights, folder)
    pack = packs.catalogue().get(name)
    if pack is not None and pack.format == "part":
        path = packs.path(name)
        return Base(Weights("part", str(path), name, modality="labels"), path)
    weights = find(name)
    if weights.format == "gguf":
        return Base(weights, _dequantised(weights))
    if weights.format in ("bundle", "transformers", "diffusers"):
        return Base(weights, weights.path)
    raise Unsupported(
        say(
            f"{name} is {weights.format}, which cannot be tuned.",
            f"{name} 的格式为 {weights.format}，无法微调。",
        ),
        say(
            "Give a Transformers or Diffusers folder, a GGUF file, or a model trained here.",
            "请给出 Transformers 或 Diffusers 文件夹、GGUF 文件，或在此训练的模型。",
        ),
    )


def _dequantised(weights: Weights) -> Path:
    """Return a GGUF as a Transformers folder in float32, unpacked on first use.

    The file is identified by size and time, since hashing gigabytes takes long.
    """
    path = weights.path
    facts = path.stat()
    identity = (
        f"transformers {FORMAT} {path.resolve()} {facts.st_size} {facts.st_mtime_ns}"
    )
    digest = hashlib.sha256(identity.encode()).hexdigest()[:24]
    target = home() / "converted" / digest / "transformers"
    if not target.exists():
        print(
            say(
                f"Unpacking {weights.name} for training, once ...",
                f"正在为训练解包 {weights.name}（仅此一次）...",
            ),
            file=sys.stderr,
        )
        _dequantise(path, target)
        bundle.check_safetensors(target / "model.safetensors")
    return target


def _dequantise(path: Path, target: Path) -> None:
    """Write the Transformers folder of a GGUF file."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    where = {
        "pretrained_model_name_or_path": str(path.parent),
        "gguf_file": path.name,
    }
    model: Any = AutoModelForCausalLM.from_pretrained(**where, dtype="float32")
    # The weights are plain numbers by now.
    model.hf_quantizer = None
    model.is_quantized = False
    del model.config.quantization_config
    with write_beside(target) as draft:
        model.save_pretrained(draft)
        tokenizer: Any = AutoTokenizer.from_pretrained(**where)
        metadata = gguf.read(path).metadata
        # Transformers takes GPT-2's pre-tokenizer, whatever the file says.
        if metadata.get("tokenizer.ggml.model") == "gpt2":
            name = metadata.get("tokenizer.ggml.pre", "default")
            tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizer_of(name, path)
        tokenizer.save_pretrained(draft)
