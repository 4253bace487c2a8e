"""What is written is whole or not there at all, and the error gives the reason."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from miaobi.core.errors import BadInput, DoesNotFit, MiaobiError
from miaobi.core.files import write_text


@pytest.mark.parametrize(
    ("number", "error", "reason"),
    [
        (errno.ENOSPC, DoesNotFit, "disk is full"),
        (errno.EACCES, BadInput, "cannot be written"),
        (errno.EPERM, BadInput, "cannot be written"),
    ],
)
def test_a_refusal_names_the_file_and_leaves_nothing(
    number: int,
    error: type[MiaobiError],
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = tmp_path / "poem.txt"
    target.write_text("before", encoding="utf-8")

    def refuse(source: Path, to: Path) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(error, match=f"poem.txt.*{reason}|{reason}.*poem.txt"):
        write_text(target, "after")
    assert list(tmp_path.iterdir()) == [target]
    assert target.read_text(encoding="utf-8") == "before"
