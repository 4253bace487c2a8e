"""The units in which usage is counted.

A unit has one name everywhere: in the database, in /v1/usage and in the log, and with
miaobi_ before it in /metrics. A route counts in whatever units its answers have
(`slot.add("audio_seconds", 2.5)`); a new one needs no line here.
"""

from __future__ import annotations

from collections.abc import Mapping

REPORTED = {
    "prompt_tokens": "Tokens that were read.",
    "completion_tokens": "Tokens that were written.",
    "pictures": "Pictures that were made.",
}
"""Reported where nothing used them too, as 0. Each with its description in /metrics."""
TOKENS = ("prompt_tokens", "completion_tokens")
"""Those that a key's tokens of a day are spent on."""
STREAMED = "completion_tokens"
"""Comes piece by piece: the time to its first piece and its rate are measured."""
REQUESTS = "requests"
"""One for each request that used anything."""


def report(amounts: Mapping[str, float]) -> dict[str, float]:
    """Return amounts by unit, with those of REPORTED in front, 0 where they are absent."""
    return {**dict.fromkeys(REPORTED, 0), **amounts}
