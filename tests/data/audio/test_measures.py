"""What is measured of recordings agrees with the standard and with sounds made to be so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyloudnorm
import pytest

from miaobi.data.audio import loudness, media, meter
from miaobi.data.audio.clips import Clip
from miaobi.data.audio.meter import Measures, Meter

RATE = 16_000


def noise(seconds: float, level: float = 0.1, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).normal(0, level, round(seconds * RATE))
    return values.astype(np.float32)


def sine(seconds: float, hertz: float, rate: int = RATE) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    return np.sin(2 * np.pi * hertz * time).astype(np.float32)


def measured(samples: np.ndarray, rate: int = RATE, block: int = 1152) -> Measures:
    rows = np.atleast_2d(samples)
    taken = Meter(rate, len(rows))
    for first in range(0, rows.shape[1], block):
        taken.add(rows[:, first : first + block])
    return taken.finish()


def test_the_filters_are_those_of_the_recommendation() -> None:
    """The coefficients that ITU-R BS.1770-4 prints for 48 kHz."""
    b, a = loudness.shelf(48_000)
    assert np.allclose(b, [1.53512485958697, -2.69169618940638, 1.19839281085285])
    assert np.allclose(a, [1, -1.69065929318241, 0.73248077421585])
    b, a = loudness.high_pass(48_000)
    assert np.allclose(b, [1, -2, 1])
    assert np.allclose(a, [1, -1.99004745483398, 0.99007225036621])


def test_997_hz_at_full_scale_is_minus_3() -> None:
    sound = sine(3, 997, 48_000)
    assert loudness.loudness(sound, 48_000) == pytest.approx(-3.01, abs=0.02)


@pytest.mark.parametrize("rate", [16_000, 24_000, 44_100])
def test_loudness_is_that_of_pyloudnorm(rate: int) -> None:
    values = np.random.default_rng(1).normal(0, 0.1, rate * 5)
    envelope = np.repeat([1.0, 0.01, 0.3, 0.0, 1.0], rate)
    sound = (values * envelope).astype(np.float32)
    theirs = pyloudnorm.Meter(rate, filter_class="DeMan").integrated_loudness(sound)
    assert loudness.loudness(sound, rate) == pytest.approx(theirs, abs=0.1)
    assert measured(sound, rate).loudness == pytest.approx(theirs, abs=0.1)


def test_pieces_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = noise(7) * np.repeat(np.linspace(0.1, 1, 70), RATE // 10)
    whole = measured(sound)
    monkeypatch.setattr(meter, "PIECE", 1.0)
    pieces = measured(sound)
    assert pieces.loudness == pytest.approx(whole.loudness, abs=1e-4)
    assert pieces.silence == whole.silence
    assert pieces.content == whole.content


def test_clipping_is_found_and_a_peak_is_not() -> None:
    loud = (3 * sine(1, 100)).clip(-1, 1)
    assert measured(loud).clipped == pytest.approx(0.78, abs=0.02)
    touching = sine(1, 1000)
    assert measured(touching).clipped == 0
    assert measured(touching).peak == pytest.approx(1)


def test_an_offset_is_found() -> None:
    assert measured(noise(1, 0.01) + 0.05).offset == pytest.approx(0.05, abs=1e-3)


def test_silence_is_its_share_of_time() -> None:
    sound = np.concatenate([noise(1), np.zeros(3 * RATE, np.float32)])
    assert measured(sound).silence == pytest.approx(0.75, abs=0.01)
    nothing = measured(np.zeros(RATE, np.float32))
    assert nothing.is_silent
    assert nothing.silence == 1
    assert nothing.snr is None


@pytest.mark.parametrize("decibels", [10, 20, 40])
def test_the_noise_under_words_is_estimated(decibels: int) -> None:
    words = noise(8, 0.1) * np.tile(np.repeat([1.0, 0.0], RATE // 4), 16)
    hiss = noise(8, 0.1 * 10 ** (-decibels / 20), seed=1)
    assert measured(words + hiss).snr == pytest.approx(decibels, abs=1.5)


def test_the_same_sound_in_another_file_is_the_same(tmp_path: Path) -> None:
    sound = np.round(noise(0.5) * 32767) / 32768
    for ending in (".wav", ".flac"):
        (tmp_path / f"a{ending}").write_bytes(media.encode(sound, RATE, ending))
    contents = {
        meter.measure(Clip("a", tmp_path / f"a{ending}")).content
        for ending in (".wav", ".flac")
    }
    assert len(contents) == 1


def test_of_a_part_only_the_part_is_measured(tmp_path: Path) -> None:
    sound = np.concatenate([np.zeros(RATE), noise(1), np.zeros(RATE)])
    path = tmp_path / "a.wav"
    path.write_bytes(media.encode(sound.astype(np.float32), RATE, ".wav"))
    part = meter.measure(Clip("a", path, begin=1.0, end=2.0))
    assert part.seconds == 1
    assert part.silence == 0
    after = meter.measure(Clip("a", path, begin=9.0, end=10.0))
    assert after.seconds == 0


@pytest.mark.parametrize("samples", [1, 5, 319, 320, 1600])
def test_very_short_sound_is_measured(samples: int) -> None:
    short = measured(noise(1)[:samples])
    assert short.seconds == samples / RATE
    assert np.isfinite([short.peak, short.clipped, short.offset, short.silence]).all()
