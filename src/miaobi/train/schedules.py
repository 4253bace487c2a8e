"""Learning-rate schedules: a multiplier of the peak rate as a function of the part of
the run that is done.

Cosine: Loshchilov & Hutter 2017 (arXiv:1608.03983). Warm-up–stable–decay: Hu et al.
2024 (arXiv:2404.06395).
"""

import math

from miaobi.train.config import TrainConfig


def multiplier(config: TrainConfig, step: int) -> float:
    """Return the multiplier of the peak rate at `step` (0-based).

    Warm-up rises to 1; the decay ends at config.final_learning_rate.
    """
    warmup = round(config.warmup * config.max_steps)
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(config.max_steps - warmup, 1)
    final = config.final_learning_rate
    return final + (1 - final) * _shape(config, done)


def _shape(config: TrainConfig, done: float) -> float:
    """1 at the end of warm-up (done = 0), 0 at the end of the run (done = 1), but for
    `constant`.
    """
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    if config.schedule == "linear":
        return 1 - done
    if config.schedule == "wsd":
        if not config.decay:
            return 1.0
        return min(1.0, (1 - done) * (1 - config.warmup) / config.decay)
    return 1.0
