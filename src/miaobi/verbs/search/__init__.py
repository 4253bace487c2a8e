"""Search for better settings: many short runs of one recipe, hopeless ones stopped
early, and at the end what mattered.

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
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from miaobi.core import config, machine
from miaobi.core.config import Further, FurtherOptions, flat
from miaobi.core.errors import BadInput, MiaobiError, MissingPart
from miaobi.core.language import say
from miaobi.verbs import train
from miaobi.verbs.search.options import Options
from miaobi.verbs.search.result import Planned, Searched
from miaobi.verbs.train import need_torch

if TYPE_CHECKING:
    from miaobi.train.search import Search
    from miaobi.verbs.search.job import Job

HOPELESS_TRIALS = 3
"""Failed trials at the beginning that end a search: the recipe is wrong, not the settings."""
INTERRUPTED = 130
"""Exit code of a process that Ctrl-C ended."""


def further_options(argv: Sequence[str]) -> FurtherOptions:
    """Return every key of the recipe that the command line names."""
    decisive = config.parse(argv, [*config.options(command), train.FAMILY], others=True)
    if decisive.get("resume"):
        return FurtherOptions("", [])
    if not decisive.get("recipe"):
        note = say(
            "Keys of the recipe may be set too, as for `miaobi train` and `miaobi finetune`.",
            "也可给出配方中的设置，用法同 miaobi train 与 miaobi finetune。",
        )
        return FurtherOptions(note, [])
    recipe, origin = config.read_recipe(decisive["recipe"]), decisive["recipe"]
    if recipe.get("family") or decisive.get("family"):
        return train.recipe_keys(recipe, decisive, origin)
    from miaobi.verbs import finetune
    from miaobi.verbs.finetune.settings import SHORT_OPTIONS, options_of

    deciding_options = [*config.options(command), *SHORT_OPTIONS, *options_of(None)]
    decisive = config.parse(argv, deciding_options, others=True)
    return finetune.recipe_keys(recipe, decisive, origin, argv)


def command(
    recipe: str | None = None,
    *,
    resume_: str | None = None,
    options: Annotated[Options, flat],
    settings: Annotated[Mapping[str, Any], Further(further_options)],
) -> Searched | Planned:
    """Search for better settings of a recipe, whose keys are options too.

    Args:
        recipe: A recipe for `miaobi train` or `miaobi finetune`; its section `search` names what may vary.
        resume_: Continue a search, or join it from another process: its folder, or the beginning of its name.
        options: How to search.
        settings: Keys of the recipe.
    """
    if resume_:
        return resume(
            resume_,
            trials=options.trials,
            patience=options.patience,
            workers=options.workers,
            runs=options.runs,
        )
    if not recipe:
        raise BadInput(
            say("Which recipe?", "用哪个配方？"),
            "miaobi search recipes/text/poet_gpt.yaml --trials 6 --metric validation",
        )
    return _search(config.read_recipe(recipe), settings, options, recipe)


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
        trials: number of trials
        metric: "validation", or a metric of the task
        minutes: time limit of a trial
        space: what may vary, instead of the recipe's `search` section
        settings: dotted keys over the recipe, such as {"train.max_steps": 50}
        name: of the search
        workers: processes side by side
        patience: trials without an improvement after which it ends
        prune: stop hopeless trials
        seed: decides the settings that are drawn
        runs: folder of the runs
        quiet: no progress
    """
    if isinstance(recipe, Mapping):
        tree, origin = dict(recipe), ""
    else:
        tree, origin = config.read_recipe(recipe), str(recipe)
    if space is not None:
        tree["search"] = dict(space)
    options = config.make(
        Options,
        {
            "trials": trials,
            "metric": metric,
            "minutes": minutes,
            "workers": workers,
            "patience": patience,
            "prune": prune,
            "search_seed": seed,
            "name": name,
            "runs": str(runs),
        },
    )
    result = _search(tree, settings or {}, options, origin, quiet)
    assert isinstance(result, Searched)
    return result


def resume(
    search: str | Path,
    *,
    trials: int | None = None,
    patience: int | None = None,
    workers: int = 1,
    runs: str | Path = "runs",
    quiet: bool = False,
) -> Searched:
    """Continue a search that was stopped, or join one that is running.

    Args:
        search: its folder, its name, or the beginning of its name
        trials: another number of trials
        patience: another patience
        workers: processes side by side
        runs: folder of the runs
        quiet: no progress
    """
    need_parts()
    from miaobi.verbs.search.job import Job, find_folder

    options = config.make(
        Options, {"trials": trials, "patience": patience, "workers": workers}
    )
    folder = find_folder(str(search), Path(runs))
    job = Job.read(folder)
    rules = job.rules
    if options.trials is not None:
        rules = replace(rules, trials=options.trials)
    if options.patience is not None:
        rules = replace(rules, patience=options.patience)
    if rules != job.rules:
        job = replace(job, rules=rules)
        job.write(folder)
    return _work(job, folder, options.workers, quiet)


