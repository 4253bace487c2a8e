"""Search for better settings: many short runs of one recipe, the hopeless ones stopped
early, what mattered told at the end.

    runs/search-reviews/
      search.json       what is searched; `miaobi search --resume` needs nothing else
      study.db          Optuna's study, in SQLite: other processes may join at any time
      reviews-000/ ...  each trial, an ordinary run
      report.json, report.html
      best.yaml         the recipe with the best settings

Trials are measured on validation examples; the test is left for `miaobi finetune` on
the best recipe.
"""

from __future__ import annotations

import gc
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from miaobi.core import config
from miaobi.core.config import Option
from miaobi.core.errors import (
    BadInput,
    Conflict,
    MiaobiError,
    MissingPart,
    NotFound,
    nearest,
)
from miaobi.core.language import say
from miaobi.verbs.train import need_torch, split_argv

OWN = [
    Option(
        "recipe",
        str | None,
        None,
        "A recipe for `miaobi train` or `miaobi finetune`; its section `search` names what may vary.",
        positional=True,
    ),
    Option("trials", int | None, None, "Runs to make; 20 unless told otherwise."),
    Option(
        "metric",
        str | None,
        None,
        "What trials are compared by on the validation data: validation (the "
        "loss), or a figure of the task, such as f1.",
    ),
    Option(
        "minutes",
        float | None,
        None,
        "What a trial may take. Otherwise it gets --train.max_steps, or a quarter of the recipe's steps.",
    ),
    Option(
        "workers",
        int,
        1,
        "Processes that carry out trials side by side; they share the processor's cores.",
    ),
    Option(
        "patience",
        int | None,
        None,
        "End after so many trials without an improvement; half of the trials, at least 6, unless told otherwise.",
    ),
    Option(
        "prune",
        bool,
        True,
        "Stop trials whose validations are worse than the median's.",
    ),
    Option("search_seed", int, 0, "Decides the settings that are drawn."),
    Option(
        "resume",
        str | None,
        None,
        "Go on with a search, or join it from another process: its folder, or the start of its name.",
    ),
    Option("name", str | None, None, "Of the search: its folder is RUNS/search-NAME."),
    Option("dry_run", bool, False, "Show the space and what it would cost, and stop."),
    Option("runs", str, "runs", "Where runs are kept."),
]
TRIALS = 20
SHARE = 0.25
"""Of the recipe's steps, for a trial, where neither --minutes nor --train.max_steps is given."""
HOPELESS = 3
"""Failed trials at the start that end a search: it is the recipe, not the settings."""


@dataclass(frozen=True)
class Planned:
    """What a dry run answers."""

    name: str
    metric: str
    direction: str
    trials: int
    steps: int
    seconds: float
    """Of all trials, were none stopped early."""
    space: Mapping[str, str]

    def __str__(self) -> str:
        from miaobi.train.estimate import format_duration

        width = max(map(len, self.space))
        rows = [f"  {key:<{width}}  {shown}" for key, shown in self.space.items()]
        wanted = (
            say("lower", "越低越好")
            if self.direction == "minimize"
            else say("higher", "越高越好")
        )
        return "\n".join(
            [
                say(
                    f"{self.name}: {self.trials} trials of about {self.steps} "
                    f"steps, by {self.metric} ({wanted} is better). At most "
                    f"{format_duration(self.seconds)}.",
                    f"{self.name}：{self.trials} 次试验，每次约 {self.steps} "
                    f"步，指标 {self.metric}（{wanted}）。最多 "
                    f"{format_duration(self.seconds)}。",
                ),
                *rows,
            ]
        )


@dataclass(frozen=True)
class Searched:
    name: str
    folder: Path
    metric: str
    value: float | None
    """The best trial's; None when none came to a figure."""
    first: float | None
    """The recipe's own."""
    settings: Mapping[str, Any]
    trials: int
    stopped_early: int
    failed: int
    ended: str
    """Why; empty when it was interrupted."""
    report: Path
    best: Path | None
    command: str

    def __str__(self) -> str:
        counted = say(
            f"{self.trials} trials ({self.stopped_early} stopped early, {self.failed} failed)",
            f"{self.trials} 次试验（提前停止 {self.stopped_early}，失败 {self.failed}）",
        )
        lines = [f"{self.name}: {counted}" + (f"; {self.ended}" if self.ended else "")]
        if self.value is not None:
            own = (
                say(
                    f"; the recipe itself: {self.first:.4g}",
                    f"；原配方：{self.first:.4g}",
                )
                if self.first is not None
                else ""
            )
            lines += [
                say(
                    f"  best {self.metric}: {self.value:.4g}{own}",
                    f"  最佳 {self.metric}：{self.value:.4g}{own}",
                ),
                *(f"    {key}: {value}" for key, value in self.settings.items()),
                say(f"  next: {self.command}", f"  接下来：{self.command}"),
            ]
        return "\n".join(
            [*lines, say(f"  report: {self.report}", f"  报告：{self.report}")]
        )


