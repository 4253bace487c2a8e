"""A record that knows which of its keys were read, and the errors of records."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from miaobi.core.errors import nearest
from miaobi.core.language import located, say

WHOLE_NUMBER = re.compile(r"([+-]?\d+)\.0*")
NAMELESS = '""'
"""How a column without a name is named (pandas' index)."""


class Unusable(Exception):
    """A record that holds nothing to learn from: what is wrong, and the remedy."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy

    def at(self, location: str) -> str:
        """Return what is wrong, after where it is."""
        return located(location, self.what)


def unseen(label: str, labels: Iterable[str]) -> Unusable:
    """Return the error of an example whose label training has none of."""
    return Unusable(
        say(
            f"label {label!r} does not occur in the training data.",
            f"标签 {label!r} 未在训练数据中出现。",
        ),
        nearest(label, labels),
    )


class Record(Mapping[str, Any]):
    """A record, or a mapping inside one, that knows which of its keys were read.

    Reading a value uses its key; asking whether it is there does not. A value that
    holds nothing (null, as Parquet fills it in, or an empty text or list) is never
    unused.
    """

    def __init__(self, values: Mapping[str, Any], path: str = "") -> None:
        """Wrap `values`; `path` stands before the names of its keys ("messages[].")."""
        self._values = values
        self._path = path
        self._used = set[str]()
        self._inner = list[Record]()

    @classmethod
    def of(cls, value: Any) -> Record:
        """Return the value as a record. Raises Unusable for what is no object."""
        if isinstance(value, Record):
            return value
        if isinstance(value, Mapping):
            return cls(value)
        raise Unusable(
            say(
                f"a record is {value!r:.40}, not an object.",
                f"记录为 {value!r:.40}，不是对象。",
            ),
            say("Write one JSON object per record.", "每条记录请写成一个 JSON 对象。"),
        )

    def __getitem__(self, key: str) -> Any:
        value = self._values[key]
        self._used.add(key)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __repr__(self) -> str:
        return repr(self._values)

    def peek(self, key: str) -> Any:
        """Return the value without using its key; None where there is none."""
        return self._values.get(key)

    def holds(self, key: str) -> bool:
        """Return whether there is something under the key; it is not used by that."""
        return not is_nothing(self._values.get(key))

    def first(self, keys: Iterable[str]) -> str:
        """Return the first of the keys that holds something; "" if none does."""
        return next((key for key in keys if self.holds(key)), "")

    def unused(self) -> set[str]:
        """Return the names of keys that hold something and were not read."""
        names = {
            f"{self._path}{key}" or NAMELESS
            for key in self._values
            if key not in self._used and self.holds(key)
        }
        return names.union(*(inner.unused() for inner in self._inner))

    def unread(self) -> set[str]:
        """Return the keys that were not read, whatever they hold."""
        return set(self._values) - self._used

    def leave_over(self, part: str) -> None:
        """Name a part of a value that was read ("output[1:]") as unused."""
        self._inner.append(Record({part: True}, self._path))

    def inside(self, key: str) -> Record:
        """Return the mapping under a key. Raises Unusable for anything else."""
        return self._wrapped(decoded(self[key], key), f"{self._path}{key}.")

    def items_of(self, key: str) -> list[Any]:
        """Return the list under a key, its mappings as records.

        A table holds the list as JSON, or as Python writes it (pandas). Raises Unusable
        for anything else.
        """
        value = decoded(self[key], key)
        if not isinstance(value, list | tuple):
            raise Unusable(
                say(
                    f"{key} is {value!r:.40}, not a list.",
                    f"{key} 的值为 {value!r:.40}，不是列表。",
                ),
                f'"{key}": [...]',
            )
        path = f"{self._path}{key}[]."
        return [
            self._wrapped(item, path) if isinstance(item, Mapping) else item
            for item in value
        ]

    def _wrapped(self, value: Any, path: str) -> Record:
        if isinstance(value, Record):
            return value
        if not isinstance(value, Mapping):
            return Record.of(value)
        inner = Record(value, path)
        self._inner.append(inner)
        return inner


def is_nothing(value: Any) -> bool:
    """Return whether a value holds nothing: null, an empty text, list or object."""
    return value is None or (
        isinstance(value, str | list | tuple | Mapping) and not value
    )


def decoded(value: Any, key: str) -> Any:
    """Return a value, or what a text of JSON (or of Python, as pandas writes) stands for.

    Raises Unusable for a text that is neither.
    """
    if not isinstance(value, str):
        return value
    for decode in (json.loads, ast.literal_eval):
        try:
            return decode(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    raise Unusable(
        say(
            f"{key} is {value!r:.40}, which is no JSON.",
            f"{key} 的值为 {value!r:.40}，不是 JSON。",
        ),
        f'"{key}": [...]',
    )


def is_encoded_list(value: Any) -> bool:
    """Return whether a text stands for a list of objects, as a table holds one."""
    return isinstance(value, str) and value.lstrip().startswith("[{")


def written_text(value: Any, key: str) -> str:
    """Return a text, or a number as it is written. Raises Unusable for a list, an object
    or a truth value, which are no text, and for half a character.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return text_of(value, key)


def label_text(value: Any) -> str:
    """Return a label's name: without the white space around it, and one name for a
    whole number however it is written (1, 1.0, and both as text in a table).
    """
    text = str(value).strip()
    number = WHOLE_NUMBER.fullmatch(text)
    return number[1] if number else text


def text_of(value: Any, key: str) -> str:
    """Return a value that is a text. Raises Unusable for any other, and for half a
    character.
    """
    if not isinstance(value, str):
        raise Unusable(
            say(
                f"{key} is {value!r:.40}, not text.",
                f"{key} 的值为 {value!r:.40}，不是文本。",
            ),
            say(
                "Put a text there, or leave the record out.",
                "请填入文本，或去掉这条记录。",
            ),
        )
    if not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
        raise Unusable(
            say(
                f"{key} holds half a character (a lone surrogate).",
                f"{key} 中有半个字符（孤立的代理项）。",
            ),
            say(
                "The text was cut inside an emoji or rare character; write it again.",
                "文本在表情或生僻字中间被截断，请重新生成。",
            ),
        )
    return value
