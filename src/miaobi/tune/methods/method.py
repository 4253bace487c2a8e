"""The contract of a method: what the files beside this one implement."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from miaobi.tune.config import TuneConfig
from miaobi.tune.learner import Learner


class Method(NamedTuple):
    """A way to tune."""

    summary: tuple[str, str]
    """In English and in Chinese."""
    apply: Callable[[Learner, TuneConfig], None]
    """Wrap or freeze the net in place."""
    save: Callable[[Learner, Path], None]
    """Write the weights that belong to the method into a folder."""
    load: Callable[[Learner, TuneConfig, Path], None]
    """Read what `save` wrote into a net that is as the base is."""
    adapter: bool = True
    """Whether only the additions are saved, for a base that lies elsewhere."""