def command(*words: str) -> Any:
    """`miaobi search RECIPE [--trials N --metric M --minutes T --workers N] [--resume SEARCH] [--dry-run] [--key value ...]`."""
    mine, theirs = split_argv(words, {option.key: option for option in OWN})
    if "--help" in words or "-h" in words:
        about = say(
            "Search for better settings of a recipe. Keys of the recipe may be "
            "given too, as for `miaobi train` and `miaobi finetune`.",
            "为配方搜索更好的设置。也可给出配方中的设置，用法同 miaobi train 与 miaobi finetune。",
        )
        return config.usage("miaobi search", about, OWN)
    values = config.resolve(OWN, mine)
    if values["resume"]:
        return resume(
            values["resume"],
            trials=values["trials"],
            patience=values["patience"],
            workers=values["workers"],
            runs=values["runs"],
        )
    if not values["recipe"]:
        raise BadInput(
            say("Which recipe?", "用哪个配方？"),
            "miaobi search recipes/text/poet_gpt.yaml --trials 6 --metric validation",
        )
    return _search(
        config.read_recipe(values["recipe"]), theirs, values, values["recipe"]
    )


def search(
    recipe: str | Path | Mapping[str, Any],
    *,
    trials: int | None = None,
    metric: str | None = None,
    minutes: float | None = None,
    space: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    name: str | None = None,
    workers: int = 1,
    patience: int | None = None,
    prune: bool = True,
    seed: int = 0,
    runs: str | Path = "runs",
    quiet: bool = False,
) -> Searched:
    """Search from Python.

    Args:
        recipe: a recipe file, or the same as nested mappings
        trials: runs to make
        metric: "validation", or a figure of the task
        minutes: what a trial may take
        space: what may vary, instead of the recipe's `search` section
        settings: dotted keys over the recipe, such as {"train.max_steps": 50}
        name: of the search
        workers: processes side by side
        patience: trials without an improvement after which it ends
        prune: stop hopeless trials
        seed: decides the settings that are drawn
        runs: where to keep it
        quiet: no progress
    """
    tree = dict(recipe) if isinstance(recipe, Mapping) else config.read_recipe(recipe)
    if space is not None:
        tree["search"] = dict(space)
    words = config.as_argv(settings or {})
    values = {
        "trials": trials,
        "metric": metric,
        "minutes": minutes,
        "workers": workers,
        "patience": patience,
        "prune": prune,
        "search_seed": seed,
        "name": name,
        "dry_run": False,
        "runs": str(runs),
    }
    done = _search(
        tree, words, values, "" if isinstance(recipe, Mapping) else str(recipe), quiet
    )
    assert isinstance(done, Searched)
    return done


def resume(
    search: str | Path,
    *,
    trials: int | None = None,
    patience: int | None = None,
    workers: int = 1,
    runs: str | Path = "runs",
    quiet: bool = False,
) -> Searched:
    """Go on with a search that was stopped, or join one that is running.

    Args:
        search: its folder, its name, or the start of it
        trials: another number of them
        patience: another one
        workers: processes side by side
        runs: where searches are kept
        quiet: no progress
    """
    need_parts()
    from miaobi.verbs.search.trial import Job

    folder = _find(str(search), Path(runs))
    job = Job.read(folder)
    changed = {
        key: value
        for key, value in (("trials", trials), ("patience", patience))
        if value is not None
    }
    if changed:
        job = replace(job, rules=replace(job.rules, **changed))
        job.write(folder)
    return _work(job, folder, workers, quiet)


def folder_of(name: str, runs: str) -> Path:
    """Where a search of this name will be kept. Raises Conflict when there is one already."""
    folder = Path(runs) / f"search-{name}"
    if folder.exists():
        raise Conflict(
            say(
                f"There is a search of this name: {folder}.",
                f"已有同名搜索：{folder}。",
            ),
            say(
                f"Go on with it: miaobi search --resume {folder}; or choose another --name.",
                f"继续它：miaobi search --resume {folder}；或换一个 --name。",
            ),
        )
    return folder


def need_parts() -> None:
    need_torch()
    if find_spec("optuna") is None:
        raise MissingPart(
            say(
                "Searching needs Optuna, which is not installed.",
                "搜索需要 Optuna，目前未安装。",
            ),
            "pip install 'miaobi[search]'",
        )


def _find(name: str, runs: Path) -> Path:
    from miaobi.verbs.search.trial import MANIFEST

    if (Path(name) / MANIFEST).exists():
        return Path(name)
    known = sorted(path.parent for path in runs.glob(f"search-*/{MANIFEST}"))
    found = [path for path in known if path.name.startswith((name, f"search-{name}"))]
    if not found:
        raise NotFound(
            say(
                f"There is no search {name!r} under {runs}.",
                f"{runs} 下没有名为 {name!r} 的搜索。",
            ),
            nearest(name, [path.name for path in known]),
        )
    return found[0]


