"""Characters: texts as arrays, since batches hold only those, and tokenizers that keep
Chinese characters apart.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from torch import Tensor

CJK = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Ranges of Chinese characters, for a regular expression."""
MARKS = "，。！？；：、（）《》“”‘’"


def code_points(text: str) -> np.ndarray:
    """Return the Unicode code points of a text, int64 [characters]."""
    encoded = text.encode("utf-32-le", "replace")
    return np.frombuffer(encoded, dtype="<u4").astype(np.int64)


def text_of(numbers: Tensor) -> str:
    """Return the text of a row of code points that is filled up with 0."""
    return "".join(chr(number) for number in numbers.tolist() if number)


def is_cjk(character: str) -> bool:
    """Return whether it is a Chinese character or punctuation mark."""
    return (
        "\u3400" <= character <= "\u9fff"
        or "\uf900" <= character <= "\ufaff"
        or "\U00020000" <= character <= "\U0003ffff"
        or character in MARKS
    )


def split_chinese(tokenizer: Any) -> Any:
    """Return the tokenizer with Chinese characters as tokens of their own.

    Each is one token or several, never part of a longer one. The tokenizer is saved
    with that rule.
    """
    from tokenizers import Regex, pre_tokenizers
    from tokenizers import Tokenizer as Backend

    pattern = f"[{CJK}]"
    backend = Backend.from_str(tokenizer.backend_tokenizer.to_str())
    rules = _pre_tokenizers(backend)
    if any(rule.get("pattern") == {"Regex": pattern} for rule in rules):
        return tokenizer  # it comes from a model that was tuned like this
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    own = backend.pre_tokenizer
    if own is None:
        order = [split]
    elif any(rule.get("type") == "Metaspace" for rule in rules):
        # Metaspace puts a blank before each piece it is given.
        order = [own, split]
    else:
        # Byte-level rules leave no characters behind.
        order = [split, own]
    backend.pre_tokenizer = pre_tokenizers.Sequence(order)
    return type(tokenizer)(tokenizer_object=backend, **_settings(tokenizer))


def _pre_tokenizers(backend: Any) -> list[dict[str, Any]]:
    """Return the tokenizer's own rules, as its JSON has them."""
    rule = json.loads(backend.to_str())["pre_tokenizer"] or {}
    rules: list[dict[str, Any]] = rule.get("pretokenizers", [rule])
    return rules


def _settings(tokenizer: Any) -> dict[str, Any]:
    """Return the special tokens and limits, which the backend does not hold."""
    settings: dict[str, Any] = {
        name: str(value)
        for name, value in tokenizer.special_tokens_map.items()
        if isinstance(value, str)
    }
    settings["model_max_length"] = tokenizer.model_max_length
    settings["padding_side"] = tokenizer.padding_side
    return settings
