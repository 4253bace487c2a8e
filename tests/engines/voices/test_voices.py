"""Kokoro and Piper, really spoken: what is the same, how long it is, what is refused."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miaobi.core.artifacts import Audio
from miaobi.core.errors import BadInput, MissingPart, Unsupported
from miaobi.engines.model import Model
from miaobi.engines.voices import STYLES, espeak
from miaobi.engines.voices.engine import Voices
from miaobi.engines.voices.kokoro import Kokoro
from miaobi.engines.voices.sessions import Sessions, Stop
from miaobi.engines.voices.sound import stretched, trimmed

VOCABULARY = json.loads(
    (Path(espeak.__file__).parent / "kokoro.json").read_text(encoding="utf-8")
)
FOX = "The quick brown fox jumps over the lazy dog."


def voiced_seconds(sound: Audio) -> float:
    return len(trimmed(sound.samples, sound.rate)) / sound.rate


@pytest.mark.slow
@pytest.mark.parametrize("speed", [0.5, 3.0])
def test_speed_is_followed(kokoro: Model, speed: float) -> None:
    usual = voiced_seconds(kokoro.generate(FOX)[0])
    changed = voiced_seconds(kokoro.generate(FOX, speed=speed)[0])
    assert changed == pytest.approx(usual / speed, rel=0.15)


def test_the_same_text_sounds_the_same(kokoro: Model) -> None:
    first, second = (kokoro.generate("Good morning.")[0] for _ in range(2))
    assert np.array_equal(first.samples, second.samples)
    assert first.samples.dtype == np.float32
    assert first.rate == 24_000
    assert 0.05 < np.abs(first.samples).max() <= 1


def test_products_for_convolutions_change_no_sample(
    kokoro: Model, pack: Callable[[str], Path]
) -> None:
    folder = pack("kokoro")
    sessions = Sessions(folder / "kokoro.onnx", 1, None)
    original = Kokoro(folder, folder / STYLES, sessions)
    quick = cast(Voices, kokoro.engine).model
    arguments = ("həlˈO ðˈɛɹ.", "af_heart", 1.0, Stop())
    assert np.array_equal(original.read(*arguments), quick.read(*arguments))
    original.close()


def test_a_mixture_of_one_voice_is_that_voice(kokoro: Model) -> None:
    alone = kokoro.generate("Hello there.", voice="af_sky")[0]
    mixed = kokoro.generate("Hello there.", voice="af_sky:0.4+af_sky:0.6")[0]
    other = kokoro.generate("Hello there.", voice="af_sky:0.5+am_puck:0.5")[0]
    assert np.array_equal(alone.samples, mixed.samples)
    assert other.samples.shape != alone.samples.shape or not np.allclose(
        other.samples, alone.samples
    )


@pytest.mark.parametrize(
    ("text", "voice"),
    [("你好。Hello.", "zf_xiaoxiao"), ("Hello.", "af_heart")],
)
def test_a_voice_that_suits_the_text(kokoro: Model, text: str, voice: str) -> None:
    sound = kokoro.generate(text)[0]
    assert sound.facts.parameters["voice"] == voice


def test_a_pause_first_is_silence_first(kokoro: Model) -> None:
    sound = kokoro.generate("[pause:1s]Hello there.")[0]
    second = sound.samples[: sound.rate]
    assert not second.any()
    assert sound.samples[sound.rate :].any()


def passages(model: Model, text: str, voice: str = "af_heart") -> list[str]:
    engine = cast(Voices, model.engine)
    return [passage.phonemes for passage in engine.passages(text, voice)]


WRITTEN = st.one_of(
    st.text(max_size=60),
    st.text(
        "abcdeABCDE's’.,!?-—0123456789:/%$€ 的一是不了人我在有他这中大来上国。，？！\n",
        max_size=80,
    ),
    st.text(st.characters(min_codepoint=0x3400, max_codepoint=0x9FFF), max_size=30),
    st.from_regex(
        r"(\[pause:[0-9]+(s|ms)?\]|\[a\]\(/[abɑ]*/\)|[A-Za-z' ]+){1,6}", fullmatch=True
    ),
)


@settings(max_examples=100, deadline=None)
@given(text=WRITTEN)
def test_any_text_is_read_or_refused(kokoro: Model, text: str) -> None:
    engine = cast(Voices, kokoro.engine)
    with suppress(BadInput):
        read = engine.passages(text, "af_heart")
        assert read
        for passage in read:
            assert len(passage.phonemes) <= engine.model.longest
            assert set(passage.phonemes) <= set(VOCABULARY)


def test_a_long_sentence_is_read_in_parts(kokoro: Model) -> None:
    engine = cast(Voices, kokoro.engine)
    pieces = passages(kokoro, "the dog and the cat, " * 200)
    assert len(pieces) > 4
    assert all(len(piece) <= engine.model.longest for piece in pieces)


def test_short_sentences_are_read_together(kokoro: Model) -> None:
    assert len(passages(kokoro, "Yes. No. Well then, let us go to the park now.")) == 1


def test_sounds_that_are_given_are_spoken(kokoro: Model) -> None:
    (phonemes,) = passages(kokoro, "I love [Kokoro](/kˈOkəɹO/), you know.")
    assert "lˈʌv kˈOkəɹO, ju" in phonemes


@pytest.mark.parametrize(
    ("text", "number"), [("5", "fˈIv"), ("Room 101", "wˈʌn hˈʌndɹəd wˈʌn")]
)
def test_a_bare_number_is_spoken(kokoro: Model, text: str, number: str) -> None:
    (phonemes,) = passages(kokoro, text)
    assert number in phonemes


@pytest.mark.parametrize("text", ["", "   ", "...", "😀", "。！"])
def test_a_text_without_words_is_refused(kokoro: Model, text: str) -> None:
    with pytest.raises(BadInput, match="nothing to read") as caught:
        kokoro.generate(text)
    assert caught.value.field == "prompt"


def test_what_cannot_be_spoken_is_refused(kokoro: Model) -> None:
    with pytest.raises(BadInput, match="no voice 'af_hart'") as caught:
        kokoro.generate("Hello.", voice="af_hart")
    assert caught.value.field == "voice" and "af_heart" in str(caught.value)
    with pytest.raises(BadInput, match="cannot be read aloud here: Пр"):
        kokoro.generate("Привет")
    with pytest.raises(BadInput, match="symbols that no voice knows: 7"):
        kokoro.generate("[word](/7/)")
    with pytest.raises(BadInput, match=r"speed is 9, outside 0\.25 to 4"):
        kokoro.generate("Hello.", speed=9)
    with pytest.raises(Unsupported, match="does not offer n"):
        kokoro.generate("Hello.", n=2)


def test_piper_speaks(joe: Model) -> None:
    sound = joe.generate("Hello there, it costs $5.")[0]
    assert sound.rate == 22_050
    assert 1 < sound.seconds < 5
    again = joe.generate("Hello there, it costs $5.")[0]
    assert np.array_equal(sound.samples, again.samples)
    slow = joe.generate("Hello there, it costs $5.", speed=0.5)[0]
    assert voiced_seconds(slow) == pytest.approx(2 * voiced_seconds(sound), rel=0.15)


def test_piper_refuses_chinese(joe: Model) -> None:
    with pytest.raises(BadInput, match="reads English only"):
        joe.generate("你好")


def test_without_espeak_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(espeak, "find_spec", lambda name: None)
    with pytest.raises(MissingPart, match=r"miaobi\[espeak\]"):
        espeak.Espeak("en-us", "joe")


def test_a_sound_is_stretched_at_its_pitch() -> None:
    rate = 24_000
    time = np.arange(rate) / rate
    tone = np.sin(2 * np.pi * 200 * time).astype(np.float32)
    for speed in (0.5, 1.5, 2.5):
        sound = stretched(tone, speed, rate)
        assert len(sound) == round(len(tone) / speed)
        spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound))))
        peak = np.argmax(spectrum) * rate / len(sound)
        assert peak == pytest.approx(200, abs=2 * rate / len(sound))


def test_silence_is_cut_off_and_speech_is_not() -> None:
    rate = 1000
    sound = np.concatenate([np.zeros(500), np.ones(200), np.zeros(300)])
    cut = trimmed(sound.astype(np.float32), rate)
    assert cut.sum() == 200
    assert len(cut) == 280
    assert len(trimmed(np.zeros(500, np.float32), rate)) == 0
