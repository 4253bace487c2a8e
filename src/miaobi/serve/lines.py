"""JSONL that came from outside: read line by line, with a cap on each, and an error
that names the line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from miaobi.core.language import in_each, say
from miaobi.serve.errors import ApiError

LONGEST = 16 << 20
"""Bytes of a line."""


def objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number of the line from 1, the object on it); empty lines are passed over.
    Raises ApiError 400 that names the line.
    """
    number = 0
    with path.open("rb") as handle:
        while line := handle.readline(LONGEST + 1):
            number += 1
            if len(line) > LONGEST:
                raise bad_line(
                    number,
                    say(
                        f"it has more than {LONGEST:,} bytes.",
                        f"超过 {LONGEST:,} 字节。",
                    ),
                )
            if line.strip():
                yield number, _object(line, number)


def _object(line: bytes, number: int) -> dict[str, Any]:
    try:
        value = json.loads(
            line.decode("utf-8-sig" if number == 1 else "utf-8"),
            parse_constant=_no_constant,
        )
    except UnicodeDecodeError:
        raise bad_line(number, say("it is not UTF-8.", "不是 UTF-8 文本。")) from None
    except RecursionError:
        raise bad_line(number, say("it is nested too deeply.", "嵌套过深。")) from None
    except ValueError as error:
        raise bad_line(
            number, say(f"it is not JSON: {error}.", f"不是有效的 JSON：{error}。")
        ) from None
    if not isinstance(value, dict):
        raise bad_line(
            number,
            say(
                f"it is not an object but {type(value).__name__}.",
                f"不是对象，而是 {type(value).__name__}。",
            ),
        )
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def bad_line(number: int, why: str) -> ApiError:
    return ApiError(
        400,
        in_each(
            lambda: say(
                f"Line {number}: {why} JSONL has one JSON object on each line.",
                f"第 {number} 行：{why}JSONL 每行应为一个 JSON 对象。",
            )
        ),
        code="invalid_jsonl",
        param="file",
    )


def check(path: Path) -> None:
    """Raise ApiError 400 unless every line holds an object and there is one at least."""
    if not sum(1 for _ in objects(path)):
        raise ApiError(
            400,
            say("The file has no line.", "文件没有内容。"),
            code="invalid_jsonl",
            param="file",
        )
