"""A byte-level BPE `tokenizer.json` as GGUF wants it: tokens, types, merges, and the
name of the rule that cuts words.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from miaobi.core.errors import Damaged, NotFound, Unsupported
from miaobi.core.language import say
from miaobi.data.text.tokenizer import BYTES, QWEN2
from miaobi.data.text.tokenizer.gguf import LLAMA3

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5


@dataclass(frozen=True)
class Vocabulary:
    tokens: list[str]
    types: list[int]
    merges: list[str]
    pre: str
    bos: int | None
    eos: int | None
    pad: int | None
    unk: int | None
    add_bos: bool
    chat_template: str


def read_vocabulary(folder: Path, size: int) -> Vocabulary:
    """The tokenizer of `folder`, padded with unused tokens to the model's `size`.

    Raises Unsupported for a tokenizer that GGUF engines would cut differently.
    """
    path = folder / "tokenizer.json"
    if not path.exists():
        raise NotFound(
            say(
                f"{folder} has no tokenizer.json.", f"{folder} 中没有 tokenizer.json。"
            ),
            say("Copy the whole folder again.", "请重新复制整个文件夹。"),
        )
    spec = json.loads(path.read_text(encoding="utf-8"))
    settings = _json(folder / "tokenizer_config.json")
    model = spec["model"]
    if (
        model.get("type") != "BPE"
        or (spec.get("decoder") or {}).get("type") != "ByteLevel"
    ):
        raise _refuse(path, "model", model.get("type"))
    merges = [
        item if isinstance(item, str) else " ".join(item) for item in model["merges"]
    ]
    tokens = {index: (token, NORMAL) for token, index in model["vocab"].items()}
    for item in spec.get("added_tokens", []):
        tokens[item["id"]] = (
            item["content"],
            CONTROL if item["special"] else USER_DEFINED,
        )
    if max(tokens) >= size:
        raise Damaged(
            say(
                f"{path} has token number {max(tokens)}, beyond the model's {size}.",
                f"{path} 含有编号 {max(tokens)} 的词元，超出模型的 {size} 个。",
            ),
            say(
                "Put back the tokenizer that the model was trained with.",
                "请放回训练时所用的分词器。",
            ),
        )
    rows = [tokens.get(index, (f"[PAD{index}]", UNUSED)) for index in range(size)]
    ids = {token: index for index, (token, _) in enumerate(rows)}

    def special(name: str) -> int | None:
        value = settings.get(f"{name}_token")
        return (
            ids.get(value["content"] if isinstance(value, dict) else value)
            if value
            else None
        )

    template = folder / "chat_template.jinja"
    return Vocabulary(
        tokens=[token for token, _ in rows],
        types=[kind for _, kind in rows],
        merges=merges,
        pre=_word_rule(path, spec, merges),
        bos=special("bos"),
        eos=special("eos"),
        pad=special("pad"),
        unk=special("unk"),
        add_bos=bool(settings.get("add_bos_token", False)),
        chat_template=template.read_text(encoding="utf-8")
        if template.exists()
        else settings.get("chat_template") or "",
    )


def _word_rule(path: Path, spec: dict[str, Any], merges: list[str]) -> str:
    """The name under which both engines know how this tokenizer cuts text into words."""
    if (spec.get("normalizer") or {"type": "NFC"})["type"] != "NFC":
        raise _refuse(path, "normalizer", spec["normalizer"]["type"])
    if all(_within_a_character(merge) for merge in merges):
        return "qwen2"
    steps = spec.get("pre_tokenizer") or {}
    steps = steps.get("pretokenizers", [steps])
    patterns = {
        str((step.get("pattern") or {}).get("Regex"))
        for step in steps
        if step["type"] == "Split"
    }
    gpt2_rule = any(
        step["type"] == "ByteLevel" and step.get("use_regex", True) for step in steps
    )
    if any(step.get("add_prefix_space") for step in steps):
        raise _refuse(path, "add_prefix_space", True)
    if patterns == {QWEN2} and not gpt2_rule and not spec["model"].get("ignore_merges"):
        return "qwen2"
    if patterns == {LLAMA3} and not gpt2_rule and spec["model"].get("ignore_merges"):
        return "llama-bpe"
    if (
        not patterns
        and gpt2_rule
        and any(
            step["type"] == "Digits" and step.get("individual_digits") for step in steps
        )
    ):
        return "smollm"
    raise _refuse(
        path, "pre_tokenizer", patterns or [step.get("type") for step in steps]
    )


def _within_a_character(merge: str) -> bool:
    """Whether a merge only joins bytes of one character: then no word rule can change
    what comes out.
    """
    data = bytes(
        BYTES[letter] for letter in merge.replace(" ", "", 1) if letter in BYTES
    )
    lead = data[:1]
    return (
        len(data) <= 4
        and lead >= b"\xc2"
        and all(0x80 <= byte < 0xC0 for byte in data[1:])
    )


def _json(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = (
        json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    )
    return loaded


def _refuse(path: Path, key: str, value: object) -> Unsupported:
    return Unsupported(
        say(
            f"{path}: {key} is {value!r}; llama.cpp and OpenVINO would not cut text the same way.",
            f"{path}：{key} 为 {value!r}；llama.cpp 与 OpenVINO 的分词结果会与之不同。",
        ),
        say(
            "Train with a tokenizer made here (character or bpe), or export with --to transformers.",
            "请使用本工具的分词器（character 或 bpe）训练，或用 --to transformers 导出。",
        ),
    )