def need_parts() -> None:
    """Raise MissingPart where torch or Optuna is not installed."""
    need_torch()
    if find_spec("optuna") is None:
        raise MissingPart(
            say(
                "Searching needs Optuna, which is not installed.",
                "搜索需要 Optuna，目前未安装。",
            ),
            "pip install 'miaobi[search]'",
        )


def _search(
    recipe: Mapping[str, Any],
    overrides: Mapping[str, Any],
    options: Options,
    origin: str,
    quiet: bool = False,
) -> Searched | Planned:
    """Plan a search and run it; a dry run stops after the plan."""
    need_parts()
    _check_alone()
    from miaobi.verbs.search.job import new_folder
    from miaobi.verbs.search.plan import plan

    job = plan(recipe, overrides, options, origin)
    planned = Planned(
        job.name,
        job.metric,
        job.rules.direction,
        job.rules.trials,
        job.steps,
        job.seconds * job.rules.trials / options.workers,
        {item.key: str(item) for item in job.space},
    )
    if options.dry_run:
        return planned
    folder = new_folder(job.name, options.runs)
    job.write(folder)
    if not quiet:
        print(planned, file=sys.stderr)
    return _work(job, folder, options.workers, quiet)


def _check_alone() -> None:
    """Raise BadInput under torchrun."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise BadInput(
            say(
                "A search does not run under torchrun.", "搜索不能在 torchrun 下运行。"
            ),
            say(
                "Start it alone, with --workers N.", "请直接启动，并使用 --workers N。"
            ),
        )


def _work(job: Job, folder: Path, workers: int, quiet: bool) -> Searched:
    """Run trials until the search ends. The report is written whatever happens."""
    import torch

    from miaobi.train.search import open_search
    from miaobi.verbs.search.report import conclude

    threads_before = torch.get_num_threads()
    threads = max((os.cpu_count() or 1) // workers, 1)
    if workers > 1:
        torch.set_num_threads(min(threads, threads_before))
    with open_search(folder, job.space, job.fixed, job.rules, job.name) as study:
        try:
            with _other_workers(folder, workers - 1, threads):
                _run_trials(job, study, folder, quiet)
            return conclude(job, study, folder)
        except KeyboardInterrupt:
            conclude(job, study, folder)
            page = folder / "report.html"
            print(
                say(
                    f"Stopped; the results so far are in {page}. "
                    f"Continue with: miaobi search --resume {folder}",
                    f"已停止；结果见 {page}。继续：miaobi search --resume {folder}",
                ),
                file=sys.stderr,
            )
            raise
        finally:
            torch.set_num_threads(threads_before)


@contextmanager
def _other_workers(folder: Path, count: int, threads: int) -> Iterator[None]:
    """Run other processes on the same search meanwhile.

    Ctrl-C reaches each of them once, so that it stops between two steps.
    """
    threads_setting = os.environ.get("OMP_NUM_THREADS", str(threads))
    environment = {**os.environ, "OMP_NUM_THREADS": threads_setting}
    argv = [sys.executable, "-m", "miaobi.cli", "search", "--resume", str(folder)]
    logs = [folder / f"worker-{number}.log" for number in range(2, count + 2)]
    with ExitStack() as stack:
        processes = [
            subprocess.Popen(
                argv,
                stdout=subprocess.DEVNULL,
                stderr=stack.enter_context(log.open("wb")),
                env=environment,
                **machine.own_group(),
            )
            for log in logs
        ]
        try:
            yield
        except BaseException:
            for process in processes:
                with suppress(ProcessLookupError):
                    machine.interrupt_group(process.pid)
            raise
        finally:
            for number, (process, log) in enumerate(
                zip(processes, logs, strict=True), 2
            ):
                if process.wait() not in (0, INTERRUPTED):
                    print(
                        say(
                            f"Worker {number} ended with an error: {log}",
                            f"第 {number} 个进程出错：{log}",
                        ),
                        file=sys.stderr,
                    )


def _run_trials(job: Job, study: Search, folder: Path, quiet: bool) -> None:
    import optuna

    from miaobi.verbs.search import trial as trials
    from miaobi.verbs.search.report import conclude, trial_summary

    while (trial := study.ask()) is not None:
        try:
            value = trials.run_trial(job, trial, folder)
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
            _raise_if_hopeless(study, error)
        # Modules of a model refer to each other; the next model needs their memory.
        gc.collect()
        conclude(job, study, folder)
        if not quiet:
            print(trial_summary(job, study, trial), file=sys.stderr, flush=True)


def _raise_if_hopeless(study: Search, error: MiaobiError) -> None:
    """Raise the error of a failed trial where the recipe itself is wrong."""
    ended = [trial for trial in study.trials if trial.state.is_finished()]
    failed = [trial for trial in ended if "error" in trial.user_attrs]
    if len(failed) < len(ended):
        return
    recipe_failed = any(trial.number == 0 for trial in failed)
    if recipe_failed or len(ended) >= HOPELESS_TRIALS:
        raise error
