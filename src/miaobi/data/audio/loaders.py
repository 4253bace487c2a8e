"""How the clips of each starter pack of sound are read from its files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from miaobi.data import packs
from miaobi.data.audio.clips import Clip, Clips, Recordings, sounds_in
from miaobi.data.audio.layouts import asterisk, festvox, hydrogen
from miaobi.data.encoding import Problem, numbered_lines

SPHINX_LINE = re.compile(r"(?:<s>)?\s*(.*?)\s*(?:</s>)?\s*\((\S+)\)")


def festvox_ru(folder: Path) -> Iterator[Clip]:
    """Yield 620 Russian sentences of one man, with phones and their times.

    A "+" before a vowel marks its stress in the text.
    """
    voice = folder / "usr/share/festival/voices/russian/msu_ru_nsh_clunits"
    for clip in festvox.read(voice, _pass_over):
        yield replace(clip, speaker="msu_ru_nsh")


def prompts(folder: Path) -> Iterator[Clip]:
    """Yield 566 telephone prompts of one woman, in English."""
    return asterisk.read(folder, _pass_over)


def syllables(folder: Path) -> Iterator[Clip]:
    """Yield Mandarin syllables, labelled in bopomofo with the number of their tone.

    Of the two recordings of each, the one of natural length.
    """
    for file in sorted((folder / "usr/share/gcin-voice/ogg").glob("*/3.ogg")):
        syllable = file.parent.name
        yield Clip(syllable, file, syllable, label=syllable)


def sphinx(folder: Path) -> Iterator[Clip]:
    """Yield ten clips with their texts: sentences of LibriVox, and names of cards."""
    data = folder / "usr/share/pocketsphinx/test/data"
    for table in (data / "librivox/transcription", data / "cards/cards.transcription"):
        clips = Clips(Recordings(table.parent), _pass_over)
        for number, line in numbered_lines(table):
            match = SPHINX_LINE.fullmatch(line.strip())
            file = match and clips.file_of(match[2], table, number)
            if match and file:
                yield Clip(match[2], file, match[1], source=table, line=number)


def drum_kits(folder: Path) -> Iterator[Clip]:
    """Yield the drums of 14 kits, labelled with their instruments' names."""
    return hydrogen.read(folder, _pass_over)


def sonic_pi(folder: Path) -> Iterator[Clip]:
    """Yield Sonic Pi's samples; their names begin with what they are (bd, sn, loop)."""
    for file in sounds_in(folder / "usr/share/sonic-pi/samples"):
        yield Clip(file.stem, file, label=file.stem.partition("_")[0])


def _pass_over(_: Problem) -> None:
    """A few lines of these packs name recordings that were never in them."""


LOADERS: dict[str, Callable[[Path], Iterator[Clip]]] = {
    "drum_kits": drum_kits,
    "festvox_ru": festvox_ru,
    "prompts": prompts,
    "sonic_pi": sonic_pi,
    "sphinx": sphinx,
    "syllables": syllables,
}
"""By the name that an entry of the catalogue gives its loader."""


def read(name: str) -> Iterator[Clip]:
    """Return the clips of a pack of sound, downloaded when it is not here yet."""
    pack = packs.of_modality(name, "audio")
    return LOADERS[pack.loader](packs.path(name))
