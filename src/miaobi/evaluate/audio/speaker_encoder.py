"""Vectors of speakers: Resemblyzer's network and weights (Wan, Wang, Papir and Moreno 2018),
a starter pack of 17 MB. Nothing of its package runs, and of its file only numbers are
loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from miaobi.data import packs
from miaobi.data.audio.spectra import Spectra, mel_filters, stft

if TYPE_CHECKING:
    from torch import Tensor, nn

PACK = "resemblyzer"
SPECTRA = Spectra(rate=16_000, fft=400, window=400, hop=160, mels=40, high=8_000.0)
PART = 160
"""Frames that the network hears at once: 1.6 s."""
STEP = 77
"""Frames from one part to the next: 1.3 parts a second."""
COVERED = 0.75
"""Of the last part, to be heard."""
LEVEL = -30.0
"""dBFS, to which quieter sound is raised."""
WINDOW = 480
"""Samples, 30 ms: what is not silent is kept by these."""
QUIET = 40.0
"""dB below the loud windows, from where a window is silent."""
WIDTH = 256


@cache
def packaged_encoder() -> Callable[[np.ndarray], np.ndarray]:
    """Return the encoder of the pack, fetched when it is not here yet."""
    import torch

    network = encoder()
    state = torch.load(packs.path(PACK), map_location="cpu", weights_only=True)
    network.load_state_dict(state["model_state"])
    network.eval()

    def embed(samples: np.ndarray) -> np.ndarray:
        parts = torch.from_numpy(parts_of(samples))
        with torch.inference_mode():
            vectors: np.ndarray = network(parts).numpy()
        mean: np.ndarray = vectors.mean(axis=0)
        mean /= max(float(np.linalg.norm(mean)), 1e-9)
        return mean

    return embed


def encoder() -> nn.Module:
    """Return Resemblyzer's network, untrained: mels [B, 160, 40] to vectors [B, 256]."""
    import torch
    from torch import nn

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(SPECTRA.mels, WIDTH, num_layers=3, batch_first=True)
            self.linear = nn.Linear(WIDTH, WIDTH)
            # Of its training: the scale of similarities.
            self.similarity_weight = nn.Parameter(torch.ones(1))
            self.similarity_bias = nn.Parameter(torch.zeros(1))

        def forward(self, mels: Tensor) -> Tensor:
            _, (hidden, _) = self.lstm(mels)
            return nn.functional.normalize(self.linear(hidden[-1]).relu(), dim=1)

    return Encoder()


def parts_of(samples: np.ndarray) -> np.ndarray:
    """Return mels float32 [parts, 160, 40] of float32 [samples] at 16 kHz, without their
    silence; there is one part at least.
    """
    sound = _without_silence(_raised(samples))
    frames = -(-(len(sound) + 1) // SPECTRA.hop)
    begins = list(range(0, max(1, frames - PART + STEP + 1), STEP))
    last = begins[-1] * SPECTRA.hop
    if len(begins) > 1 and (len(sound) - last) / (PART * SPECTRA.hop) < COVERED:
        begins.pop()
    needed = (begins[-1] + PART) * SPECTRA.hop
    padded = np.pad(sound, (0, max(0, needed - len(sound))))
    power = np.abs(stft(padded, SPECTRA)) ** 2
    mels = (mel_filters(SPECTRA) @ power).T
    return np.stack([mels[begin : begin + PART] for begin in begins])


def _raised(samples: np.ndarray) -> np.ndarray:
    level = 10 * np.log10(max(float(np.mean(samples**2)), 1e-20))
    gain = 10 ** (max(LEVEL - level, 0.0) / 20) if level > -100 else 1.0
    raised: np.ndarray = (samples * gain).astype(np.float32)
    return raised


def _without_silence(samples: np.ndarray) -> np.ndarray:
    count = len(samples) // WINDOW
    if not count:
        return samples
    windows = samples[: count * WINDOW].reshape(count, WINDOW)
    levels = 10 * np.log10(np.maximum((windows**2).mean(axis=1), 1e-20))
    loud: np.ndarray = windows[levels >= np.percentile(levels, 95) - QUIET]
    return loud.ravel()
