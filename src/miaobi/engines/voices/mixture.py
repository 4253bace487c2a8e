"""Who reads: one voice, or several mixed by weight.

"af_heart", "af_heart:0.7+zf_xiaoxiao:0.3", and "af_heart(2)+af_sky(1)" as
Kokoro-FastAPI writes it. Weights are shares of their sum; a voice without one has 1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from miaobi.core.errors import BadInput, nearest
from miaobi.core.language import say

VOICE = re.compile(r"\s*(?P<name>[^:()+\s]+)\s*(?:[:(]\s*(?P<weight>[^)]*?)\s*\)?)?\s*")
SHORTENED = re.compile(r"^[a-z]{2}_")
"""What a voice's name begins with, its language and its sex."""


def mixture(voice: str, names: Sequence[str]) -> Mapping[str, float]:
    """Return the share of each voice, adding up to 1.

    A name may lack its first part (`heart` for `af_heart`) where only one voice has it.
    Raises BadInput for an unknown voice, with the nearest names, and for a weight that
    is none.
    """
    weights = dict[str, float]()
    for part in voice.split("+"):
        match = VOICE.fullmatch(part)
        if match is None:
            raise _unknown(part.strip() or voice, names)
        name = _full_name(match["name"], names)
        weights[name] = weights.get(name, 0) + _weight(match["weight"], voice)
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def _full_name(name: str, names: Sequence[str]) -> str:
    if name in names:
        return name
    short = [full for full in names if SHORTENED.sub("", full) == name.lower()]
    if len(short) == 1:
        return short[0]
    raise _unknown(name, short or names)


def _weight(text: str | None, voice: str) -> float:
    if text is None:
        return 1.0
    try:
        weight = float(text)
    except ValueError:
        weight = 0.0
    if 0 < weight < float("inf"):
        return weight
    raise BadInput(
        say(
            f"The weight {text!r} in the voice {voice!r} is not a positive number.",
            f"声音 {voice!r} 中的权重 {text!r} 不是正数。",
        ),
        say(
            "Write it as in af_heart:0.7+zf_xiaoxiao:0.3.",
            "请写成 af_heart:0.7+zf_xiaoxiao:0.3 的形式。",
        ),
        field="voice",
    )


def _unknown(name: str, names: Sequence[str]) -> BadInput:
    return BadInput(
        say(f"There is no voice {name!r}.", f"没有名为 {name!r} 的声音。"),
        nearest(name, names),
        field="voice",
    )
