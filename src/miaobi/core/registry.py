"""The whole plug-in contract: a name leads to an object in a module that is imported
when it is first used.

Built-in things and those of other packages are registered alike. The table of each
kind stands in the package that holds the things (`families/__init__.py`,
`engines/__init__.py`, ...), typed by their protocol. Another package adds an entry in
its pyproject.toml:

    [project.entry-points."miaobi.families"]
    diffusion_lm = "their_package.diffusion_lm"
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar, cast

from miaobi.core.errors import NotFound, nearest
from miaobi.core.language import say

T = TypeVar("T")


class Registry(Generic[T]):
    """Names of one kind of thing; `T` is what each name leads to.

    Args:
        kind: the plural of the kind; entry points have the group "miaobi.KIND".
        built_in: name -> "module" or "module:object"; `built_in` keeps its order.
    """

    def __init__(self, kind: str, built_in: Mapping[str, str]) -> None:
        self.kind = kind
        self.group = f"miaobi.{kind}"
        self._built_in = built_in

    @cached_property
    def _entries(self) -> dict[str, EntryPoint]:
        """Name -> entry point. Built-in ones come last: no other package can replace them."""
        entries = {entry.name: entry for entry in entry_points(group=self.group)}
        for name, value in self._built_in.items():
            entries[name] = EntryPoint(name, value, self.group)
        return entries

    def names(self) -> list[str]:
        return sorted(self._entries)

    def built_in(self) -> list[str]:
        """Return the names of this package, in the order of their table."""
        return list(self._built_in)

    def added(self) -> list[str]:
        """Return the names of other packages, sorted."""
        return [name for name in self.names() if name not in self._built_in]

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def get(self, name: str, within: str = "") -> T:
        """Return the object registered under `name`.

        Args:
            name: is looked up without the part that `within` names.
            within: what all names in question begin with, such as "image/".

        Raises NotFound with the nearest names.
        """
        entries = {
            full.removeprefix(within): entry
            for full, entry in self._entries.items()
            if full.startswith(within)
        }
        if name not in entries:
            raise NotFound(
                say(
                    f"There is no {name!r} among the {self.kind}.",
                    f"{self.kind} 中没有 {name!r}。",
                ),
                nearest(name, entries),
            )
        return cast("T", load_entry_point(entries[name]))


def load_entry_point(entry: EntryPoint) -> Any:
    """Return the object that an entry point names; Ctrl-C takes effect after the import.

    An interrupt inside the first import of PyTorch or NumPy is swallowed there, or
    aborts the process, and what was half imported fails later, somewhere else.
    """
    if threading.current_thread() is not threading.main_thread():
        return entry.load()  # only the main thread handles signals
    interrupts = list[int]()
    handler = signal.signal(
        signal.SIGINT, lambda number, frame: interrupts.append(number)
    )
    try:
        return entry.load()
    finally:
        # None: the handler was not installed from Python.
        signal.signal(signal.SIGINT, signal.SIG_DFL if handler is None else handler)
        if interrupts:
            signal.raise_signal(signal.SIGINT)
