"""The `recordings` data set: sound files with what is said or heard in them, in any of
the layouts of data/audio/layouts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from miaobi.core.errors import Unsupported
from miaobi.core.language import say
from miaobi.data.audio.clips import is_sound
from miaobi.data.audio.layouts import kind_of
from miaobi.data.image.listing import is_picture, visible

if TYPE_CHECKING:
    from miaobi.data.audio.survey import Recogniser, RecordingSurvey

CONTENT = (
    "recordings: sound files in folders, LJSpeech, Kaldi, VCTK, festvox, Asterisk, Hydrogen or JSONL manifests",
    "录音：文件夹中的音频文件、LJSpeech、Kaldi、VCTK、festvox、Asterisk、Hydrogen 或 JSONL 清单",
)


@dataclass(frozen=True)
class Config:
    """Where recordings lie."""

    path: str = ""


def prepare(config: Config) -> NoReturn:
    """Raise Unsupported: no family learns from recordings yet."""
    raise Unsupported(
        say(
            f"{config.path} holds recordings, from which no model family learns yet.",
            f"{config.path} 中是录音，目前没有可用录音训练的模型族。",
        ),
        say(
            "miaobi data inspect shows what is in them.",
            "可用 miaobi data inspect 查看其内容。",
        ),
    )


def holds(path: Path) -> bool:
    """Return whether recordings lie at `path`: sounds, and no more pictures than these."""
    if kind_of(path) is None:
        return False
    if path.is_file():
        return True
    files = visible(path)
    return sum(map(is_sound, files)) >= sum(map(is_picture, files))


def inspect(
    path: Path, *, strict: bool = False, recogniser: Recogniser | None = None
) -> RecordingSurvey:
    """Listen to the recordings at `path`, and return their content and problems.

    Args:
        path: a sound file, a table of them, or a folder
        strict: raise BadInput at the first problem
        recogniser: writes down what a clip says, to compare with its text
    """
    from miaobi.data.audio.survey import survey

    return survey(path, strict, recogniser)
