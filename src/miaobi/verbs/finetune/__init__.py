"""Fine-tune a pretrained model in five steps: base and data; task, head and loss; how
it is changed; training; test against the base.

runs/helpdesk-20261122-101500/
  config.yaml         the resolved settings; `miaobi finetune --resume` needs nothing else
  log.jsonl, checkpoints/, samples/, tensorboard/
  base.json           how the base did on the test
  before.json         which tuned model is tuned again, where one is
  report.json, report.html
  bundle/             the tuned model, as it went into the store
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from miaobi.core import bundle, config, storage
from miaobi.core.config import Further, FurtherOptions
from miaobi.core.errors import BadInput
from miaobi.core.files import write_text
from miaobi.core.language import in_each, say
from miaobi.core.requests import request_for
from miaobi.core.storage import Location, Url
from miaobi.core.store import Store, Version
from miaobi.models.fresh import NEW
from miaobi.verbs.train import (
    RUNS,
    Plan,
    Printed,
    check_resumed,
    describe_validation,
    find_run_folder,
    is_first_process,
    need_torch,
    validation_metrics,
)

if TYPE_CHECKING:
    from miaobi.evaluate.compare import Difference
    from miaobi.train.loop import State
    from miaobi.verbs.finetune.outcome import Outcome
    from miaobi.verbs.finetune.settings import Settings
    from miaobi.verbs.finetune.work import Work

DERIVED_KEYS = ("max_steps", "validate_every", "checkpoint_every", "sample_every")
"""Of the train section: derived anew when a tuned model is tuned again."""


@dataclass(frozen=True)
class Tuned:
    """A finished run."""

    model: str
    """Name and version in the store."""
    bundle: Path
    run: Path
    report: Path
    step: int
    seconds: float
    validation_loss: float | None
    """None where no example was held out for validation."""
    differences: tuple[Difference, ...]
    """Tuned against base on the test, one for each metric."""
    promoted: bool = False
    makes: str = "text"
    modality: str = "text"
    """Of its input."""
    ask: str = "--prompt ..."
    """The options of `miaobi generate` that a question needs (`Task.ASK`)."""

    def __str__(self) -> str:
        from miaobi.core.quantities import format_duration

        time = format_duration(self.seconds)
        validation = describe_validation(self.validation_loss)
        lines = [
            in_each(
                lambda: say(
                    f"{self.model}: {self.step} steps in {time}, {validation}",
                    f"{self.model}：{self.step} 步，用时 {time}，{validation}",
                )
            ),
            *(f"  {item}" for item in self.differences),
            say(f"  report: {self.report}", f"  报告：{self.report}"),
        ]
        if self.promoted:
            lines.append(
                say(
                    f"  {self.model} is in production now.",
                    f"  {self.model} 已设为正式版。",
                )
            )
        lines.append(
            say(
                f"  next: {self._generate_command()}",
                f"  接下来：{self._generate_command()}",
            )
        )
        return "\n".join(lines)

    def _generate_command(self) -> str:
        name = self.model.split("@")[0]
        kind = request_for(self.makes)
        return f"miaobi generate {kind} --model {name} {self.ask}"


def further_options(argv: Sequence[str]) -> FurtherOptions:
    """Return the short options, and every key of the recipe that the command line names."""
    from miaobi.verbs.finetune.settings import SHORT_OPTIONS, options_of

    deciding_options = [*config.options(command), *SHORT_OPTIONS, *options_of(None)]
    decisive = config.parse(argv, deciding_options, others=True)
    tree, origin = _named_recipe(decisive)
    return recipe_keys(tree, decisive, origin, argv)


def recipe_keys(
    recipe: Mapping[str, Any],
    decisive: Mapping[str, Any],
    origin: str,
    argv: Sequence[str],
) -> FurtherOptions:
    """Return the short options, and every key of a recipe.

    Args:
        recipe: nested mappings
        decisive: what the command line sets of the keys that all tasks have
        origin: the recipe's file, for errors
        argv: the command line
    """
    from miaobi.tune.tasks import tasks
    from miaobi.verbs.finetune.settings import (
        SHORT_OPTIONS,
        expand_short_options,
        options_of,
        task_of,
    )

    # Only the keys of its head depend on the task, which may have to be recognised.
    head = _head_arguments(argv)
    decisive = {**decisive, **head}
    if head or decisive.get("task") or recipe.get("task"):
        task = task_of(recipe, expand_short_options(decisive))
    else:
        task = tasks.get("chat")
    note = say(
        f"Keys of a recipe for the task {task.NAME}; another task's: "
        f"miaobi finetune --task NAME --help. Tasks: {', '.join(tasks.names())}.",
        f"以下为任务 {task.NAME} 的设置；其他任务：miaobi finetune --task 名称 --help。"
        f"任务：{'、'.join(tasks.names())}。",
    )
    options = options_of(task)
    sources = config.expand_mappings(options, recipe, origin)
    return FurtherOptions(note, [*SHORT_OPTIONS, *options, *sources])


def _head_arguments(argv: Sequence[str]) -> dict[str, Any]:
    """Return the settings of the head on a command line, by dotted key.

    Their types depend on the task, which may have to be recognised with their help, so
    they are read as YAML has them.
    """
    import yaml

    settings = dict[str, Any]()
    for number, argument in enumerate(argv):
        if argument.startswith("--head."):
            key, sign, value = argument[2:].partition("=")
            following = argv[number + 1 :]
            text = value if sign else (following[0] if following else "")
            settings[key] = yaml.safe_load(text)
    return settings


def _named_recipe(decisive: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Return the recipe that a command line names, or goes on with, and its file;
    nothing where it names none.
    """
    if decisive.get("resume"):
        path = (
            find_run_folder(
                decisive["resume"], storage.location(decisive.get("runs", RUNS))
            )
            / "config.yaml"
        )
        return config.read_yaml(path), str(path)
    if decisive.get("continue"):
        return _recipe_without_data(_tuned_model(decisive["continue"])[1]), ""
    if decisive.get("recipe"):
        return config.read_recipe(decisive["recipe"]), decisive["recipe"]
    return {}, ""


