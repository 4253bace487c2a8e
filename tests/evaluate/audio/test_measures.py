"""Metrics of sound: exact where there is a formula, and in order on real recordings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.evaluate.audio.sounds import RATE, pitch_of, subject, vowel

from miaobi.data.audio import loaders, media
from miaobi.data.audio.media import Sound
from miaobi.evaluate.audio import cepstrum, distortion, intelligibility, warping
from miaobi.evaluate.audio.pitch_tracker import packaged_pitch
from miaobi.evaluate.audio.similarity import measure as similarity
from miaobi.evaluate.audio.speaker_encoder import packaged_encoder, parts_of
from miaobi.evaluate.audio.subject import SoundSubject


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).normal(0, 0.1, round(seconds * RATE))
    return values.astype(np.float32)


def test_the_cheapest_path_is_found() -> None:
    random = np.random.default_rng(0)
    for rows, columns in ((1, 1), (1, 5), (6, 1), (7, 9)):
        costs = random.random((rows, columns))
        best = np.full((rows, columns), np.inf)
        for i in range(rows):
            for j in range(columns):
                before = [best[i - 1, j]] if i else []
                before += [best[i, j - 1]] if j else []
                before += [best[i - 1, j - 1]] if i and j else []
                best[i, j] = costs[i, j] + min(before, default=0)
        steps = warping.path(costs)
        assert tuple(steps[0]) == (0, 0)
        assert tuple(steps[-1]) == (rows - 1, columns - 1)
        assert costs[steps[:, 0], steps[:, 1]].sum() == pytest.approx(best[-1, -1])


def test_cepstral_distance_is_the_distance_of_the_spectra() -> None:
    """A ripple a·cos(mω) of the log spectrum is 20/ln 10 · a/√2 dB, root mean square."""
    bands = np.random.default_rng(0).normal(size=(80, 1))
    centres = (np.arange(80) + 0.5) / 80
    for order in (1, 7, 24):
        ripple = 0.3 * np.cos(np.pi * order * centres)[:, None]
        one = cepstrum.cosines(bands, 24).T
        other = cepstrum.cosines(bands + ripple + 2.0, 24).T
        decibels = 20 / np.log(10) * 0.3 / np.sqrt(2)
        assert cepstrum.distances(one, other)[0] == pytest.approx(decibels)


def test_cepstral_distortion_knows_no_level_and_no_tempo() -> None:
    quick, slow = vowel(120, 1.0), vowel(120, 2.0)
    assert cepstrum.distortion(quick, quick) == 0
    assert cepstrum.distortion(quick, 0.25 * quick) < 1
    slower = cepstrum.distortion(quick, slow)
    other = cepstrum.distortion(quick, vowel(120, 1.0, formant=2600))
    assert slower < 0.5 * other


@pytest.mark.parametrize("decibels", [0, 10, 30])
def test_si_sdr_is_exact(decibels: int) -> None:
    signal, other = noise(1).astype(float), noise(1, 1).astype(float)
    signal -= signal.mean()
    other -= other.mean()
    other -= (other @ signal) / (signal @ signal) * signal
    other *= np.linalg.norm(signal) / np.linalg.norm(other)
    generated = 3 * (signal + 10 ** (-decibels / 20) * other)
    assert distortion.si_sdr(signal, generated) == pytest.approx(decibels, abs=1e-6)


def test_si_sdr_at_its_limits() -> None:
    assert distortion.si_sdr(noise(1), 0.5 * noise(1)) == distortion.LIMIT
    silence = np.zeros(RATE, np.float32)
    assert distortion.si_sdr(silence, noise(1)) == -distortion.LIMIT
    assert distortion.si_sdr(noise(1), silence) == -distortion.LIMIT


def test_stoi_falls_with_noise_and_is_none_for_a_click() -> None:
    speech = vowel(120, 2.0)
    values = [
        intelligibility.stoi(speech, speech + level * noise(2), RATE)
        for level in (0.0, 1.0, 20.0)
    ]
    assert values[0] == pytest.approx(1)
    assert values == sorted(values, reverse=True)
    assert intelligibility.stoi(speech[:1600], speech[:1600], RATE) is None


def test_the_packaged_tracker_knows_notes(pack: Callable[[str], Path]) -> None:
    pack("swift-f0")
    track = packaged_pitch()
    for hertz in (110.0, 220.0, 330.0):
        pitch = track(vowel(hertz, 1.0))
        middle = pitch.hertz[10:-10]
        assert pitch.voiced[10:-10].all()
        assert abs(1200 * np.log2(middle / hertz)).max() < 15
    assert not track(np.zeros(RATE, np.float32)).voiced.any()
    assert not track(np.zeros(10, np.float32)).voiced.any()
    assert track(noise(1)).voiced.mean() < 0.1


def test_a_transposed_melody_is_off_by_its_interval() -> None:
    one, two = (
        Sound(vowel(200, 1.0), RATE),
        Sound(vowel(200 * 2 ** (1 / 12), 1.0), RATE),
    )
    whole = subject(generated=[two, two], recorded=[one, one], aligned=True)
    from miaobi.evaluate.audio import pitch

    error, voicing = pitch.measure(whole)
    assert error.value == pytest.approx(100, abs=2)
    assert voicing.value == 0


def test_parts_of_a_voice_cover_it() -> None:
    assert parts_of(noise(0.05)).shape == (1, 160, 40)
    assert parts_of(noise(1.6)).shape == (1, 160, 40)
    assert parts_of(noise(5.0)).shape[0] == 5
    with_pause = np.concatenate([noise(2), np.zeros(3 * RATE, np.float32)])
    assert len(parts_of(with_pause)) == len(parts_of(noise(2)))


def test_real_speakers_are_told_apart(pack: Callable[[str], Path]) -> None:
    """The anchors of Resemblyzer: the same woman, and others."""
    for name in ("resemblyzer", "asterisk-en", "pocketsphinx-testdata"):
        pack(name)
    prompts = [c for c in loaders.read("asterisk-en") if len(c.text) > 60][:8]
    readers = [c for c in loaders.read("pocketsphinx-testdata") if len(c.text) > 40]
    woman = [media.read(clip.path) for clip in prompts]
    others = [media.read(clip.path) for clip in readers]
    embed = packaged_encoder()
    assert np.linalg.norm(embed(media.read(prompts[0].path).samples)) == pytest.approx(
        1
    )
    same = SoundSubject(
        name="a", generated=woman[:3], voice=woman[3:], strangers=others
    )
    other = SoundSubject(name="b", generated=others, voice=woman[3:], strangers=others)
    (score,), (stranger,) = similarity(same), similarity(other)
    assert score.low > 0.75 > stranger.high
    assert "the speaker's own recordings reach 0." in score.detail
    assert f"other speakers {stranger.value:.2f}" in score.detail


def test_sounds_of_any_rate_are_compared() -> None:
    sound = Sound(np.stack([vowel(200, 1.0)] * 2), RATE)
    up = Sound(media.resample(sound.samples, RATE, 44_100), 44_100)
    pairs = subject(generated=[up], recorded=[sound], aligned=True).pairs
    assert distortion.si_sdr(*pairs[0]) > 25
    assert pitch_of(pairs[0][0]).voiced.any()
