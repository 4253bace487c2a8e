"""Generate speech: `miaobi generate speech "Hello there." --voice af_heart`."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, cast

from miaobi.core.artifacts import Audio, Facts
from miaobi.core.config import Noted, flat
from miaobi.core.errors import BadInput, Unsupported
from miaobi.core.language import say
from miaobi.core.requests import SpeechRequest, command_for
from miaobi.engines.load import load
from miaobi.models.weights import find
from miaobi.provenance.publish import check_ending
from miaobi.verbs.generate.making import collect, new_path, offers, origin, write


@dataclass(frozen=True)
class Recording:
    """A text that was read aloud, and the file that holds it."""

    out: Path
    seconds: float
    """Of sound."""
    voice: str
    facts: Facts

    def __str__(self) -> str:
        return str(self.out)


def speech(
    text: str = "",
    *,
    model: Annotated[str, Noted(offers)] = "kokoro",
    request: Annotated[SpeechRequest, flat],
    out: Path | None = None,
    engine: str = "auto",
) -> Recording:
    """Read a text aloud, in Chinese, in English or in both.

    Args:
        text: What to read; --prompt is its long form.
        model: A starter pack (kokoro with 54 voices, joe) or a name in the store.
        out: The file to write, labelled, in place of one that is there; its ending decides the
            format (.mp3 .wav .flac .opus .aac .m4a). Without --out: NAME-SEED.wav here.
        engine: voices, or auto for what reads the model.
    """
    if out is not None:
        check_ending(out, Audio)
    prompt = _prompt(text, request.prompt)
    weights = find(model)
    if weights.modality != SpeechRequest.makes:
        raise Unsupported(
            say(
                f"{weights.name} does not speak (it makes: {weights.modality}).",
                f"{weights.name} 不能朗读（它生成：{weights.modality}）。",
            ),
            command_for(weights.modality, model),
        )
    with load(weights, engine=engine, needs=request.controls()) as opened:
        full = opened.request(request, prompt=prompt)
        began = time.perf_counter()
        sound = cast(Audio, collect(opened, full)[0])
        seconds = time.perf_counter() - began
        voice = str(sound.facts.parameters["voice"])
        where = origin(opened, full.seed)
        print(
            say(
                f"{where} · {voice} · {sound.seconds:.1f} s of sound in {seconds:.1f} s",
                f"{where} · {voice} · {sound.seconds:.1f} 秒声音，用时 {seconds:.1f} 秒",
            ),
            file=sys.stderr,
        )
        path = out or new_path(opened.name, full)
    file = write([sound], path)[0]
    return Recording(file, sound.seconds, voice, sound.facts)


def _prompt(text: str, prompt: str) -> str:
    """What to read. Raises BadInput where nothing is given, or both spellings."""
    if text and prompt:
        raise BadInput(
            say(
                "The text is given twice, before the options and as --prompt.",
                "文本给出了两次：一次在选项之前，一次用 --prompt。",
            ),
            say("Leave one of them out.", "请去掉其中一个。"),
            field="prompt",
        )
    if not text and not prompt:
        raise BadInput(
            say("There is no text to read aloud.", "没有给出要朗读的文本。"),
            'miaobi generate speech "Hello there."',
            field="prompt",
        )
    return text or prompt
