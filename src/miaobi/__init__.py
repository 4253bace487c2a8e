"""Miaobi (妙笔): from your own data to a generative model, evaluated, labelled, served
and put to work.
"""

from __future__ import annotations

import sys

from miaobi.core.version import __version__

TYPE_CHECKING = False  # type checkers take it as true; importing typing takes longest
if TYPE_CHECKING:
    from typing import Any

    from miaobi.engines.load import load

# Only names that no folder of the package has: `miaobi.train` is the training layer,
# `miaobi.verbs.train.train` trains.
_LAZY = {"load": "miaobi.engines.load"}


def __getattr__(name: str) -> Any:
    """Import a public name when first used: `import miaobi` itself stays light."""
    if name not in _LAZY:
        raise AttributeError(f"module 'miaobi' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(_LAZY[name]), name)
    setattr(sys.modules[__name__], name, value)
    return value


__all__ = ["__version__", "load"]
