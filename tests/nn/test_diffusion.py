"""Schedules, guidance and every sampler, on a distribution whose denoiser is known.

Data N(m, d²) has E[x_0 | x_t] = m + α d² / (α² d² + σ²) (x_t - α m), and the path of
the probability flow from x_1 is x_t = α_t m + r_t / r_1 (x_1 - α_1 m) with
r² = α² d² + σ².
"""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from miaobi.nn.diffusion import (
    SAMPLERS,
    SCHEDULES,
    Euler,
    Guidance,
    Kept,
    Schedule,
    times,
)

MEAN, DEVIATION = 0.4, 0.3
EACH = list(itertools.product(SCHEDULES, SAMPLERS))


def known(schedule: Schedule, mean: float = MEAN):
    """The denoiser of N(mean, DEVIATION²)."""

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        share = alpha * DEVIATION**2 / (alpha**2 * DEVIATION**2 + sigma**2)
        return mean + share * (x - alpha * mean)

    return denoise


def exact(schedule: Schedule, x: Tensor) -> Tensor:
    """Where the flow takes the noise x."""
    one = torch.ones(())
    alpha, sigma = schedule.alpha(one), schedule.sigma(one)
    r = (alpha**2 * DEVIATION**2 + sigma**2).sqrt()
    return MEAN + DEVIATION / r * (x - alpha * MEAN)


def noise(count: int = 20_000) -> Tensor:
    return torch.randn(count, 1, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("schedule", "sampler"), EACH)
def test_the_samples_are_those_of_the_data(schedule: str, sampler: str) -> None:
    path = SCHEDULES[schedule]
    drawn = torch.Generator().manual_seed(1)
    made = SAMPLERS[sampler](
        known(path),
        path,
        lambda like: torch.randn(like.shape, generator=drawn),
    ).sample(noise(), times(60))
    assert abs(made.mean() - MEAN) < 0.02
    assert abs(made.std() - DEVIATION) < 0.03


def error(schedule: str, sampler: str, steps: int) -> float:
    """How far a sampler ends from the exact path, on average."""
    path, x = SCHEDULES[schedule], noise(200)
    made = SAMPLERS[sampler](known(path), path).sample(x, times(steps))
    return float((made - exact(path, x)).abs().mean())


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("sampler", "order"), [("euler", 1), ("ddim", 1), ("heun", 2)])
def test_errors_fall_with_the_steps_by_the_order(
    schedule: str, sampler: str, order: int
) -> None:
    ratio = error(schedule, sampler, 32) / error(schedule, sampler, 64)
    assert ratio == pytest.approx(2**order, rel=0.1)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_two_answers_are_worth_more_than_one(schedule: str) -> None:
    """DPM-Solver++(2M) takes one at both ends, which bounds its order."""
    assert error(schedule, "dpm++ 2m", 32) < 0.2 * error(schedule, "euler", 32)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_noise_velocity_and_data_determine_each_other(schedule: str) -> None:
    path = SCHEDULES[schedule]
    x_0, eps = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(2))
    t = torch.tensor(0.37)
    x_t = path.noised(x_0, eps, t)
    velocity = path.velocity(x_0, eps, t)
    torch.testing.assert_close(path.data_of_velocity(x_t, velocity, t), x_0)
    torch.testing.assert_close(path.data_of_noise(x_t, eps, t), x_0)
    torch.testing.assert_close(path.noise_of(x_t, x_0, t), eps)
    later, sooner = (path.noised(x_0, eps, t + step) for step in (1e-3, -1e-3))
    torch.testing.assert_close((later - sooner) / 2e-3, velocity, atol=1e-3, rtol=1e-3)


def test_ddim_on_the_straight_path_is_euler() -> None:
    path = SCHEDULES["rectified"]
    pictures = [
        SAMPLERS[name](known(path), path).sample(noise(50), times(7))
        for name in ("ddim", "euler")
    ]
    torch.testing.assert_close(*pictures)


def test_euler_takes_the_steps_of_diffusers() -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    path = SCHEDULES["rectified"]
    theirs = FlowMatchEulerDiscreteScheduler()
    theirs.set_timesteps(6)
    x = noise(50)
    ours = Euler(known(path), path).sample(x, theirs.sigmas)
    for time, sigma in zip(theirs.timesteps, theirs.sigmas[:-1], strict=True):
        x_0 = known(path)(x, sigma)
        velocity = (x - x_0) / sigma
        x = theirs.step(velocity, time, x).prev_sample
    torch.testing.assert_close(ours, x)


def test_guidance_moves_away_from_the_unconditional_within_its_interval() -> None:
    path = SCHEDULES["rectified"]
    conditional, unconditional = known(path, 1.0), known(path, 0.0)
    x, half = torch.zeros(3, 1), torch.tensor(0.5)
    near, far = conditional(x, half), unconditional(x, half)
    guided = Guidance(conditional, unconditional, 3.0)(x, half)
    torch.testing.assert_close(guided, far + 3 * (near - far))
    late = Guidance(conditional, unconditional, 3.0, start=0.6)
    torch.testing.assert_close(late(x, half), near)
    asked = list[float]()

    def counted(x: Tensor, t: Tensor) -> Tensor:
        asked.append(float(t))
        return x

    assert torch.equal(Guidance(conditional, counted, 1.0)(x, half), near)
    assert not asked, "a scale of 1 asks the conditional alone"


@pytest.mark.parametrize(("schedule", "sampler"), EACH)
def test_what_is_kept_ends_as_it_is_given(schedule: str, sampler: str) -> None:
    path = SCHEDULES[schedule]
    source = torch.linspace(-1, 1, 16).view(1, 1, 4, 4).expand(8, -1, -1, -1)
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :2] = 1
    x = torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(3))
    kept = Kept(known(path), source, mask)
    made = SAMPLERS[sampler](kept, path).sample(x, times(8))
    straight = schedule == "rectified" or sampler not in ("euler", "heun")
    error = (made - source)[..., 2:].abs().max()
    assert error < (1e-5 if straight else 0.05)
    assert (made[..., :2] - source[..., :2]).abs().mean() > 0.1
