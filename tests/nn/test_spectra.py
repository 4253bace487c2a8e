"""Spectra: the two implementations agree with each other and with the formulas."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers.audio_utils import mel_filter_bank

from miaobi.core.errors import BadInput, Damaged, Unsupported
from miaobi.data.audio import spectra as twin
from miaobi.data.audio.spectra import Spectra
from miaobi.nn.spectra import SpectralTransform, check_same

PARAMETERS = [
    Spectra(),
    Spectra(rate=22_050, mels=100, high=8_000.0, low=40.0),
    Spectra(rate=16_000, window=400, hop=160, high=8_000.0, scale="htk"),
]


def noise(samples: int, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).normal(0, 0.1, samples)
    return values.astype(np.float32)


@pytest.mark.parametrize("spectra", PARAMETERS)
@pytest.mark.parametrize("samples", [1, 255, 256, 5000])
def test_numpy_and_torch_agree(spectra: Spectra, samples: int) -> None:
    transform = SpectralTransform(spectra)
    sound = noise(samples)
    batch = torch.tensor(sound)[None]

    spectrum = twin.stft(sound, spectra)
    assert spectrum.shape == (spectra.bins, spectra.frames(samples))
    assert np.allclose(transform.stft(batch)[0], spectrum, atol=1e-4)

    back = twin.istft(spectrum, spectra, samples)
    same = transform.istft(torch.tensor(spectrum)[None], samples)
    assert np.allclose(same[0], back, atol=1e-5)

    mel = twin.log_mel(sound, spectra)
    assert np.allclose(transform.log_mel(batch)[0], mel, atol=1e-3)

    magnitudes = twin.magnitudes(mel, spectra)
    same = transform.magnitudes(torch.tensor(mel)[None])
    assert np.allclose(same[0], magnitudes, atol=1e-3 * magnitudes.max())


def test_a_band_without_a_bin_is_refused() -> None:
    spectra = Spectra(rate=16_000, fft=512, hop=160, window=400, mels=200, high=8e3)
    with pytest.raises(BadInput, match=r"mels is 200: \d+ of the bands"):
        SpectralTransform(spectra)


def test_griffin_lim_agrees_for_every_sound_of_a_batch() -> None:
    spectra = PARAMETERS[2]
    sounds = np.stack([noise(2000, seed) for seed in (1, 2)])
    magnitudes = np.stack([abs(twin.stft(sound, spectra)) for sound in sounds])
    transform = SpectralTransform(spectra)
    batch = transform.griffin_lim(torch.tensor(magnitudes), 2000, steps=3)
    for row, magnitude in zip(batch, magnitudes):
        alone = twin.griffin_lim(magnitude, spectra, 2000, steps=3)
        assert np.allclose(row, alone, atol=2e-3)


@pytest.mark.parametrize("spectra", PARAMETERS)
def test_what_is_transformed_comes_back(spectra: Spectra) -> None:
    for samples in (700, 4096, 10_001):
        sound = noise(samples)
        back = twin.istft(twin.stft(sound, spectra), spectra, samples)
        assert np.allclose(back, sound, atol=1e-5)


def test_the_squared_windows_add_up_to_a_constant() -> None:
    """Hann at a quarter of its length: the sum of squares is 3/8 × 4."""
    window = twin.window(Spectra(window=1024, hop=256))
    assert np.allclose((window**2).reshape(4, 256).sum(axis=0), 1.5, atol=1e-6)


def test_a_sine_is_in_its_bin_with_its_amplitude() -> None:
    spectra = Spectra()
    time = np.arange(24_000) / 24_000
    for bin_number in (10, 100, 300):
        hertz = bin_number * spectra.rate / spectra.fft
        sound = 0.5 * np.sin(2 * np.pi * hertz * time).astype(np.float32)
        middle = abs(twin.stft(sound, spectra))[:, 40]
        assert middle.argmax() == bin_number
        # amplitude × sum of the window / 2
        assert middle.max() == pytest.approx(0.5 * 512 / 2, rel=1e-3)
        assert middle[bin_number + 2 :].max() < 0.01 * middle.max()


def test_an_impulse_is_flat() -> None:
    spectra = Spectra()
    sound = np.zeros(1024, np.float32)
    sound[512] = 1
    assert np.allclose(abs(twin.stft(sound, spectra))[:, 2], 1, atol=1e-5)


@pytest.mark.parametrize("spectra", PARAMETERS)
def test_mel_bands_are_those_of_the_books(spectra: Spectra) -> None:
    expected = mel_filter_bank(
        num_frequency_bins=spectra.bins,
        num_mel_filters=spectra.mels,
        min_frequency=spectra.low,
        max_frequency=spectra.high,
        sampling_rate=spectra.rate,
        norm="slaney",
        mel_scale=spectra.scale,
    )
    assert np.allclose(twin.mel_filters(spectra), expected.T, atol=1e-6)


def test_mel_scales_at_published_points() -> None:
    hertz = np.array([0.0, 500.0, 1000.0, 6400.0])
    to_mel, to_hertz = twin.SCALES["slaney"]
    assert np.allclose(to_mel(hertz), [0, 7.5, 15, 42])
    assert np.allclose(to_hertz(to_mel(hertz)), hertz)
    to_mel, to_hertz = twin.SCALES["htk"]
    assert np.allclose(to_mel(np.array([700.0, 1000.0])), [781.17, 999.99], atol=0.01)
    assert np.allclose(to_hertz(to_mel(hertz)), hertz)


def test_griffin_lim_keeps_the_magnitudes() -> None:
    spectra = Spectra(rate=16_000, high=8_000.0)
    time = np.arange(8000) / 16_000
    sound = 0.3 * np.sin(2 * np.pi * (300 + 400 * time) * time).astype(np.float32)
    magnitude = abs(twin.stft(sound, spectra))

    def distance(steps: int) -> float:
        sound_again = twin.griffin_lim(magnitude, spectra, 8000, steps)
        error = abs(twin.stft(sound_again, spectra)) - magnitude
        return float(np.linalg.norm(error) / np.linalg.norm(magnitude))

    assert distance(32) < 0.15 < distance(0)


def test_the_parameters_go_with_the_bundle() -> None:
    spectra = PARAMETERS[1]
    record = spectra.record()
    assert Spectra.of_record(record) == spectra
    with pytest.raises(Damaged, match=spectra.hash):
        Spectra.of_record({**record, "hop": 128})
    with pytest.raises(Damaged, match="hash"):
        Spectra.of_record({**record, "more": 1})


def test_hashes_differ_by_every_parameter() -> None:
    changed = {"rate": 48_000, "fft": 2048, "window": 800, "hop": 300, "mels": 81}
    changed |= {"low": 1.0, "high": 11_000.0, "scale": "htk", "smallest": 1e-6}
    others = [replace(Spectra(), **{name: value}) for name, value in changed.items()]
    assert len({other.hash for other in [Spectra(), *others]}) == 10


def test_models_that_disagree_are_refused_with_both_values() -> None:
    check_same(Spectra(), Spectra())
    with pytest.raises(Unsupported, match="hop 256 ≠ 300; mels 80 ≠ 100"):
        check_same(Spectra(), Spectra(hop=300, mels=100))


def test_weights_of_another_spectrum_are_refused() -> None:
    weights = SpectralTransform(Spectra()).state_dict()
    assert list(weights) == ["_extra_state"]
    SpectralTransform(Spectra()).load_state_dict(weights)
    with pytest.raises(Unsupported, match="hop 300 ≠ 256"):
        SpectralTransform(Spectra(hop=300)).load_state_dict(weights)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rate", 0),
        ("fft", 1023),
        ("window", 2048),
        ("hop", 600),
        ("mels", 600),
        ("low", 12_000.0),
        ("high", 13_000.0),
        ("scale", "bark"),
        ("smallest", 0.0),
    ],
)
def test_impossible_parameters_are_named(name: str, value: Any) -> None:
    with pytest.raises(BadInput, match=rf"spectra\.{name} is "):
        replace(Spectra(), **{name: value})


def test_gradients_flow_through_a_mel() -> None:
    sound = torch.tensor(noise(2000))[None].requires_grad_()
    SpectralTransform(PARAMETERS[2]).log_mel(sound).sum().backward()
    assert sound.grad is not None and sound.grad.isfinite().all()
