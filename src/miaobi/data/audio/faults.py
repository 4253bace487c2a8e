"""What is wrong with clips, judged by what was measured of all of them: which are left out
of training and why, and which are worth a look.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from miaobi.core.language import say
from miaobi.data.audio.clips import Clip
from miaobi.data.audio.meter import Measures

SHORTEST_SPEECH = 0.1
SHORTEST_SOUND = 0.01
"""Seconds; a shorter clip is left out, with a text and without."""
LONGEST = 60.0
"""Seconds; a longer clip with a text is worth cutting."""
MISSING = 0.25
"""Seconds that may be missing at the end: codecs round up to their frames."""
CLIPPED = 0.001
"""Share of the samples from which a clip is called clipped."""
OFFSET = 0.01
"""Mean of the samples from which there is an offset."""
NOISY = 15.0
"""dB of signal over noise below which a clip is called noisy."""
LOUDNESS_SPREAD = 6.0
"""LU from the median beyond which a clip is called too loud or too quiet."""
PACE = 3.0
"""Times the usual time for a text, or a third of it, beyond which text and sound cannot
belong together.
"""
PAUSE = 1.0
"""Seconds more that a text may take: a single letter is said slowly."""
ENOUGH = 10
"""Clips with text from which there is a usual pace."""
IDEOGRAPH = 3
"""Letters that one of them counts as: a syllable."""
ERRORS = 0.5
"""CER from which a text is not what the clip says."""


@dataclass(frozen=True)
class Measured:
    """A clip with what was measured of it."""

    clip: Clip
    measures: Measures
    cer: float | None = None
    """Character errors of a recogniser beside the text; None where it was not asked."""


@dataclass(frozen=True)
class Fault:
    """Something wrong with one clip."""

    kind: str
    clip: str
    """Its name."""
    reason: str
    is_left_out: bool


def faults(measured: Sequence[Measured]) -> list[Fault]:
    """Return the faults of all clips, in their order."""
    usual_loudness = median([_loudness(item) for item in measured] or [0.0])
    usual_pace = _usual_pace(measured)
    firsts = dict[str, Clip]()
    all_faults = list[Fault]()
    for item in measured:
        name = item.clip.name
        first = firsts.setdefault(item.measures.content, item.clip)
        kinds = [*_left_out(item, first)]
        if usual_pace and not kinds:
            kinds += _unusual_pace(item, usual_pace)
        all_faults += [Fault(kind, name, reason, True) for kind, reason in kinds]
        if not kinds:
            remarks = _remarkable(item, usual_loudness)
            all_faults += [Fault(kind, name, reason, False) for kind, reason in remarks]
    return all_faults


def _left_out(item: Measured, first: Clip) -> Iterator[tuple[str, str]]:
    """(kind, reason) of what cannot be learned from.

    Args:
        item: the clip.
        first: the first clip with the same sound; often itself.
    """
    measures = item.measures
    shortest = SHORTEST_SPEECH if item.clip.text else SHORTEST_SOUND
    if measures.seconds < shortest:
        yield (
            "short",
            say(
                f"it is {measures.seconds:.2f} s long; the shortest is {shortest:g} s.",
                f"仅 {measures.seconds:.2f} 秒；最短为 {shortest:g} 秒。",
            ),
        )
    elif measures.missing > MISSING:
        whole = measures.seconds + measures.missing
        yield (
            "truncated",
            say(
                f"it is cut off: its header promises {whole:.1f} s, {measures.seconds:.1f} s are there.",
                f"文件不完整：文件头标明 {whole:.1f} 秒，实有 {measures.seconds:.1f} 秒。",
            ),
        )
    elif measures.is_silent:
        yield "silent", say("nothing is heard in it.", "没有声音。")
    elif first != item.clip and first.text == item.clip.text:
        yield (
            "duplicate",
            say(f"it is the same as {first.name}.", f"与 {first.name} 相同。"),
        )
    elif first != item.clip:
        yield (
            "duplicate",
            say(
                f"it sounds as {first.name} does, with another text.",
                f"声音与 {first.name} 相同，文本却不同。",
            ),
        )
    elif item.cer is not None and item.cer > ERRORS:
        yield (
            "text",
            say(
                f"it does not say its text (CER {item.cer:.0%}).",
                f"录音与文本不符（CER {item.cer:.0%}）。",
            ),
        )


def _unusual_pace(item: Measured, usual: float) -> list[tuple[str, str]]:
    """(kind, reason) of a text that is much longer or shorter than its sound."""
    count = letters(item.clip.text)
    seconds = item.measures.sounding
    expected = count / usual
    if not count or expected / PACE <= seconds <= expected * PACE + PAUSE:
        return []
    reason = say(
        f"{count} letters in {seconds:.1f} s, where {expected:.1f} s are usual: text or sound is not whole.",
        f"{seconds:.1f} 秒内 {count} 个字母，通常需 {expected:.1f} 秒：文本或录音不完整。",
    )
    return [("pace", reason)]


def _remarkable(item: Measured, usual_loudness: float) -> Iterator[tuple[str, str]]:
    """(kind, reason) of what can be learned from, but is worth a look."""
    measures = item.measures
    if measures.clipped >= CLIPPED:
        yield (
            "clipped",
            say(
                f"{measures.clipped:.1%} of its samples are clipped.",
                f"{measures.clipped:.1%} 的采样被削波。",
            ),
        )
    if abs(measures.offset) >= OFFSET:
        yield (
            "offset",
            say(
                f"its samples have an offset (DC) of {measures.offset:+.3f}.",
                f"采样有直流偏移 {measures.offset:+.3f}。",
            ),
        )
    if measures.snr is not None and measures.snr < NOISY and item.clip.text:
        yield (
            "noisy",
            say(
                f"about {measures.snr:.0f} dB of speech over noise.",
                f"信噪比约 {measures.snr:.0f} dB。",
            ),
        )
    if abs(_loudness(item) - usual_loudness) > LOUDNESS_SPREAD and item.clip.text:
        yield (
            "loudness",
            say(
                f"{_loudness(item):.0f} LUFS, the others {usual_loudness:.0f}.",
                f"{_loudness(item):.0f} LUFS，其他为 {usual_loudness:.0f}。",
            ),
        )
    if measures.seconds > LONGEST and item.clip.text:
        yield (
            "long",
            say(
                f"{measures.seconds:.0f} s with one text; cut it into sentences.",
                f"{measures.seconds:.0f} 秒只有一条文本；请按句切分。",
            ),
        )
    if measures.damaged:
        yield (
            "damaged",
            say(
                f"{measures.damaged} of its packets could not be decoded.",
                f"有 {measures.damaged} 个数据包无法解码。",
            ),
        )


def _loudness(item: Measured) -> float:
    return item.measures.loudness if item.measures.loudness is not None else -70.0


def _usual_pace(measured: Sequence[Measured]) -> float:
    """The median of letters a second; 0 for too few clips with a text."""
    paces = [
        letters(item.clip.text) / item.measures.sounding
        for item in measured
        if item.clip.text and item.measures.sounding > 0
    ]
    return median(paces) if len(paces) >= ENOUGH else 0.0


def letters(text: str) -> int:
    """Return how many letters and digits a text has; an ideograph counts IDEOGRAPH."""
    count = 0
    for char in text:
        category = unicodedata.category(char)
        if category == "Lo" and "\u2e80" <= char <= "\U0003ffff":
            count += IDEOGRAPH
        elif category[0] in "LN":
            count += 1
    return count