def _search(
    recipe: Mapping[str, Any],
    words: Sequence[str],
    values: Mapping[str, Any],
    origin: str,
    quiet: bool = False,
) -> Searched | Planned:
    need_parts()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise BadInput(
            say(
                "A search does not run under torchrun.", "搜索不能在 torchrun 下运行。"
            ),
            say(
                "Start it alone, with --workers N.", "请直接启动，并使用 --workers N。"
            ),
        )
    if values["workers"] < 1 or (values["trials"] is not None and values["trials"] < 1):
        raise BadInput(
            say(
                f"--workers is {values['workers']} and --trials {values['trials']}.",
                f"--workers 为 {values['workers']}，--trials 为 {values['trials']}。",
            ),
            say("Give 1 or more.", "至少为 1。"),
        )
    from miaobi.verbs.search.plan import plan

    job = plan(recipe, words, values, origin)
    shown = Planned(
        job.name,
        job.metric,
        job.rules.direction,
        job.rules.trials,
        job.steps,
        job.seconds * job.rules.trials / values["workers"],
        {item.key: str(item) for item in job.space},
    )
    if values["dry_run"]:
        return shown
    folder = folder_of(job.name, values["runs"])
    job.write(folder)
    if not quiet:
        print(shown, file=sys.stderr)
    return _work(job, folder, values["workers"], quiet)


def _work(job: Any, folder: Path, workers: int, quiet: bool) -> Searched:
    """Carry out trials until the search ends. The report is written whatever happens."""
    import torch

    from miaobi.train.search import open_search
    from miaobi.verbs.search.report import conclude

    before, threads = torch.get_num_threads(), max((os.cpu_count() or 1) // workers, 1)
    if workers > 1:
        torch.set_num_threads(min(threads, before))
    with open_search(folder, job.space, job.fixed, job.rules, job.name) as study:
        try:
            with _helpers(folder, workers - 1, threads):
                _trials(job, study, folder, quiet)
            return conclude(job, study, folder)
        except KeyboardInterrupt:
            conclude(job, study, folder)
            print(
                say(
                    f"Stopped; {folder / 'report.html'} shows what was found. "
                    f"Go on with: miaobi search --resume {folder}",
                    f"已停止；结果见 {folder / 'report.html'}。继续：miaobi search --resume {folder}",
                ),
                file=sys.stderr,
            )
            raise
        finally:
            torch.set_num_threads(before)


@contextmanager
def _helpers(folder: Path, count: int, threads: int) -> Iterator[None]:
    """Other processes that work on the same search meanwhile. Ctrl-C reaches them once,
    so that each stops between two steps.
    """
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
    }
    with ExitStack() as stack:
        started = list[subprocess.Popen[bytes]]()
        for number in range(count):
            log = stack.enter_context((folder / f"worker-{number + 2}.log").open("wb"))
            started.append(
                subprocess.Popen(
                    [
                        sys.executable,
                        "-m",
                        "miaobi.cli",
                        "search",
                        "--resume",
                        str(folder),
                    ],
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                    env=environment,
                    start_new_session=True,
                )
            )
        try:
            yield
        except BaseException:
            for process in started:
                process.send_signal(signal.SIGINT)
            raise
        finally:
            for number, process in enumerate(started):
                if process.wait() not in (0, 130):
                    print(
                        say(
                            f"Worker {number + 2} ended with an error: {folder / f'worker-{number + 2}.log'}",
                            f"第 {number + 2} 个进程出错：{folder / f'worker-{number + 2}.log'}",
                        ),
                        file=sys.stderr,
                    )


def _trials(job: Any, study: Any, folder: Path, quiet: bool) -> None:
    import optuna

    from miaobi.verbs.search.report import conclude, line
    from miaobi.verbs.search.trial import carry_out

    while (trial := study.ask()) is not None:
        try:
            value = carry_out(job, trial, folder)
            if math.isfinite(value):
                study.finish(trial, value)
            else:
                study.fail(trial, f"{job.metric}: {value}")
        except KeyboardInterrupt:
            study.give_back(trial)
            raise
        except optuna.TrialPruned:
            study.prune(trial)
        except MiaobiError as error:
            study.fail(trial, str(error))
            _go_on_after(study, error)
        gc.collect()  # a model's modules refer to each other, and the next one needs the room
        conclude(job, study, folder)
        if not quiet:
            print(line(job, study, trial), file=sys.stderr, flush=True)


def _go_on_after(study: Any, error: MiaobiError) -> None:
    """Raise the error of a failed trial where it is the recipe's own fault."""
    over = [trial for trial in study.trials if trial.state.is_finished()]
    failed = [trial for trial in over if "error" in trial.user_attrs]
    if len(failed) == len(over) and (
        len(over) >= HOPELESS or any(trial.number == 0 for trial in failed)
    ):
        raise error