def command(
    recipe: str | None = None,
    *,
    resume_: str | None = None,
    continue_: str | None = None,
    replay: Annotated[float, Field(ge=0)] = 1.0,
    promote: bool = False,
    dry_run: bool = False,
    print_config: bool = False,
    runs: str = RUNS,
    settings: Annotated[Mapping[str, Any], Further(further_options)],
) -> Tuned | Plan | Printed | None:
    """Fine-tune a pretrained model; the keys of a recipe are options too.

    Args:
        recipe: A recipe file, see recipes/tune/; without one, --base and --data.
        resume_: Continue a run that was stopped: its folder, or the beginning of its name.
        continue_: Tune a tuned model again, on --data: a new version, with some of the old data replayed.
        replay: With --continue: old examples for each new one, as far as there are.
        promote: Put the new version into production if it is not worse than the model it was tuned from.
        dry_run: Show the data as the model will see it, estimate the cost, and stop.
        print_config: Print the resolved settings and stop.
        runs: Folder of the runs.
        settings: Keys of the recipe.
    """
    if resume_:
        return resume(resume_, runs=storage.location(runs), settings=settings)
    if continue_:
        result = again(
            continue_,
            settings=settings,
            replay=replay,
            runs=storage.location(runs),
            promote=promote,
            dry_run=dry_run,
        )
        return result if is_first_process() else None
    if not recipe and "base" not in settings:
        raise BadInput(
            say("Which model is to be tuned?", "要微调哪个模型？"),
            "miaobi finetune --base smollm2 --data chats.jsonl --method lora --name helpdesk",
        )
    settled = _settled(recipe, settings)
    if print_config:
        return Printed(config.nested(settled.values))
    result = _run(settled, storage.location(runs), dry_run=dry_run, promote=promote)
    return result if is_first_process() else None


def _settled(
    recipe: str | Path | Mapping[str, Any] | None, overrides: Mapping[str, Any]
) -> Settings:
    """Return a recipe, where there is one, with typed settings over it, resolved."""
    need_torch()
    from miaobi.verbs.finetune.settings import settle

    if recipe is None:
        return settle({}, overrides)
    if isinstance(recipe, Mapping):
        return settle(recipe, overrides)
    return settle(config.read_recipe(recipe), overrides, str(recipe))


