"""The macros of page.html.jinja, called from Python. Jinja escapes their arguments."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

Block = str
"""Markup, as the macros return it."""


def render(macro: str, *arguments: Any) -> Block:
    """Return what a macro makes of its arguments."""
    block: Block = getattr(_macros(), macro)(*arguments)
    return block


def read(name: str) -> str:
    """Return the text of a file beside this one."""
    return (files("miaobi.evaluate.page") / name).read_text(encoding="utf-8")


@cache
def _macros() -> Any:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined)
    return environment.from_string(read("page.html.jinja")).module
