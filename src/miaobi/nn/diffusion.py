"""Diffusion as four things that fit together: a schedule, a denoiser, a guidance, a
sampler.

    x_t = α_t x_0 + σ_t ε,   ε ~ N(0, I),   t from 0 (data) to 1 (noise)
    v_t = dx_t/dt = α'_t x_0 + σ'_t ε

A denoiser is D(x_t, t) ≈ E[x_0 | x_t]; what it says of ε and v follows from it. A
guidance makes one denoiser of two, and keeping a part of a picture is a denoiser as
well. A sampler is a step from x_t to x_s, s < t.

The division is azula's (Rozet 2024, https://github.com/probabilists/azula). Shapes: x
[B, ...]; t, s scalars []; a denoiser maps (x [B, ...], t []) to [B, ...].
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

Denoiser = Callable[[Tensor, Tensor], Tensor]
Noise = Callable[[Tensor], Tensor]
"""Draws noise in the shape of a tensor."""


class Schedule(ABC):
    """How much data and how much noise there is at each time."""

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor: ...

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor: ...

    @abstractmethod
    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return dα/dt and dσ/dt."""

    def noised(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return x_t."""
        return self.alpha(t) * x_0 + self.sigma(t) * noise

    def velocity(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return v_t."""
        alpha_rate, sigma_rate = self.rates(t)
        return alpha_rate * x_0 + sigma_rate * noise

    def noise_of(self, x_t: Tensor, x_0: Tensor, t: Tensor) -> Tensor:
        """Return the ε that leads from x_0 to x_t."""
        return (x_t - self.alpha(t) * x_0) / self.sigma(t)

    def data_of_noise(self, x_t: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return the x_0 that ε leads to x_t from."""
        return (x_t - self.sigma(t) * noise) / self.alpha(t)

    def data_of_velocity(self, x_t: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
        """Return the x_0 of x_t and v_t, which determine it with ε."""
        alpha, sigma = self.alpha(t), self.sigma(t)
        alpha_rate, sigma_rate = self.rates(t)
        x_0: Tensor = (sigma_rate * x_t - sigma * velocity) / (
            sigma_rate * alpha - sigma * alpha_rate
        )
        return x_0


class Rectified(Schedule):
    """The straight path: α = 1 - t, σ = t, v = ε - x_0 (Liu et al. 2022, arXiv:2209.03003;
    Lipman et al. 2022, arXiv:2210.02747).
    """

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return -torch.ones_like(t), torch.ones_like(t)


class Cosine(Schedule):
    """DDPM's path with the cosine schedule: α = cos θt, σ = sin θt, so that the variance
    stays what it is (Nichol and Dhariwal 2021, arXiv:2102.09672).
    """

    ANGLE = math.acos(0.01)
    """θ: a hundredth of the data is left at t = 1, so that ε alone determines it."""

    def alpha(self, t: Tensor) -> Tensor:
        return torch.cos(self.ANGLE * t)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(self.ANGLE * t)

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return -self.ANGLE * self.sigma(t), self.ANGLE * self.alpha(t)


SCHEDULES: dict[str, Schedule] = {"rectified": Rectified(), "cosine": Cosine()}


@dataclass(frozen=True)
class Guidance:
    """Follow a condition more closely than training does: D_u + w (D_c - D_u).

    Classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598), within an interval
    of times (Kynkäänniemi et al. 2024, arXiv:2404.07724); outside of it D_c alone.
    """

    conditional: Denoiser
    unconditional: Denoiser
    scale: float
    """w; 1 is D_c alone, and costs one evaluation instead of two."""
    start: float = 0.0
    """Share of the way from noise to data after which guidance begins."""
    stop: float = 1.0
    """Share of that way after which it ends."""

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        conditional = self.conditional(x, t)
        done = 1 - float(t)
        if self.scale == 1 or not self.start <= done < self.stop:
            return conditional
        unconditional = self.unconditional(x, t)
        return torch.lerp(unconditional, conditional, self.scale)


@dataclass(frozen=True)
class Kept:
    """A denoiser that knows a part of the picture: outside the mask it is `source`.

    What is known then leaves the noise it began with along its exact path, at each time
    as noisy as the rest, and ends as it is given (cf. Lugmayr et al. 2022,
    arXiv:2201.09865, who draw its noise anew in each step).
    """

    denoise: Denoiser
    source: Tensor
    """[B, C, H, W]."""
    mask: Tensor
    """[1 or B, 1, H, W] in [0, 1]: 1 is painted anew, 0 is kept."""

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.lerp(self.source, self.denoise(x, t), self.mask)


class Sampler(ABC):
    """Takes noise away step by step.

    Args:
        denoise: D.
        schedule: that D was trained for.
        noise: draws noise, for samplers that add some.
    """

    stochastic = False
    """Whether a picture depends on noise beside that which it begins with."""

    def __init__(
        self, denoise: Denoiser, schedule: Schedule, noise: Noise = torch.randn_like
    ) -> None:
        self.denoise = denoise
        self.schedule = schedule
        self.noise = noise

    @abstractmethod
    def step(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Return x_s of x_t, s < t."""

    def sample(self, x: Tensor, times: Tensor) -> Tensor:
        """Return x at the last of falling times [steps + 1], of x at the first."""
        for t, s in pairwise(times):
            x = self.step(x, t, s)
        return x

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """Return v_t as the denoiser sees it; t > 0."""
        x_0 = self.denoise(x, t)
        noise = self.schedule.noise_of(x, x_0, t)
        return self.schedule.velocity(x_0, noise, t)


class Euler(Sampler):
    """x_s = x_t + (s - t) v_t."""

    def step(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return x + (s - t) * self.velocity(x, t)


class Heun(Sampler):
    """Euler's step, then the mean of the velocities at both of its ends: two evaluations
    a step but the last (Karras et al. 2022, arXiv:2206.00364, algorithm 1).
    """

    def step(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        before = self.velocity(x, t)
        there = x + (s - t) * before
        if s == 0:
            return there
        after = self.velocity(there, s)
        return x + (s - t) * (before + after) / 2


class DDIM(Sampler):
    """x_s = α_s D + σ_s ε̂: exact for a denoiser that says the same at all times (Song et
    al. 2020, arXiv:2010.02502). On the straight path it is Euler's step.
    """

    def step(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        x_0 = self.denoise(x, t)
        return self.schedule.noised(x_0, self.schedule.noise_of(x, x_0, t), s)


class DDPM(Sampler):
    """A draw of q(x_s | x_t, x_0 = D), which adds noise in each step but the last (Ho et
    al. 2020, arXiv:2006.11239; for any schedule Kingma et al. 2021, arXiv:2107.00630).
    """

    stochastic = True

    def step(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        schedule = self.schedule
        alpha_s, sigma_s = schedule.alpha(s), schedule.sigma(s)
        ratio = schedule.alpha(t) / alpha_s
        variance_t = schedule.sigma(t).square()
        added = variance_t - ratio.square() * sigma_s.square()
        x_0 = self.denoise(x, t)
        mean = ratio * sigma_s.square() * x + alpha_s * added * x_0
        deviation = sigma_s * (added / variance_t).clamp(min=0).sqrt()
        return mean / variance_t + deviation * self.noise(x)


class DPMSolver(Sampler):
    """DPM-Solver++(2M): the denoiser's last two answers, continued in λ = log α/σ (Lu et
    al. 2022, arXiv:2211.01095, algorithm 2). One evaluation a step.

    Where λ is infinite, at pure noise and at the data, one answer serves.
    """

    def __init__(
        self, denoise: Denoiser, schedule: Schedule, noise: Noise = torch.randn_like
    ) -> None:
        super().__init__(denoise, schedule, noise)
        self._last: tuple[Tensor, Tensor] | None = None

    def step(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        schedule = self.schedule
        x_0 = self.denoise(x, t)
        width = self._log_ratio(s) - self._log_ratio(t)
        continued = x_0
        if self._last is not None and torch.isfinite(width):
            before, answer = self._last
            share = width / (2 * (self._log_ratio(t) - before))
            continued = x_0 + share * (x_0 - answer)
        self._last = (self._log_ratio(t), x_0)
        kept = schedule.sigma(s) / schedule.sigma(t)
        return kept * x - schedule.alpha(s) * torch.expm1(-width) * continued

    def _log_ratio(self, t: Tensor) -> Tensor:
        return (self.schedule.alpha(t) / self.schedule.sigma(t)).log()


SAMPLERS: dict[str, type[Sampler]] = {
    "heun": Heun,
    "euler": Euler,
    "dpm++ 2m": DPMSolver,
    "ddim": DDIM,
    "ddpm": DDPM,
}


def times(steps: int, begin: float = 1.0) -> Tensor:
    """Return evenly falling times from `begin` to 0, [steps + 1]."""
    return torch.linspace(begin, 0, steps + 1)
