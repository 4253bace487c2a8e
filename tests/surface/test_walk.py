"""Every command of the README and the guides is run, page by page and in order, in an
empty folder; or it is declared here, with the reason why it cannot be.

Trainings are shortened to a few steps (SHORTENED), nothing else is changed. What needs
no model runs in every `make test` (QUICK), whole pages are slow.
"""

from __future__ import annotations

import io
import re
import shlex
from pathlib import Path

import pytest

from miaobi import cli

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "README.zh-CN.md",
    *sorted((ROOT / "docs" / "guides").glob("*.md")),
]
pages = pytest.mark.parametrize(
    "page", PAGES, ids=lambda page: str(page.relative_to(ROOT))
)

DECLARED = {
    r"make quickstart": "tests/verbs/test_quickstart.py runs it",
    r"pip install": "tests/surface/test_wheel.py installs every extra",
    r"curl ": "needs the server of the line before; tests/serve calls these paths",
    r"miaobi serve": "runs until it is stopped; tests/serve starts it",
    r"\./sd-folder|stable-diffusion-v1-5": "needs gigabytes of Stable Diffusion;"
    " tests/engines paints with a small pipeline",
    r"diffusion_lora|my-style": "needs gigabytes of Stable Diffusion",
    r"\./qwen-folder|\./t5-small|\./small --task|\./bare-gpt": "needs a model of yours",
    r"https://example\.org": "needs a server of yours",
    r"inception\.onnx|my-digits|my-faces|\./shoes": "needs files of yours",
    r"seven\.png|two\.png": "needs pictures of digits of yours",
    r"fashion-stylegan": "its training takes an hour",
    r"recipes/tune/distillation": "trains two models: half an hour",
    r"recipes/tune/(zh_en|summaries)": "an hour of training",
    r"miaobi search (?!.*--dry-run)": "many trainings; tests/verbs/test_search.py runs"
    " small ones",
    r"pairs\.jsonl --head\.source": "needs translations of yours",
}
"""Pattern of commands -> why they are not run here."""

SHORTENED = {
    r"train (?!--resume)(?!.*--(dry-run|print-config))": ("--train.max_steps", "4"),
    r"train --resume .*max_steps": ("--train.max_steps", "6"),
    r"train .*poet_gpt": ("--data.max_documents", "3000"),
    r"finetune .*(?<!--dry-run)$": ("--train.max_steps", "2"),
    r"finetune (?!--resume)": ("--report.limit", "4"),
    r"evaluate helpdesk": ("--limit", "4"),
    r"evaluate (digits|mine|poet)": ("--samples", "32"),
}
"""Pattern of commands -> the option that makes them short."""

QUICK = re.compile(
    r"doctor|keys |models list|data (list|sample|inspect)|.*--print-config"
)


def shell_blocks(page: Path) -> list[str]:
    return re.findall(
        r"```(?:console|bash|sh)\n(.*?)```", page.read_text("utf-8"), re.DOTALL
    )


def commands(page: Path) -> list[str]:
    """The commands of a page, without comments, joined where a line goes on."""
    found = list[str]()
    for block in shell_blocks(page):
        joined = block.replace("\\\n", " ")
        for line in joined.splitlines():
            if line.startswith("$ "):
                found.append(re.split(r"\s{2,}#", line)[0].removeprefix("$ ").strip())
    return found


def reason(command: str) -> str | None:
    """Why a command is not run here; None for one that is."""
    for pattern, why in DECLARED.items():
        if re.search(pattern, command):
            return why
    return None


def shortened(command: str) -> list[str]:
    """The arguments after `miaobi`, with the options that make it short."""
    line = command.removeprefix("miaobi ")
    argv = shlex.split(line)
    for pattern, (option, value) in SHORTENED.items():
        if not re.match(pattern, line):
            continue
        if option in argv:
            argv[argv.index(option) + 1] = value
        else:
            argv += [option, value]
    return argv


def walk(
    steps: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for command in steps:
        monkeypatch.setattr("sys.stdin", io.StringIO("Hello\n"))
        status = cli.main(shortened(command))
        shown = capfd.readouterr()
        assert status == 0, f"{command}\n{shown.err[-2000:]}"


def runnable(page: Path) -> list[str]:
    return [command for command in commands(page) if reason(command) is None]


@pages
def test_every_command_is_run_or_declared(page: Path) -> None:
    for command in runnable(page):
        assert command.startswith("miaobi "), f"{page.name}: {command}"


def test_both_readmes_run_the_same_commands() -> None:
    english, chinese = map(runnable, PAGES[:2])
    assert english == chinese


def test_every_declaration_is_needed() -> None:
    every = [command for page in PAGES for command in commands(page)]
    for pattern in DECLARED:
        assert any(re.search(pattern, command) for command in every), pattern


@pages
def test_quick_commands_run(
    page: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    steps = [
        command
        for command in runnable(page)
        if QUICK.match(command.removeprefix("miaobi "))
    ]
    if not steps:
        pytest.skip("no such command on this page")
    monkeypatch.chdir(tmp_path)
    walk(steps, monkeypatch, capfd)


@pytest.mark.slow
@pages
def test_the_whole_page_runs_in_order(
    page: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    steps = runnable(page)
    if not steps:
        pytest.skip("no command on this page")
    monkeypatch.chdir(tmp_path)
    walk(steps, monkeypatch, capfd)
