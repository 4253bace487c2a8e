"""A pretrained base: where it lies, what it is, and its identity, which an adapter remembers.

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
from typing import TYPE_CHECKING, Any

from miaobi.core import bundle, gguf
from miaobi.core.engine import Weights
from miaobi.core.errors import Unsupported
from miaobi.core.files import home, write_beside
from miaobi.core.language import say
from miaobi.data import packs
from miaobi.data.text.tokenizer.gguf import pre_tokenizer_of
from miaobi.models import chat
from miaobi.models.weights import find, read_json, refuse_foreign_code

if TYPE_CHECKING:
    from torch import nn


USE = "use-multilingual"
"""The packaged sentence encoder, and the model_type of what was made from it: a
Transformers model that is written in models/use.
"""


FORMAT = 2
"""Of what a GGUF is unpacked to; 2: with the file's own rule of cutting words. What
older ones unpacked is not read.
"""


@dataclass(frozen=True)
class Base:
    weights: Weights
    folder: Path
    """A Transformers, Diffusers or bundle folder; for a packaged part
    (efficientnet-lite0), its file; then weights.format is "part".
    """

    @property
    def name(self) -> str:
        return self.weights.label

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.json; empty for what has none."""
        return (
            read_json(self.folder / "config.json")
            if (self.folder / "config.json").exists()
            else {}
        )

    @cached_property
    def identity(self) -> str:
        """SHA-256 over the weights: an adapter belongs to these and no others."""
        digest = hashlib.sha256()
        for file in (
            sorted(self.folder.rglob("*.safetensors"))
            if self.folder.is_dir()
            else [self.folder]
        ):
            digest.update(_digest(file, file.stat().st_size, file.stat().st_mtime_ns))
        return digest.hexdigest()

    @cached_property
    def tokenizer(self) -> Any:
        """The base's own, in Transformers' fast form. Raises Unsupported where it has none."""
        from transformers import AutoTokenizer

        self._made_known()
        try:
            return AutoTokenizer.from_pretrained(
                self.folder, local_files_only=True, use_fast=True
            )
        except (OSError, ValueError) as error:
            raise Unsupported(
                say(
                    f"{self.name} has no tokenizer that Transformers can read: {str(error).splitlines()[0]}",
                    f"{self.name} 没有 Transformers 可读取的分词器：{str(error).splitlines()[0]}",
                ),
                say(
                    "Choose a base of this task's kind.", "请选用适合该任务的基础模型。"
                ),
            ) from None

    @cached_property
    def template(self) -> chat.ChatTemplate | None:
        return chat.from_folder(self.folder)

    def _made_known(self) -> None:
        if self.config.get("model_type") == USE:
            import_module(
                "miaobi.models.use.questions"
            )  # registers all its classes with Transformers

    def model(self, auto: Any, **settings: Any) -> nn.Module:
        """The weights in one of Transformers' Auto classes, float32, safetensors only.
        `settings` override config.json.
        """
        refuse_foreign_code(self.config, self.name)
        self._made_known()
        from transformers.utils import logging

        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        logging.set_verbosity_error()  # its report of a head that is new is what the preview and the report say already
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
    """SHA-256 of a file; asked for again only when it was written to since, as its size
    or time tells.
    """
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").digest()


def open_base(name: str) -> Base:
    """The base that `name` means: a pack, a model in the store, a path, a hub id.
    Raises NotFound with the nearest names.
    """
    known = packs.catalogue().get(name)
    if known is not None and known.format == "base":
        from miaobi.models import use  # the only one so far

        return Base(
            Weights("transformers", str(packs.path(name)), name, modality="labels"),
            use.unpacked(),
        )
    if known is not None and known.format == "part":
        return Base(
            Weights("part", str(packs.path(name)), name, modality="labels"),
            packs.path(name),
        )
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
    """A GGUF as a Transformers folder in float32; told by size and time, since hashing
    gigabytes takes long.
    """
    facts = weights.path.stat()
    digest = hashlib.sha256(
        f"transformers {FORMAT} {weights.path.resolve()} {facts.st_size} {facts.st_mtime_ns}".encode()
    ).hexdigest()[:24]
    target = home() / "converted" / digest / "transformers"
    if target.exists():
        return target
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    print(
        say(
            f"Unpacking {weights.name} for training, once ...",
            f"正在为训练解包 {weights.name}（仅此一次）...",
        ),
        file=sys.stderr,
    )
    where = {
        "pretrained_model_name_or_path": str(weights.path.parent),
        "gguf_file": weights.path.name,
    }
    model: Any = AutoModelForCausalLM.from_pretrained(**where, dtype="float32")
    model.hf_quantizer, model.is_quantized = (
        None,
        False,
    )  # the weights are plain numbers by now
    del model.config.quantization_config
    with write_beside(target) as draft:
        model.save_pretrained(draft)
        words: Any = AutoTokenizer.from_pretrained(**where)
        metadata = gguf.read(weights.path).metadata
        if (
            metadata.get("tokenizer.ggml.model") == "gpt2"
        ):  # Transformers cuts words by GPT-2's rule, whatever the file says
            words.backend_tokenizer.pre_tokenizer = pre_tokenizer_of(
                metadata.get("tokenizer.ggml.pre", "default"), weights.path
            )
        words.save_pretrained(draft)
    bundle.check_safetensors(target / "model.safetensors")
    return target
