"""The engine of voices: text in, sound out, sentence by sentence."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from miaobi.core.artifacts import Audio, Facts
from miaobi.core.engine import Abilities, Chunk, accepted
from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.core.requests import Request, SpeechRequest
from miaobi.data.audio.spoken import spoken
from miaobi.engines.voices.markup import PLACEHOLDERS, Pause, parts
from miaobi.engines.voices.reading import VoiceModel
from miaobi.engines.voices.sentences import cut, cut_first, sentences
from miaobi.engines.voices.sessions import Stop
from miaobi.engines.voices.sound import silence, stretched, trimmed

SENTENCE_PAUSE = 0.3
"""Seconds after a sentence, at speed 1."""
CLAUSE_PAUSE = 0.1
"""Seconds where a long sentence was cut."""
FIRST = 100
"""Phonemes of a first sentence that is cut at a clause, so that sound begins sooner."""
SHORT = 16
"""Phonemes of a sentence that is read together with the next: voices were trained on
whole sentences, and a word alone comes out odd.
"""
SAYS_SOMETHING = re.compile(r"[^\W_]")
"""A letter, which marks alone lack."""


@dataclass(frozen=True)
class Passage:
    """What is read at once, and the seconds of silence after it."""

    phonemes: str
    pause: float


class Voices:
    """A model of voices, opened. Sentences of several requests take turns."""

    takes = SpeechRequest

    def __init__(self, model: VoiceModel, name: str, abilities: Abilities) -> None:
        self.model = model
        self.name = name
        self.abilities = abilities

    async def generate(self, request: Request) -> AsyncIterator[Chunk]:
        """Yield a piece of sound for each sentence. Leaving early ends the run."""
        speech = accepted(request, SpeechRequest, self.abilities, "voices")
        voice = speech.voice or self.model.default_voice(speech.prompt)
        facts = Facts(self.name, parameters={"voice": voice})
        passages = await asyncio.to_thread(self.passages, speech.prompt, voice)
        stop = Stop()
        running = deque[Future[np.ndarray]]()
        waiting = deque(passages)
        pool = self.model.sessions.pool
        try:
            for index in range(len(passages)):
                # As many sentences ahead as there are workers, and no more: others
                # read in between.
                while waiting and len(running) < self.model.sessions.workers:
                    passage = waiting.popleft()
                    running.append(
                        pool.submit(self._sound, passage, voice, speech.speed, stop)
                    )
                samples = await asyncio.wrap_future(running.popleft())
                last = index == len(passages) - 1
                yield Chunk(
                    piece=Audio(samples, self.model.rate, facts),
                    progress=None if last else (index + 1) / len(passages),
                    finish="stop" if last else None,
                )
        finally:
            stop.request()
            for future in running:
                future.cancel()

    def passages(self, text: str, voice: str) -> list[Passage]:
        """Return what is read one after another for a text.

        Raises BadInput for an unknown voice, and for a text that holds nothing to read.
        """
        language = self.model.language(voice)
        passages = list[Passage]()
        for part in parts(text):
            if isinstance(part, Pause):
                passages.append(Passage("", part.seconds))
                continue
            for sentence in sentences(spoken(part.text, language).text):
                phonemes = self._phonemes(sentence, part.sounds, voice)
                if SAYS_SOMETHING.search(phonemes):
                    passages.append(Passage(phonemes, SENTENCE_PAUSE))
        if not passages:
            raise BadInput(
                say("There is nothing to read aloud.", "没有可朗读的内容。"),
                say("Give a text with words.", "请给出含有文字的文本。"),
                field="prompt",
            )
        return list(self._cut(_joined(passages, self.model.longest)))

    def _phonemes(self, sentence: str, sounds: Mapping[str, str], voice: str) -> str:
        """The phonemes of a sentence, with those that the caller gave for words."""
        phonemes = list[str]()
        for part in PLACEHOLDERS.split(sentence):
            if part in sounds:
                self.model.check(sounds[part])
                phonemes.append(sounds[part])
            elif part.strip():
                phonemes.append(self.model.phonemes(part, voice))
        joined = " ".join(phonemes)
        return re.sub(r" (?=[,.!?;:…])", "", joined)

    def _cut(self, passages: Iterator[Passage]) -> Iterator[Passage]:
        """Passages that the model can read at once; a long first sentence is cut early."""
        for number, passage in enumerate(passages):
            pieces = cut(passage.phonemes, self.model.longest)
            if number == 0 and pieces:
                pieces = [*cut_first(pieces[0], FIRST), *pieces[1:]]
            for piece in pieces[:-1]:
                yield Passage(piece, CLAUSE_PAUSE)
            yield Passage(pieces[-1] if pieces else "", passage.pause)

    def _sound(
        self, passage: Passage, voice: str, speed: float, stop: Stop
    ) -> np.ndarray:
        """A passage as it sounds, with the silence after it, float32 [samples]."""
        rate = self.model.rate
        if not passage.phonemes:
            return silence(passage.pause, rate)
        slowest, fastest = self.model.speeds
        own_speed = min(max(speed, slowest), fastest)
        samples = self.model.read(passage.phonemes, voice, own_speed, stop)
        samples = stretched(trimmed(samples, rate), speed / own_speed, rate)
        samples = np.clip(samples, -1, 1).astype(np.float32)
        return np.concatenate([samples, silence(passage.pause / speed, rate)])

    def close(self) -> None:
        self.model.close()


def _joined(passages: Sequence[Passage], longest: int) -> Iterator[Passage]:
    """Passages of which none that is SHORT stands beside another that it fits to."""
    current: Passage | None = None
    for passage in passages:
        if current is not None and _fits(current, passage, longest):
            phonemes = f"{current.phonemes} {passage.phonemes}"
            current = Passage(phonemes, passage.pause)
            continue
        if current is not None:
            yield current
        current = passage
    if current is not None:
        yield current


def _fits(first: Passage, second: Passage, longest: int) -> bool:
    if not (first.phonemes and second.phonemes):
        return False
    sizes = len(first.phonemes), len(second.phonemes)
    return min(sizes) < SHORT and sum(sizes) < longest
