"""What the docs show is true: commands are known, python blocks run, the reference is
up to date, files that are named exist.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from miaobi import cli
from miaobi.core.config import options, read_yaml, resolve

ROOT = Path(__file__).parents[2]
PAGES = [
    path
    for path in (
        ROOT / "README.md",
        ROOT / "README.zh-CN.md",
        *sorted((ROOT / "docs").rglob("*.md")),
    )
    if path.name != "commands.md"
]


def commands(page: Path) -> list[str]:
    lines = [
        line
        for shown in re.findall(
            r"```console\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL
        )
        for line in shown.splitlines()
    ]
    return [
        line.removeprefix("$ ").split("  #")[0].strip()
        for line in lines
        if line.startswith("$ miaobi ")
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_are_known(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for command in commands(page):
        words = shlex.split(command)[1:]
        if words[0] == "train":
            from miaobi.verbs import train

            recipe = next((word for word in words[1:] if word.endswith(".yaml")), None)
            assert (
                str(train.command(*words[1:], "--print-config"))
                if recipe
                else "--resume" in words
            )
            continue
        if words[0] == "finetune":
            from miaobi.verbs import finetune

            recipe = any(word.endswith(".yaml") for word in words)
            told = (
                [] if recipe or "--task" in words else ["--task", "chat"]
            )  # else it would look into the data
            assert (
                recipe
                or "--base" in words
                or "--resume" in words
                or "--continue" in words
            )
            assert (
                "--resume" in words
                or "--continue" in words
                or str(finetune.command(*words[1:], *told, "--print-config"))
            )
            continue
        if words[0] == "search":
            from miaobi.verbs import search
            from miaobi.verbs.search import plan as search_plan
            from miaobi.verbs.train import split_argv

            mine, theirs = split_argv(
                tuple(words[1:]), {option.key: option for option in search.OWN}
            )
            values = resolve(search.OWN, mine)
            assert values["resume"] or search_plan.resolve_recipe(
                read_yaml(Path(values["recipe"])), theirs, values["recipe"]
            )
            continue
        name, rest = cli.find(words)
        opts = options(EntryPoint(name, cli.VERBS[name].function, "").load())
        assert len(resolve(opts, [word for word in rest if word != "--json"])) == len(
            opts
        )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(
        r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")
    ):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_runs(page: Path, smollm2: Path, tmp_path: Path) -> None:
    blocks = re.findall(
        r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL
    )
    if not blocks:
        pytest.skip("no python on this page")
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_reference_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "reference" / "make.py"), "--check"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