def finetune(
    recipe: str | Path | Mapping[str, Any] | None = None,
    *,
    base: str | None = None,
    data: str | Path | None = None,
    method: str | None = None,
    name: str | None = None,
    settings: Mapping[str, Any] | None = None,
    runs: str | Location = RUNS,
    quiet: bool = False,
) -> Tuned:
    """Fine-tune from Python.

    Args:
        recipe: a recipe file, or the same as nested mappings; may be left out where base and data are set
        base: a starter pack, a model in the store, a path, a hub id
        data: a file, a folder or a starter pack of labelled examples
        method: full, frozen, lora, ... (see tune/methods/__init__.py)
        name: name of the tuned model in the store
        settings: dotted keys over the recipe, such as {"train.max_steps": 20}
        runs: folder of the runs
        quiet: no progress, no preview
    """
    named = _named(base, data, method, name)
    settled = _settled(recipe, {**named, **(settings or {})})
    tuned = _run(settled, storage.location(runs), quiet=quiet)
    assert isinstance(tuned, Tuned)
    return tuned


def plan(
    recipe: str | Path | Mapping[str, Any] | None = None,
    *,
    base: str | None = None,
    data: str | Path | None = None,
    method: str | None = None,
    settings: Mapping[str, Any] | None = None,
    runs: str | Location = RUNS,
    quiet: bool = False,
) -> Plan:
    """Return what `finetune` with the same arguments would cost.

    The data is read, the model is opened, a few rows are timed.
    """
    named = _named(base, data, method)
    settled = _settled(recipe, {**named, **(settings or {})})
    planned = _run(settled, storage.location(runs), dry_run=True, quiet=quiet)
    assert isinstance(planned, Plan)
    return planned


def _named(
    base: str | None,
    data: str | Path | None,
    method: str | None,
    name: str | None = None,
) -> dict[str, Any]:
    """Return the settings that are parameters of their own, those that are set."""
    named = {"base": base, "data": data, "method": method, "name": name}
    return {key: value for key, value in named.items() if value is not None}


def resume(
    run: str | Path,
    *,
    runs: Location = Path(RUNS),
    settings: Mapping[str, Any] | None = None,
    quiet: bool = False,
) -> Tuned:
    """Continue a run that was stopped, exactly as if it had not been.

    Args:
        run: the run's folder, its name, or the beginning of its name (the newest that fits)
        runs: folder of the runs
        settings: dotted keys to change, such as {"train.max_steps": 2000}
        quiet: no progress, no preview
    """
    folder = find_run_folder(str(run), runs)
    from miaobi.verbs.finetune.settings import settle

    path = folder / "config.yaml"
    recipe = config.read_yaml(path)
    settled = settle(recipe, settings, str(path), own=True)
    unchanged = settle(recipe, None, str(path), own=True)
    check_resumed(folder, "finetune", unchanged.values, settled.values)
    before, replay = _read_before(folder)
    tuned = _run(
        settled,
        folder.parent,
        folder=folder,
        quiet=quiet,
        before=before,
        replay=replay,
    )
    assert isinstance(tuned, Tuned)
    return tuned


def _read_before(folder: Path) -> tuple[Version | None, float]:
    """Return (the tuned model that the run tunes again or None, the share of replay)."""
    path = folder / "before.json"
    if not path.exists():
        return None, 1.0
    content = json.loads(path.read_text(encoding="utf-8"))
    return Store().resolve(content["model"]), content["replay"]


def again(
    model: str,
    *,
    settings: Mapping[str, Any],
    replay: float = 1.0,
    runs: Location = Path(RUNS),
    promote: bool = False,
    dry_run: bool = False,
    quiet: bool = False,
) -> Tuned | Plan:
    """Tune a tuned model on new data: a new version, compared with the one before.

    Args:
        model: a tuned model in the store
        settings: the new data ({"data": "new.jsonl"}) and dotted keys over those of the last time
        replay: old training examples for each new one, so that what was learned is not lost
        runs: folder of the runs
        promote: put the new version into production if it is not worse
        dry_run: stop after the estimate
        quiet: no progress, no preview
    """
    version, manifest = _tuned_model(model)
    from miaobi.verbs.finetune.settings import settle

    if not {"data", "data.path", "data.pack"} & settings.keys():
        raise BadInput(
            say("Which new data?", "新数据在哪里？"),
            f"miaobi finetune --continue {model} --data new.jsonl",
        )
    return _run(
        settle(_recipe_without_data(manifest), settings, own=True),
        runs,
        before=version,
        replay=replay,
        promote=promote,
        dry_run=dry_run,
        quiet=quiet,
    )


