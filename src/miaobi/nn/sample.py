"""What a model is tried on while it learns: the section `sample` of a recipe. Imports no
PyTorch, so that a server can check a request, and the help is shown at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field


@dataclass(frozen=True)
class TextSample:
    """Of families that write."""

    prompts: list[str] | None = None
    """Beginnings to continue; none means from nothing."""
    max_new_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 64
    """Length of each."""


@dataclass(frozen=True)
class PictureSample:
    """Of families that paint."""

    pictures: Annotated[int, Field(ge=0, le=10_000)] = 48
    """How many pictures to generate."""
