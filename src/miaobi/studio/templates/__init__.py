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
from miaobi.core.quantities import format_duration, format_size
from miaobi.provenance.label import NOTICE
from miaobi.studio import navigation, static
from miaobi.studio.pages import pages
from miaobi.studio.uses import use_of


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
        use_of=use_of,
    )
    made.filters.update(
        size=format_size,
        number=number,
        iso=iso,
        moment=moment,
        duration=format_duration,
    )
    return made


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
