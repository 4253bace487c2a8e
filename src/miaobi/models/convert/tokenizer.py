"""A byte-level BPE `tokenizer.json` in GGUF's terms: tokens, types, merges, and the name
of its pre-tokenizer.
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
    """A tokenizer in GGUF's terms."""

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
    """Return the tokenizer of `folder`, padded with unused tokens to the model's `size`.

    All its tokens have numbers below that (`check_tokens`).

    Raises Unsupported for a tokenizer whose text GGUF engines would split differently.
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
    decoder = spec.get("decoder") or {}
    if model.get("type") != "BPE" or decoder.get("type") != "ByteLevel":
        raise _refuse(path, "model", model.get("type"))
    merges = [
        item if isinstance(item, str) else " ".join(item) for item in model["merges"]
    ]
    tokens = {index: (token, NORMAL) for token, index in model["vocab"].items()}
    for item in spec.get("added_tokens", []):
        kind = CONTROL if item["special"] else USER_DEFINED
        tokens[item["id"]] = (item["content"], kind)
    rows = [tokens.get(index, (f"[PAD{index}]", UNUSED)) for index in range(size)]
    ids = {token: index for index, (token, _) in enumerate(rows)}

    def special(name: str) -> int | None:
        value = settings.get(f"{name}_token")
        if isinstance(value, dict) and value:
            value = value["content"]
        return ids.get(value) if value else None

    chat_template = settings.get("chat_template") or ""
    jinja = folder / "chat_template.jinja"
    if jinja.exists():
        chat_template = jinja.read_text(encoding="utf-8")
    return Vocabulary(
        tokens=[token for token, _ in rows],
        types=[kind for _, kind in rows],
        merges=merges,
        pre=_pre_tokenizer_name(path, spec, merges),
        bos=special("bos"),
        eos=special("eos"),
        pad=special("pad"),
        unk=special("unk"),
        add_bos=bool(settings.get("add_bos_token", False)),
        chat_template=chat_template,
    )


def check_tokens(path: Path, size: int) -> None:
    """Raise Damaged where a tokenizer.json has tokens that a model of `size` lacks."""
    spec = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = spec["model"].get("vocab", {})
    if isinstance(vocabulary, list):  # a Unigram's, by number
        vocabulary = {str(number): number for number in range(len(vocabulary))}
    numbers = [*vocabulary.values()]
    numbers += [item["id"] for item in spec.get("added_tokens", ())]
    largest = max(numbers, default=0)
    if largest >= size:
        raise Damaged(
            say(
                f"{path} has token number {largest}, beyond the model's {size}.",
                f"{path} 含有编号 {largest} 的词元，超出模型的 {size} 个。",
            ),
            say(
                "Put back the tokenizer that the model was trained with.",
                "请放回训练时所用的分词器。",
            ),
        )


def _pre_tokenizer_name(path: Path, spec: dict[str, Any], merges: list[str]) -> str:
    """Return the name that both engines have for this tokenizer's pre-tokenizer.

    Raises Unsupported where they have none.

    Args:
        path: of tokenizer.json, for errors.
        spec: its contents.
        merges: of its BPE.
    """
    normalizer = (spec.get("normalizer") or {"type": "NFC"})["type"]
    if normalizer != "NFC":
        raise _refuse(path, "normalizer", normalizer)
    if all(_within_a_character(merge) for merge in merges):
        return "qwen2"
    pre_tokenizer = spec.get("pre_tokenizer") or {}
    steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    patterns = {
        str((step.get("pattern") or {}).get("Regex"))
        for step in steps
        if step["type"] == "Split"
    }
    if any(step.get("add_prefix_space") for step in steps):
        raise _refuse(path, "add_prefix_space", True)
    splits_as_gpt2 = any(
        step["type"] == "ByteLevel" and step.get("use_regex", True) for step in steps
    )
    ignores_merges = spec["model"].get("ignore_merges")
    single_digits = any(
        step["type"] == "Digits" and step.get("individual_digits") for step in steps
    )
    if splits_as_gpt2 and not patterns and single_digits:
        return "smollm"
    if not splits_as_gpt2 and patterns == {QWEN2} and not ignores_merges:
        return "qwen2"
    if not splits_as_gpt2 and patterns == {LLAMA3} and ignores_merges:
        return "llama-bpe"
    types = [step.get("type") for step in steps]
    raise _refuse(path, "pre_tokenizer", patterns or types)


def _within_a_character(merge: str) -> bool:
    """Return whether a merge joins bytes of one character only.

    Then no pre-tokenizer changes the result.
    """
    letters = merge.replace(" ", "", 1)
    data = bytes(BYTES[letter] for letter in letters if letter in BYTES)
    if len(data) > 4 or data[:1] < b"\xc2":
        return False
    return all(0x80 <= byte < 0xC0 for byte in data[1:])


def _json(path: Path) -> dict[str, Any]:
    """Return the contents of a JSON file; empty where there is none."""
    if not path.exists():
        return {}
    contents: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return contents


def _refuse(path: Path, key: str, value: object) -> Unsupported:
    return Unsupported(
        say(
            f"{path}: {key} is {value!r}; llama.cpp and OpenVINO would not split text the same way.",
            f"{path}：{key} 为 {value!r}；llama.cpp 与 OpenVINO 的分词结果会与之不同。",
        ),
        say(
            "Train with a tokenizer made here (character or bpe), or export with --to transformers.",
            "请使用本工具的分词器（character 或 bpe）训练，或用 --to transformers 导出。",
        ),
    )
