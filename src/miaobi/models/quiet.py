"""Silence Diffusers and Transformers while models open. Imports neither by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_diffusers() -> Iterator[None]:
    """Within: no progress bars and no remarks, as about torchvision or about keys that
    a LoRA need not have.

    Importing `models.pipelines` imports Diffusers, which is best done within too.
    """
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    loggings = (transformers_logging, diffusers_logging)
    levels = [logging.get_verbosity() for logging in loggings]
    for logging in loggings:
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    try:
        yield
    finally:
        for logging, level in zip(loggings, levels, strict=True):
            logging.set_verbosity(level)