def _tuned_model(model: str) -> tuple[Version, bundle.Manifest]:
    """Return a model of the store that is tuned again. Raises BadInput for any other."""
    need_torch()
    from miaobi.models.tuned import FAMILY

    version = Store().resolve(model)
    manifest = bundle.read(version.location)
    if manifest.family != FAMILY:
        raise BadInput(
            say(
                f"{version} was not made by fine-tuning.",
                f"{version} 不是微调得到的模型。",
            ),
            f"miaobi finetune --base {version} --data ...",
        )
    return version, manifest


def _recipe_without_data(manifest: bundle.Manifest) -> dict[str, Any]:
    """Return a tuned model's recipe without its data and what was derived from it."""
    recipe = dict(manifest.recipe)
    recipe["data"] = {
        **recipe["data"],
        "path": "",
        "pack": "",
        "validation_path": "",
        "test_path": "",
        "max_examples": 0,
    }
    recipe["train"] = {
        key: value for key, value in recipe["train"].items() if key not in DERIVED_KEYS
    }
    return recipe


def _run(
    settings: Settings,
    runs: Location,
    folder: Path | None = None,
    dry_run: bool = False,
    quiet: bool = False,
    promote: bool = False,
    before: Version | None = None,
    replay: float = 1.0,
) -> Tuned | Plan:
    """Tune, or estimate the cost of it.

    Args:
        settings: the resolved recipe
        runs: where a new run gets its folder
        folder: a run that is continued
        dry_run: stop after the preview and the estimate
        quiet: no progress, no preview
        promote: put the new version into production if it is not worse
        before: a tuned model that is tuned again
        replay: old training examples for each new one, with `before`
    """
    import torch

    from miaobi.train import elsewhere, estimate, loop, processes, resuming, threads
    from miaobi.train import run as runs_of
    from miaobi.verbs.finetune import outcome
    from miaobi.verbs.finetune.work import Work

    torch.manual_seed(settings.train.seed)
    torch.set_flush_denormal(True)  # denormals make a CPU's products many times slower
    device = processes.pick_device(settings.train.device)
    with processes.process_group(device), threads.restored():
        quiet = quiet or processes.rank() > 0
        work = Work.open(settings, before, replay, quiet)
        settings = work.settings
        origin = {"data": work.data.fingerprint, "base": work.base.identity}
        if folder:
            resuming.check_origin(folder, "finetune", origin, settings.values)
        state = loop.start(work.learner, settings.train)
        torch.manual_seed(settings.train.seed + processes.rank())
        expected = estimate.estimate(
            state, work.data, folder or elsewhere.folder_of_runs(runs)
        )
        # Derived steps were fitted to the minutes; another measurement, on a machine
        # that is busier now, is no reason to refuse them.
        has_own_steps = folder is None and "train.max_steps" in settings.explicit_keys
        minutes = settings.train.max_minutes if has_own_steps else None
        estimate.check_limits(expected, minutes, settings.train.max_steps)
        if not quiet:
            work.show_preview()
        if dry_run:
            return Plan(config.nested(settings.values), expected, work.notes())
        run_folder = folder or runs_of.new_folder(runs, settings.name)
        if processes.rank() == 0:
            resuming.note_origin(run_folder, origin)
        if before is not None and processes.rank() == 0:
            content = {"model": str(before), "replay": replay}
            write_text(run_folder / "before.json", json.dumps(content))
        torch.set_num_threads(expected.threads)
        base_outcome = outcome.base_outcome(work, run_folder)
        runs_of.restore_newest(state, run_folder)
        run = runs_of.Run(
            run_folder,
            settings.train,
            config.nested(settings.values),
            "finetune",
            outcome.sampler(work, run_folder),
            outcome.watched_metric(work),
        )
        try:
            seconds = run.train(state, work.data, expected, quiet)
        except KeyboardInterrupt:
            _write_report(work, state, run_folder, base_outcome, outcome.Outcome())
            elsewhere.push(run_folder)
            raise
        run.conclude(state, work.data)
        if processes.rank() > 0:
            return Tuned(
                settings.name,
                run_folder / "bundle",
                run_folder,
                run_folder / "report.html",
                state.step,
                seconds,
                state.validation,
                (),
                makes=settings.task.MAKES,
            )
        tuned = _finish(work, state, run_folder, base_outcome, seconds, promote)
        elsewhere.push(run_folder)
        return tuned


