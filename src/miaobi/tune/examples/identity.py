"""Which examples are the same, ask the same, or look the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from miaobi.data.image import near_duplicates
from miaobi.tune.learner import Example

LEAKS_LISTED = 3


def canonical_json(columns: Mapping[str, Any]) -> str:
    """Return columns as text; what JSON has no form for by its str()."""
    return json.dumps(columns, ensure_ascii=False, sort_keys=True, default=str)


def content(columns: Mapping[str, Any]) -> str:
    """Return what two examples that are the same have in common.

    Pictures are known by what they show (`digest`), not by their file.
    """
    if "digest" not in columns:
        return canonical_json(columns)
    return canonical_json(
        {key: value for key, value in columns.items() if key != "image"}
    )


def question_digest(parts: Mapping[str, Any]) -> int:
    """Return eight bytes that distinguish questions.

    Letters' case and spaces do not matter, nor where a picture lies that has a digest.
    """
    text = " ".join(content(parts).casefold().split())
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def shared_questions(
    held_out: Iterable[tuple[int, str]], trained: Iterable[tuple[int, str]]
) -> list[tuple[str, str]]:
    """Return (location in the held-out data, location in the training data) of questions
    that are in both.

    Args:
        held_out: pairs of `question_digest` and location.
        trained: pairs of `question_digest` and location.
    """
    locations = dict(trained)
    return [
        (location, locations[question])
        for question, location in held_out
        if question in locations
    ]


def describe_leaks(leaks: Sequence[tuple[str, str]]) -> str:
    """Return the first few, for an error."""
    return "; ".join(f"{test} = {train}" for test, train in leaks[:LEAKS_LISTED])


def near_duplicate_groups(examples: Sequence[Example]) -> np.ndarray:
    """Return the number of each picture's group of near-duplicates, int64 [examples]."""
    from miaobi.data.image.files import open_picture, quiet

    hashes = list[np.uint64]()
    thumbs = list[np.ndarray]()
    with quiet():
        for example in examples:
            path = Path(example.columns["image"])
            picture = open_picture(path, near_duplicates.SIDE).pixels.convert("L")
            number, thumb = near_duplicates.signature(np.asarray(picture)[None])
            hashes.append(number)
            thumbs.append(thumb)
    return near_duplicates.groups(np.array(hashes)[:, None], np.stack(thumbs)[:, None])
