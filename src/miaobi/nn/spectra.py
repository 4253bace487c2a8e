"""Spectra of sound in PyTorch: what losses differentiate and vocoders are built on.

The parameters, the window and the mel bands are those of `data.audio.spectra`, its twin
in NumPy; the two give the same numbers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from miaobi.data.audio import spectra as numpy_spectra
from miaobi.data.audio.spectra import Spectra
from miaobi.data.audio.spectra import check_same as check_same


class SpectralTransform(nn.Module):
    """Sound to spectra and back, with the parameters of one voice.

    Shapes: samples [B, samples] in [-1, 1]; spectra [B, bins, frames]; log-mels
    [B, mels, frames]. It has no weights, and nothing of it is in a state dict.
    """

    window: Tensor
    filters: Tensor
    inverse: Tensor

    def __init__(self, spectra: Spectra) -> None:
        super().__init__()
        self.spectra = spectra
        constants = {
            "window": numpy_spectra.window(spectra),
            "filters": numpy_spectra.mel_filters(spectra),
            "inverse": numpy_spectra.mel_inverse(spectra),
        }
        for name, values in constants.items():
            self.register_buffer(name, torch.tensor(values), persistent=False)

    def stft(self, samples: Tensor) -> Tensor:
        """Return complex [B, bins, frames] of [B, samples]."""
        return torch.stft(
            samples,
            self.spectra.fft,
            hop_length=self.spectra.hop,
            window=self.window,
            pad_mode="constant",
            return_complex=True,
        )

    def istft(self, spectrum: Tensor, length: int) -> Tensor:
        """Return [B, length] whose `stft` comes nearest to complex [B, bins, frames]."""
        return torch.istft(
            spectrum,
            self.spectra.fft,
            hop_length=self.spectra.hop,
            window=self.window,
            length=length,
        )

    def log_mel(self, samples: Tensor) -> Tensor:
        """Return [B, mels, frames], natural logarithms, of [B, samples]."""
        return self.log_bands(self.stft(samples).abs())

    def log_bands(self, magnitude: Tensor) -> Tensor:
        """Return log-mels [B, mels, frames] of magnitudes [B, bins, frames]."""
        bands = self.filters @ magnitude
        return bands.clamp(min=self.spectra.smallest).log()

    def magnitudes(self, log_mels: Tensor) -> Tensor:
        """Return magnitudes [B, bins, frames] that have these bands."""
        return (self.inverse @ log_mels.exp()).clamp(min=0)

    @torch.no_grad()
    def griffin_lim(
        self,
        magnitude: Tensor,
        length: int,
        steps: int = 32,
        momentum: float = 0.99,
        seed: int = 0,
    ) -> Tensor:
        """Return [B, length] with nearly these magnitudes [B, bins, frames].

        As `data.audio.spectra.griffin_lim`; every sound of the batch begins with the
        same phases, so that a sound does not depend on its neighbours.
        """
        shape = tuple(magnitude.shape[1:])
        begin = numpy_spectra.first_phases(shape, seed)
        phases = torch.tensor(begin, device=magnitude.device).expand(magnitude.shape)
        previous = torch.zeros_like(phases)
        for _ in range(steps):
            samples = self.istft(magnitude * phases, length)
            rebuilt = self.stft(samples)
            moved = rebuilt + momentum * (rebuilt - previous)
            phases = moved / moved.abs().clamp(min=1e-9)
            previous = rebuilt
        return self.istft(magnitude * phases, length)

    def get_extra_state(self) -> Any:
        """The parameters go with the weights of whatever holds the transform."""
        return self.spectra.record()

    def set_extra_state(self, state: Any) -> None:
        """Raise Unsupported where weights were learned with other parameters."""
        check_same(self.spectra, Spectra.of_record(state))
