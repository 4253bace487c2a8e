"""The tokenizer in a tokenizer.json, with its settings beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from miaobi.core.errors import Damaged, NotFound
from miaobi.core.language import say
from miaobi.data.text.tokenizer.byte_level import Tokenizer, with_end_of_text


def from_file(path: Path) -> Tokenizer:
    """Open a tokenizer.json. Raises NotFound, Damaged, Unsupported."""
    if not path.is_file():
        raise NotFound(
            say(f"There is no tokenizer at {path}.", f"{path} 处没有分词器。"),
            say(
                'Give "char", "bpe", a folder with tokenizer.json, or a GGUF file.',
                "请给出 char、bpe、含 tokenizer.json 的文件夹，或 GGUF 文件。",
            ),
        )
    try:
        backend = Backend.from_file(str(path))
        settings = _settings(path.parent / "tokenizer_config.json")
    except Exception as error:  # tokenizers raises bare Exception
        raise Damaged(
            say(
                f"{path} is not a whole tokenizer: {error}.",
                f"{path} 不是完整的分词器：{error}。",
            ),
            say("Copy it again.", "请重新复制。"),
        ) from None
    name = settings.get("miaobi_name", path.parent.name)
    eos_token = settings.get("eos_token")
    if isinstance(eos_token, dict):
        eos_token = str(eos_token["content"])
    return with_end_of_text(backend, name, eos_token, path)


def _settings(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return settings
