"""What lies in a folder of recordings, for `miaobi data inspect`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from miaobi.core.errors import MiaobiError
from miaobi.core.language import say
from miaobi.data.audio import meter
from miaobi.data.audio.clips import Clip
from miaobi.data.audio.faults import Fault, Measured, faults
from miaobi.data.audio.layouts import LAYOUTS, kind_of
from miaobi.data.encoding import Problem, raise_problem
from miaobi.data.progress import bar
from miaobi.data.survey import (
    EXAMPLES,
    LISTED_PROBLEMS,
    counted,
    problem_lines,
    table,
)

LISTED = 12
UNSPOKEN = re.compile(r"\d|https?://|www\.|[\U0001f300-\U0001faff]", re.IGNORECASE)
"""What a text holds that is not read as it is written: digits, addresses, emoji."""

Recogniser = Callable[[Clip], float | None]
"""Returns the character errors of what it hears beside the clip's text, as a share of
the text; None where it knows nothing of the language.
"""


@dataclass(frozen=True)
class RecordingSurvey:
    """The content of a folder or table of recordings."""

    path: Path
    layout: str
    """How it is read, as its reader is called."""
    clips: int
    """Those that can be used."""
    seconds: float
    """Of those."""
    lengths: Mapping[str, float]
    """Shortest, median and longest, in seconds."""
    rates: Mapping[str, int]
    """Clips by rate in Hz, the most frequent first."""
    channels: Mapping[str, int]
    """Clips by number of channels."""
    speakers: Mapping[str, int]
    classes: Mapping[str, int]
    splits: Mapping[str, int]
    texts: int
    """Clips with a text."""
    unspoken: int
    """Texts with digits, addresses or emoji, to be written out as they are read."""
    loudness: Mapping[str, float]
    """LUFS: the median, and the 5th and 95th of a hundred clips."""
    silence: float | None
    """The share of the time that is silent."""
    snr: float | None
    """dB, the median of the estimates."""
    cer: Mapping[str, float]
    """Of a recogniser against the texts: the median and the worst; empty where there is
    none.
    """
    faults: Mapping[str, int]
    """Clips by what is wrong with them."""
    left_out: tuple[Fault, ...]
    """Those that training would leave out, and why."""
    noticed: tuple[Fault, ...]
    """Those that are worth a look."""
    problems: int
    """What could not be read at all."""
    first_problems: tuple[str, ...]
    examples: tuple[str, ...]
    """Texts."""

    def __str__(self) -> str:
        none = say("none", "无")
        rows = {
            say("layout", "结构"): self.layout,
            say("clips", "录音"): f"{self.clips:,} · {_duration(self.seconds)}",
        }
        if self.clips:
            rows |= self._sound_rows()
        rows |= {
            say("texts", "文本"): f"{self.texts:,}",
            say("speakers", "说话人"): counted(self.speakers, LISTED) or none,
            say("classes", "类别"): counted(self.classes, LISTED) or none,
            say("splits", "划分"): counted(self.splits) or none,
            say("left out", "将略去"): f"{len(self.left_out):,}",
        }
        lines = table(self.path, rows)
        lines += _fault_lines(self.left_out)
        lines += _row(say("to look at", "值得一看"), f"{len(self.noticed):,}")
        lines += _fault_lines(self.noticed)
        lines += _row(say("problems", "问题"), f"{self.problems:,}")
        lines += problem_lines(self.problems, self.first_problems)
        lines += [f"  {say('note', '注意'):<14} {note}" for note in self._notes()]
        for number, text in enumerate(self.examples, 1):
            lines += _row(say(f"text {number}", f"文本 {number}"), text)
        return "\n".join(lines)

    def _sound_rows(self) -> dict[str, str]:
        lengths = self.lengths
        rows = {
            say("lengths", "时长"): say(
                f"{lengths['shortest']:.2f} to {lengths['longest']:.1f} s, median {lengths['median']:.1f} s",
                f"{lengths['shortest']:.2f} 至 {lengths['longest']:.1f} 秒，中位数 {lengths['median']:.1f} 秒",
            ),
            say("rates", "采样率"): counted(self.rates, LISTED) + " Hz",
            say("channels", "声道"): counted(self.channels),
        }
        if self.loudness:
            rows[say("loudness", "响度")] = (
                f"{self.loudness['median']:.1f} LUFS ({self.loudness['p5']:.1f} … {self.loudness['p95']:.1f})"
            )
        if self.silence is not None:
            rows[say("silence", "静音")] = f"{self.silence:.0%}"
        if self.snr is not None:
            rows[say("signal/noise", "信噪比")] = say(
                f"about {self.snr:.0f} dB", f"约 {self.snr:.0f} dB"
            )
        if self.cer:
            rows["CER"] = say(
                f"median {self.cer['median']:.1%}, worst {self.cer['worst']:.0%}",
                f"中位数 {self.cer['median']:.1%}，最差 {self.cer['worst']:.0%}",
            )
        return rows

    def _notes(self) -> list[str]:
        notes = list[str]()
        if len(self.rates) > 1:
            lowest = min(map(int, self.rates))
            notes.append(
                say(
                    f"Several rates: what is above {lowest // 2:,} Hz is only in some of the clips.",
                    f"采样率不一：只有部分录音含有 {lowest // 2:,} Hz 以上的内容。",
                )
            )
        if len(self.channels) > 1:
            notes.append(
                say(
                    "Mono and stereo are mixed; stereo is read as the mean of its channels.",
                    "单声道与立体声混杂；立体声按各声道平均读取。",
                )
            )
        if self.unspoken:
            notes.append(
                say(
                    f"{self.unspoken:,} texts hold digits, addresses or emoji: write them as they are read.",
                    f"{self.unspoken:,} 条文本含数字、网址或表情符号：请写成读法。",
                )
            )
        return notes


def survey(
    path: Path, strict: bool, recogniser: Recogniser | None = None
) -> RecordingSurvey:
    """Read and measure all recordings at `path`, which holds some.

    Raises BadInput at the first problem where `strict` is on.
    """
    layout = kind_of(path) or ""
    problems = list[Problem]()
    report = raise_problem if strict else problems.append
    clips = list(LAYOUTS[layout].read(path, report))
    measured = list[Measured]()
    with bar() as show:
        for number, clip in enumerate(clips, 1):
            try:
                measures = meter.measure(clip)
            except MiaobiError as error:
                report(_unreadable(clip, error))
                continue
            finally:
                show(say("Listening", "正在试听"), number, len(clips))
            cer = recogniser(clip) if recogniser and clip.text else None
            measured.append(Measured(clip, measures, cer))
    return _survey(path, layout, measured, problems)


def _unreadable(clip: Clip, error: MiaobiError) -> Problem:
    file, line = clip.location
    return Problem(file, line, error.problem, error.remedy)


def _survey(
    path: Path, layout: str, measured: Sequence[Measured], problems: Sequence[Problem]
) -> RecordingSurvey:
    all_faults = faults(measured)
    left_out = [fault for fault in all_faults if fault.is_left_out]
    names = {fault.clip for fault in left_out}
    used = [item for item in measured if item.clip.name not in names]
    texts = [item.clip.text for item in used if item.clip.text]
    errors = [item.cer for item in measured if item.cer is not None]
    return RecordingSurvey(
        path=path,
        layout=layout,
        clips=len(used),
        seconds=sum(item.measures.seconds for item in used),
        lengths=_lengths(used),
        rates=_counts(str(item.measures.rate) for item in used),
        channels=_counts(str(item.measures.channels) for item in used),
        speakers=_counts(item.clip.speaker for item in used),
        classes=_counts(item.clip.label or "" for item in used),
        splits=_counts(item.clip.split for item in used),
        texts=len(texts),
        unspoken=sum(bool(UNSPOKEN.search(text)) for text in texts),
        loudness=_loudness(used),
        silence=_silence(used),
        snr=_snr(used),
        cer={"median": median(errors), "worst": max(errors)} if errors else {},
        faults=_counts(fault.kind for fault in all_faults),
        left_out=tuple(left_out),
        noticed=tuple(fault for fault in all_faults if not fault.is_left_out),
        problems=len(problems),
        first_problems=tuple(map(str, problems[:LISTED_PROBLEMS])),
        examples=tuple(texts[:EXAMPLES]),
    )


def _counts(values: Iterable[str]) -> dict[str, int]:
    """How often each value is there, the most frequent first; "" is none."""
    return dict(Counter(value for value in values if value).most_common())


def _lengths(used: Sequence[Measured]) -> dict[str, float]:
    seconds = [item.measures.seconds for item in used]
    if not seconds:
        return {}
    return {
        "shortest": min(seconds),
        "median": median(seconds),
        "longest": max(seconds),
    }


def _loudness(used: Sequence[Measured]) -> dict[str, float]:
    values = [item.measures.loudness for item in used]
    loud = [value for value in values if value is not None]
    if not loud:
        return {}
    low, middle, high = np.percentile(loud, [5, 50, 95])
    return {"p5": float(low), "median": float(middle), "p95": float(high)}


def _silence(used: Sequence[Measured]) -> float | None:
    seconds = sum(item.measures.seconds for item in used)
    sounding = sum(item.measures.sounding for item in used)
    return 1 - sounding / seconds if seconds else None


def _snr(used: Sequence[Measured]) -> float | None:
    values = [item.measures.snr for item in used]
    estimates = [value for value in values if value is not None]
    return median(estimates) if estimates else None


def _fault_lines(listed: Sequence[Fault]) -> list[str]:
    texts = [f"{fault.clip}: {fault.reason}" for fault in listed]
    return problem_lines(len(texts), texts[:LISTED_PROBLEMS])


def _row(name: str, value: str) -> list[str]:
    return [f"  {name:<14} {value}"]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
