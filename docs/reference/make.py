"""Writes docs/reference/commands.md from the verbs' own help; `--check` only says
whether it is up to date.
"""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

from miaobi import cli
from miaobi.core.config import options, usage
from miaobi.families import families

PAGE = Path(__file__).with_name("commands.md")


def page() -> str:
    parts = [
        "# Commands",
        "",
        "Written by `make docs` from the code; do not edit.",
        "",
        "```",
        cli.overview(),
        "```",
    ]
    for name, verb in cli.VERBS.items():
        if name in cli.RAW:
            continue
        function = EntryPoint(name, verb.function, "").load()
        parts += [
            "",
            f"## miaobi {name}",
            "",
            "```",
            usage(f"miaobi {name}", verb.english, options(function)),
            "```",
        ]
    from miaobi.verbs.train import recipe_options

    parts += [
        "",
        "## miaobi train",
        "",
        "`miaobi train RECIPE [--resume RUN] [--dry-run] [--print-config] [--runs DIR]`, and every key of the recipe:",
    ]
    for family in families.names():
        parts += [
            "",
            f"### family {family}",
            "",
            "```",
            usage("", "", recipe_options(families.get(family))).strip(),
            "```",
        ]
    return "\n".join([*parts, *_finetune(), *_search()]) + "\n"


def _finetune() -> list[str]:
    from miaobi.tune.tasks import tasks
    from miaobi.verbs.finetune import OWN
    from miaobi.verbs.finetune.settings import options_of

    common = [
        option
        for option in options_of(tasks.get("chat"))
        if not option.key.startswith("head.")
    ]
    parts = [
        "",
        "## miaobi finetune",
        "",
        "```",
        usage(
            "miaobi finetune",
            "Tune a pretrained model on labelled examples.",
            [*OWN, *common],
        ),
        "```",
    ]
    for name in tasks.names():
        task = tasks.get(name)
        parts += [
            "",
            f"### task {name}",
            "",
            f"{task.SUMMARY[0].capitalize()}. A record: `{task.EXAMPLE}`",
        ]
        head = usage("", "", options(task.Config, "head.")).strip()
        parts += (
            ["", "```", head.removeprefix("[--option value ...]").strip(), "```"]
            if head
            else []
        )
    return parts


def _search() -> list[str]:
    from miaobi.verbs.search import OWN

    return [
        "",
        "## miaobi search",
        "",
        "```",
        usage(
            "miaobi search",
            "Search for better settings of a recipe, whose keys may be given too.",
            OWN,
        ),
        "```",
    ]


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(
            0
            if PAGE.exists() and PAGE.read_text(encoding="utf-8") == page()
            else "docs/reference/commands.md is out of date: make docs"
        )
    PAGE.write_text(page(), encoding="utf-8")
