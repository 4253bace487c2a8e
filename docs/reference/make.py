"""Writes docs/reference/commands.md from the verbs' own help; `--check` only says
whether it is up to date.
"""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

from miaobi import cli
from miaobi.core.config import Option, further, options, usage
from miaobi.families import families
from miaobi.tune.tasks import tasks
from miaobi.verbs.finetune.settings import SHORT_OPTIONS, options_of
from miaobi.verbs.train import recipe_options

PAGE = Path(__file__).with_name("commands.md")


def page() -> str:
    parts = [
        "# Commands",
        "",
        "Written by `make docs` from the code; do not edit.",
        "",
        *block(cli.overview()),
    ]
    for name, verb in cli.VERBS.items():
        function = EntryPoint(name, verb.function, "").load()
        own = options(function)
        parts += [
            "",
            f"## miaobi {name}",
            "",
            *block(usage(f"miaobi {name}", verb.english, own)),
        ]
        if name == "train":
            parts += _families()
        elif name == "finetune":
            parts += _tasks()
        elif note := further(function, ()).note:
            parts += ["", note]
    return "\n".join(parts) + "\n"


def block(text: str) -> list[str]:
    return ["```", text, "```"]


def listed(opts: list[Option]) -> list[str]:
    """A block with these options; nothing where there are none."""
    text = usage("", "", opts).strip().removeprefix("[--option value ...]").strip("\n")
    return ["", *block(text)] if text else []


def _families() -> list[str]:
    parts = [
        "",
        "Every key of the recipe is an option too; which there are depends on its family.",
    ]
    for name in families.names():
        parts += ["", f"### family {name}"]
        parts += listed(recipe_options(families.get(name)))
    return parts


def _tasks() -> list[str]:
    parts = [
        "",
        "Every key of the recipe is an option too; its head depends on the task.",
    ]
    parts += listed([*SHORT_OPTIONS, *options_of(None)])
    for name in tasks.names():
        task = tasks.get(name)
        parts += [
            "",
            f"### task {name}",
            "",
            f"{task.SUMMARY[0].capitalize()}. A record: `{task.EXAMPLE}`",
        ]
        parts += listed(options(task.Config, "head."))
    return parts


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(
            0
            if PAGE.exists() and PAGE.read_text(encoding="utf-8") == page()
            else "docs/reference/commands.md is out of date: make docs"
        )
    PAGE.write_text(page(), encoding="utf-8")