def _finish(
    work: Work,
    state: State,
    run: Path,
    base_outcome: Outcome,
    seconds: float,
    promote: bool,
) -> Tuned:
    """Compare with the base, write the bundle, put it into the store, report."""
    from miaobi.evaluate.compare import differences, scores
    from miaobi.evaluate.score import to_row
    from miaobi.train import loop
    from miaobi.verbs.finetune.outcome import tuned_outcome

    settings = work.settings
    with loop.averaged(state):
        outcome = tuned_outcome(work)
        _write_bundle(work, state, run, outcome, seconds)
    store = Store()
    version = store.add(run / "bundle", settings.name)
    metrics = work.learner.metrics()
    base_scores = {
        score.name: score for score in scores(metrics, base_outcome.evaluations)
    }
    rows = [
        to_row(score, base_scores.get(score.name))
        for score in scores(metrics, outcome.evaluations)
    ]
    store.record_scores(version, rows)
    changes = differences(metrics, base_outcome.evaluations, outcome.evaluations)
    worse = bool(changes) and changes[0].better is False
    promoted = promote and not worse
    if promoted:
        store.promote(str(version))
    _write_report(work, state, run, base_outcome, outcome, str(version))
    return Tuned(
        str(version),
        run / "bundle" if isinstance(version.location, Url) else version.location,
        run,
        run / "report.html",
        state.step,
        seconds,
        state.validation,
        tuple(changes),
        promoted,
        settings.task.MAKES,
        settings.task.MODALITY,
        settings.task.ASK,
    )


def _write_bundle(
    work: Work, state: State, run: Path, outcome: Outcome, seconds: float
) -> None:
    from miaobi.evaluate.compare import scores
    from miaobi.models.tuned import FAMILY
    from miaobi.train import resuming
    from miaobi.tune import methods

    settings = work.settings
    metrics = {
        f"test_{score.name}": score.value
        for score in scores(work.learner.metrics(), outcome.evaluations)
    }
    manifest = bundle.Manifest(
        FAMILY,
        settings.task.MAKES,
        recipe=config.nested(settings.values),
        data=work.facts(),
        resumed=resuming.noted_changes(run),
        parents=_parents(work),
        metrics={
            **metrics,
            **validation_metrics(state),
            "seconds": round(seconds, 1),
            "steps": state.step,
        },
    )

    def write(draft: Path) -> None:
        methods.save(work.learner, settings.tune, draft)
        work.learner.save(draft)
        shutil.copy(run / "log.jsonl", draft / "log.jsonl")

    shutil.rmtree(run / "bundle", ignore_errors=True)
    bundle.write(run / "bundle", manifest, write)


def _parents(work: Work) -> tuple[str, ...]:
    """Return what the model was tuned from; a new base came from nothing."""
    if work.before is None and work.settings.base == NEW:
        return ()
    return (str(work.before or work.base.name),)


def _write_report(
    work: Work,
    state: State,
    run: Path,
    before: Outcome,
    after: Outcome,
    model: str = "",
) -> None:
    """Write report.json and report.html; `model` is empty while the run has not ended.

    The report of a version that the run made before it was resumed is kept beside it.
    """
    from miaobi.train.tracking import read_log
    from miaobi.verbs.finetune.page import page
    from miaobi.verbs.finetune.report import RunFacts, report

    content = report(before, after, RunFacts.of(work, state, run, model))
    _keep_report(run)
    write_text(run / "report.json", json.dumps(content, ensure_ascii=False, indent=1))
    page(content, read_log(run)).write(run / "report.html")


def _keep_report(run: Path) -> None:
    """Rename the report of a version in the store to report-NAME@N."""
    path = run / "report.json"
    if not path.exists():
        return
    content = json.loads(path.read_text(encoding="utf-8"))
    if not content["finished"]:
        return
    for suffix in (".html", ".json"):
        (run / f"report{suffix}").rename(run / f"report-{content['model']}{suffix}")
