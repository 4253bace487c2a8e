"""Texts as arrays, since batches hold only those, and Chinese characters as tokens of their own."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from torch import Tensor

CJK = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"


def code_points(text: str) -> np.ndarray:
    """Unicode code points, int64."""
    return np.frombuffer(text.encode("utf-32-le", "replace"), dtype="<u4").astype(
        np.int64
    )


def text_of(numbers: Tensor) -> str:
    """The text of a row of code points that is filled up with 0."""
    return "".join(chr(number) for number in numbers.tolist() if number)


def is_cjk(letter: str) -> bool:
    return (
        "\u3400" <= letter <= "\u9fff"
        or "\uf900" <= letter <= "\ufaff"
        or "\U00020000" <= letter <= "\U0003ffff"
        or letter in "，。！？；：、（）《》“”‘’"
    )


def split_chinese(tokenizer: Any) -> Any:
    """The tokenizer with every Chinese character a token of its own, or several, never
    part of a longer one. It is saved with that.
    """
    from tokenizers import Regex, pre_tokenizers
    from tokenizers import Tokenizer as Backend

    backend = Backend.from_str(tokenizer.backend_tokenizer.to_str())
    rule, apart = (
        backend.pre_tokenizer,
        pre_tokenizers.Split(Regex(f"[{CJK}]"), "isolated"),
    )
    parts = json.loads(backend.to_str())["pre_tokenizer"] or {}
    parts = parts.get("pretokenizers", [parts])
    if any(part.get("pattern") == {"Regex": f"[{CJK}]"} for part in parts):
        return tokenizer  # it comes from a model that was tuned so
    # Metaspace puts a blank before each piece it is given; byte-level rules leave no
    # characters behind.
    after = any(part.get("type") == "Metaspace" for part in parts)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [apart] if rule is None else [rule, apart] if after else [apart, rule]
    )
    return type(tokenizer)(tokenizer_object=backend, **_specials(tokenizer))


def _specials(tokenizer: Any) -> dict[str, Any]:
    return {
        **{
            name: str(value)
            for name, value in tokenizer.special_tokens_map.items()
            if isinstance(value, str)
        },
        "model_max_length": tokenizer.model_max_length,
        "padding_side": tokenizer.padding_side,
    }
