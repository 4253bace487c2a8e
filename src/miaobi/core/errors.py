"""Errors people can act on: what was wrong, with the value, and the remedy."""

import difflib
from collections.abc import Iterable

from miaobi.core.language import joined, say

LISTED = 12
"""Names that a remedy lists at most."""


class MiaobiError(Exception):
    """Base of every error that a user can cause or correct.

    `code` is the machine-readable name (also in `--json` output and HTTP answers);
    `exit_code` follows sysexits.h where one fits; `field` is the name of the setting
    that is to blame, where it is a single one.
    """

    code = "error"
    exit_code = 1

    def __init__(
        self, problem: str, remedy: str = "", *, field: str | None = None
    ) -> None:
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy
        self.field = field

    def __str__(self) -> str:
        return joined((self.problem, self.remedy))

    @property
    def sentence(self) -> str:
        """The problem and the remedy on one line, in both languages."""
        return joined((self.problem, self.remedy), " ")


class BadInput(MiaobiError, ValueError):
    """A value, key, file or line that cannot be used."""

    code, exit_code = "bad_input", 65


class ContextExceeded(BadInput):
    """A prompt that leaves no room for an answer in the model's context."""

    code = "context_length_exceeded"


class NotFound(MiaobiError, LookupError):
    """A name or path that leads nowhere."""

    code, exit_code = "not_found", 66


class Unsupported(MiaobiError):
    """A sound request that this model, engine or format cannot serve."""

    code, exit_code = "unsupported", 69


class MissingPart(MiaobiError, ImportError):
    """An optional package that this needs is not installed."""

    code, exit_code = "missing_part", 69


class DoesNotFit(MiaobiError):
    """Memory, disk or time here does not suffice."""

    code, exit_code = "does_not_fit", 70


class Conflict(MiaobiError):
    """Somebody else holds it, or it exists already."""

    code, exit_code = "conflict", 75


class EngineDied(MiaobiError, RuntimeError):
    """The process that runs a model ended while it answered."""

    code, exit_code = "engine_died", 70


class Damaged(MiaobiError):
    """A file that is cut short, altered or of a newer format."""

    code, exit_code = "damaged", 65


def nearest(name: str, candidates: Iterable[str]) -> str:
    """Return a sentence with the closest candidates, or with all of a short list."""
    names = sorted(set(candidates))
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return say(
            f"Did you mean {' or '.join(close)}?",
            f"您是不是想写 {' 或 '.join(close)}？",
        )
    if not names:
        return ""
    listed = ", ".join(names[:LISTED]) + (" …" if len(names) > LISTED else "")
    return say(f"Known: {listed}.", f"可用的有：{listed}。")
