"""A base whose tokenizer cannot be read says why, in whole."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.tune.bases import base

from miaobi.core.errors import Unsupported


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, r"Couldn't instantiate .* \(3\) .* fast one\.$"),
        ('{"model":', r"JSONDecodeError: Expecting value: line 1 column 10"),
        ('{"model": {"type": "Nope"}}', r"KeyError: 'added_tokens'"),
        ('{"added_tokens": [], "model": {"type": "Nope"}}', r"Exception: .*variant"),
    ],
)
def test_an_unreadable_tokenizer_is_explained_in_whole(
    content: str | None, reason: str, tmp_path: Path
) -> None:
    """The first reason has several lines."""
    origin = base(tmp_path / "base")
    path = origin.folder / "tokenizer.json"
    if content is None:
        path.unlink()
        (origin.folder / "tokenizer_config.json").unlink()
    else:
        path.write_text(content)
    with pytest.raises(Unsupported) as caught:
        _ = origin.tokenizer
    line = str(caught.value).splitlines()[0]
    assert str(origin.folder) in line
    assert re.search(reason, line), line
