"""The studio's templates: those here, and those beside each page's module.

A template's name is its file's, with the page's name before it: "jobs/page.html" lies
beside the module of the page "jobs", wherever that package is installed. Everything that
is not marked as HTML is escaped; an undefined name is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from types import ModuleType
from typing import Any, cast

from jinja2 import BaseLoader, Environment, StrictUndefined, TemplateNotFound

from miaobi.core.language import say
from miaobi.provenance.label import NOTICE
from miaobi.studio import navigation, static
from miaobi.studio.pages import pages


class _BesidePages(BaseLoader):
    def get_source(
        self, environment: Environment, template: str
    ) -> tuple[str, str | None, Callable[[], bool] | None]:
        page, _, name = template.rpartition("/")
        package = __name__
        if page:
            module = cast("ModuleType", pages.get(page))
            package = str(module.__package__)
        file = files(package) / name
        if not file.is_file():
            raise TemplateNotFound(template)
        return file.read_text(encoding="utf-8"), str(file), None


def render(template: str, **values: Any) -> str:
    """Return a template with its values, in the language that is spoken."""
    return environment().get_template(template).render(**values)


@cache
def environment() -> Environment:
    made = Environment(
        loader=_BesidePages(),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals.update(
        groups=navigation.groups,
        say=say,
        static=static.address,
        notice=NOTICE,
    )
    made.filters.update(
        size=size,
        number=number,
        iso=iso,
        moment=moment,
        duration=duration,
    )
    return made


def size(count: float) -> str:
    """Return bytes for people: "145 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:.3g} {unit}" if count < 100 else f"{count:.0f} {unit}"


def number(value: float) -> str:
    """Return a number for people: 12,345; 0.1234."""
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:.4g}"


def iso(seconds: float) -> str:
    """Return a time as `<time datetime>` has it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def moment(seconds: float) -> str:
    """Return a time of the server's clock; the browser writes it in its own zone."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def duration(seconds: float) -> str:
    """Return a duration in the spoken language: "2 min 14 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return say(f"{hours} h {minutes} min", f"{hours} 小时 {minutes} 分")
    if minutes:
        return say(f"{minutes} min {rest} s", f"{minutes} 分 {rest} 秒")
    return say(f"{rest} s", f"{rest} 秒")
