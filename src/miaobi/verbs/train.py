"""Train a model from a recipe: prepare the data, estimate the cost, run the loop, put
the model into the store.

runs/poet-20261121-221500/
  config.yaml       the resolved settings; `miaobi train --resume` needs nothing else
  log.jsonl         every metric, by step
  checkpoints/      the last ones and the best
  samples/          what the model generated along the way
  tensorboard/
  bundle/           the finished model, as it went into the store
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from miaobi.core import bundle, config, storage
from miaobi.core.config import Further, FurtherOptions, Option
from miaobi.core.errors import BadInput, MissingPart, nearest
from miaobi.core.language import in_each, say
from miaobi.core.machine import settle_waiting
from miaobi.core.requests import command_for
from miaobi.core.storage import Location, Url
from miaobi.core.store import Store, check_name
from miaobi.data import datasets
from miaobi.families import families

if TYPE_CHECKING:
    from miaobi.data.dataset import Dataset
    from miaobi.train.estimate import Estimate
    from miaobi.train.loop import State
    from miaobi.train.tracking import Tracker

SECTIONS = {"family", "name", "data", "model", "train", "sample"}
"""Of a recipe for training."""
FAMILY = Option("family", str | None, None, "A name in the families registry.")
RUNS = "runs"
"""The folder of the runs, unless another is named."""
SAMPLES = ("prompts", "max_new_tokens", "pictures")
"""Keys of the section `sample` that once were those of every family."""


@dataclass(frozen=True)
class Trained:
    """A finished run."""

    model: str
    """Name and version in the store."""
    bundle: Path
    run: Path
    step: int
    validation_loss: float | None
    """None where no example was held out for validation."""
    seconds: float
    parameters: int
    modality: str = "text"

    def __str__(self) -> str:
        from miaobi.core.quantities import format_duration

        name = self.model.split("@")[0]
        generate = command_for(self.modality, name)
        size = f"{self.parameters / 1e6:.2f} M"
        time = format_duration(self.seconds)
        validation = describe_validation(self.validation_loss)
        return in_each(
            lambda: say(
                f"{self.model}: {size} parameters, {self.step} steps in {time}, {validation}.\n"
                f"  run: {self.run}\n"
                f"  next: {generate}   miaobi evaluate {self.model}",
                f"{self.model}：{size} 参数，{self.step} 步，用时 {time}，{validation}。\n"
                f"  训练记录：{self.run}\n"
                f"  接下来：{generate}   miaobi evaluate {self.model}",
            )
        )


def describe_validation(loss: float | None) -> str:
    """Return the validation loss of a finished run for people."""
    if loss is None:
        return say("no validation (the last weights)", "无验证（最后的权重）")
    return say(f"validation loss {loss:.4f}", f"验证损失 {loss:.4f}")


@dataclass(frozen=True)
class Plan:
    """What a dry run returns."""

    settings: Mapping[str, Any]
    estimate: Estimate
    notes: Sequence[str] = ()
    """What to know of the data before the run."""

    def __str__(self) -> str:
        """The settings, and at the end what matters: the cost first, then the notes."""
        start = say(
            "To start it: the same command without --dry-run.",
            "开始训练：同一条命令，去掉 --dry-run。",
        )
        lines = [str(self.estimate), *self.notes, start]
        return "\n".join([_yaml(self.settings), *lines])


@dataclass(frozen=True)
class Printed:
    """What --print-config returns."""

    settings: Mapping[str, Any]

    def __str__(self) -> str:
        return _yaml(self.settings).rstrip()


def _yaml(settings: Mapping[str, Any]) -> str:
    import yaml

    text: str = yaml.safe_dump(dict(settings), allow_unicode=True, sort_keys=False)
    return text


@dataclass(frozen=True)
class Settings:
    """A recipe, resolved and typed."""

    name: str
    family: Any
    data: Any
    model: Any
    train: Any
    sample: Any
    values: Mapping[str, Any]
    """The same, nested and plain, as saved with the run."""

    @property
    def flat(self) -> dict[str, Any]:
        """The same by dotted key."""
        return dict(config.flatten(self.values, {}))


def recipe_options(family: Any) -> list[Option]:
    """Return every key of a recipe for `family`."""
    from miaobi.train.config import TrainConfig

    return [
        Option("family", str, family.NAME, "A name in the families registry."),
        Option("name", str | None, None, "Name of the model in the store."),
        *data_options(family),
        *config.options(family.Config, "model."),
        *config.options(TrainConfig, "train."),
        *config.options(family.Sample, "sample."),
    ]


def data_options(family: Any) -> list[Option]:
    """Return the keys of the data that a family learns from, with its own defaults."""
    options = config.options(datasets.get(family.DATA).Config, "data.")
    defaults = {
        f"data.{name}": value
        for name, value in getattr(family, "DATA_SETTINGS", {}).items()
    }
    return [
        replace(option, default=defaults.get(option.key, option.default))
        for option in options
    ]


def settle(
    recipe: Mapping[str, Any],
    overrides: Mapping[str, Any] | None = None,
    origin: str = "",
    *,
    own: bool = False,
) -> Settings:
    """Resolve a recipe and typed settings over it.

    Args:
        recipe: nested mappings, as in a recipe file
        overrides: by dotted key, such as {"train.max_steps": 200}
        origin: the file that the recipe comes from, for names and errors
        own: it was written by miaobi, where earlier names of settings are no mistake
    """
    from miaobi.train.config import TrainConfig

    overrides = overrides or {}
    family = _family(recipe, overrides, origin)
    data_config = datasets.get(family.DATA).Config
    # The section `search` is for `miaobi search`.
    recipe = {key: value for key, value in recipe.items() if key != "search"}
    recipe = _without_other_samples(recipe, family)
    _check_sections(recipe, origin)
    values = config.resolve(recipe_options(family), recipe, overrides, origin, own=own)
    stem = Path(origin or family.NAME).stem.replace("_", "-").lower()
    name = check_name(values["name"] or stem)
    return Settings(
        name=name,
        family=family,
        data=data_config(**config.build(data_config, values, "data.")),
        model=family.Config(**config.build(family.Config, values, "model.")),
        train=TrainConfig(**config.build(TrainConfig, values, "train.")),
        sample=family.Sample(**config.build(family.Sample, values, "sample.")),
        values=config.nested({**values, "name": name}),
    )


def _without_other_samples(recipe: Mapping[str, Any], family: Any) -> dict[str, Any]:
    """Return a recipe without the sample settings of other kinds of families, which
    those of 0.1, and every run that it saved, could hold.
    """
    section = recipe.get("sample")
    if not isinstance(section, Mapping):
        return dict(recipe)
    own = {item.name for item in fields(family.Sample)}
    kept = {key: section[key] for key in section if key in own or key not in SAMPLES}
    return {**recipe, "sample": kept}


def _check_sections(recipe: Mapping[str, Any], origin: str) -> None:
    for section in recipe:
        if section not in SECTIONS:
            raise BadInput(
                say(
                    f"{origin}: there is no section {section!r} in a recipe.",
                    f"{origin}：配方中没有 {section!r} 这一节。",
                ),
                nearest(section, SECTIONS),
            )


def _family(
    recipe: Mapping[str, Any], overrides: Mapping[str, Any], origin: str
) -> Any:
    """Return the family, which decides which other keys there are."""
    name = overrides.get("family") or recipe.get("family")
    if not name:
        raise BadInput(
            say(
                f"{origin or 'The recipe'} does not say which family to train.",
                f"{origin or '配方'} 没有写明要训练的模型族（family）。",
            ),
            say(
                "Add a line such as `family: gpt`. ",
                "请加入一行，例如 `family: gpt`。",
            )
            + nearest("", families.names()),
        )
    return families.get(name)


def further_options(argv: Sequence[str]) -> FurtherOptions:
    """Return every key of the recipe that the command line names."""
    decisive = config.parse(argv, [*config.options(command), FAMILY], others=True)
    tree, origin = _named_recipe(decisive)
    if not tree and not decisive.get("family"):
        return recipe_keys({}, {"family": "gpt"}, "")
    return recipe_keys(tree, decisive, origin)


def recipe_keys(
    recipe: Mapping[str, Any], decisive: Mapping[str, Any], origin: str
) -> FurtherOptions:
    """Return every key of a recipe.

    Args:
        recipe: nested mappings
        decisive: what the command line sets of the keys that decide which others there are
        origin: the recipe's file, for errors
    """
    family = _family(recipe, decisive, origin)
    note = say(
        f"Keys of a recipe for the family {family.NAME}; another family's: "
        "miaobi train RECIPE --help.",
        f"以下为模型族 {family.NAME} 的设置；其他族：miaobi train 配方 --help。",
    )
    return FurtherOptions(note, recipe_options(family))


def _named_recipe(decisive: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Return the recipe that a command line names, or continues, and its file; nothing
    where it names none.
    """
    if decisive.get("resume"):
        path = (
            find_run_folder(
                decisive["resume"], storage.location(decisive.get("runs", RUNS))
            )
            / "config.yaml"
        )
        return config.read_yaml(path), str(path)
    if decisive.get("recipe"):
        return config.read_recipe(decisive["recipe"]), decisive["recipe"]
    return {}, ""


def find_run_folder(name: str, runs: Location) -> Path:
    """Return the folder of the run of this name. Raises MissingPart without PyTorch, and
    NotFound.
    """
    need_torch()
    from miaobi.train.run import find_run

    return find_run(name, runs)


def command(
    recipe: str | None = None,
    *,
    resume_: str | None = None,
    dry_run: bool = False,
    print_config: bool = False,
    runs: str = RUNS,
    settings: Annotated[Mapping[str, Any], Further(further_options)],
) -> Trained | Plan | Printed | None:
    """Train a model from a recipe, whose keys are options too.

    Args:
        recipe: A recipe file, see recipes/.
        resume_: Continue a run: its folder, or the beginning of its name.
        dry_run: Estimate the cost and stop.
        print_config: Print the resolved settings and stop.
        runs: Folder of the runs.
        settings: Keys of the recipe.
    """
    if resume_:
        return resume(resume_, runs=storage.location(runs), settings=settings)
    if not recipe:
        raise BadInput(
            say("Which recipe?", "用哪个配方？"),
            "miaobi train recipes/text/poet_gpt.yaml",
        )
    settled = settle(config.read_recipe(recipe), settings, recipe)
    if print_config:
        return Printed(settled.values)
    result = _run(settled, storage.location(runs), dry_run=dry_run)
    return result if is_first_process() else None


def is_first_process() -> bool:
    """Return whether this process prints the result: under torchrun only the first."""
    return os.environ.get("RANK", "0") == "0"


def train(
    recipe: str | Path | Mapping[str, Any],
    *,
    name: str | None = None,
    settings: Mapping[str, Any] | None = None,
    runs: str | Location = RUNS,
    quiet: bool = False,
) -> Trained:
    """Train from Python.

    Args:
        recipe: a recipe file, or the same as nested mappings
        name: name of the model in the store
        settings: dotted keys over the recipe, such as {"train.max_steps": 200}
        runs: folder of the runs
        quiet: no progress
    """
    overrides = dict(settings or {})
    if name:
        overrides["name"] = name
    trained = _run(_settled(recipe, overrides), storage.location(runs), quiet=quiet)
    assert isinstance(trained, Trained)
    return trained


def plan(
    recipe: str | Path | Mapping[str, Any],
    *,
    settings: Mapping[str, Any] | None = None,
    runs: str | Location = RUNS,
) -> Plan:
    """Return what `train` with the same arguments would cost.

    The data is prepared, the model is built, a few steps are timed.
    """
    planned = _run(
        _settled(recipe, settings or {}), storage.location(runs), dry_run=True
    )
    assert isinstance(planned, Plan)
    return planned


def _settled(
    recipe: str | Path | Mapping[str, Any], overrides: Mapping[str, Any]
) -> Settings:
    """Return a recipe with dotted keys over it, resolved."""
    need_torch()
    if isinstance(recipe, Mapping):
        tree, origin = dict(recipe), ""
    else:
        tree, origin = config.read_recipe(recipe), str(recipe)
    return settle(tree, overrides, origin)


def resume(
    run: str | Path,
    *,
    runs: Location = Path(RUNS),
    settings: Mapping[str, Any] | None = None,
    quiet: bool = False,
) -> Trained:
    """Continue a run that was stopped, exactly as if it had not been.

    Args:
        run: the run's folder, its name, or the beginning of its name (the newest that fits)
        runs: folder of the runs
        settings: dotted keys to change, such as {"train.max_steps": 2000}
        quiet: no progress
    """
    folder = find_run_folder(str(run), runs)
    path = folder / "config.yaml"
    recipe = config.read_yaml(path)
    settled = settle(recipe, settings, str(path), own=True)
    unchanged = settle(recipe, None, str(path), own=True)
    check_resumed(folder, "train", unchanged.flat, settled.flat)
    trained = _run(settled, folder.parent, folder=folder, quiet=quiet)
    assert isinstance(trained, Trained)
    return trained


def check_resumed(
    folder: Path, verb: str, before: Mapping[str, Any], after: Mapping[str, Any]
) -> None:
    """Raise BadInput for settings with which a run cannot go on (train/resuming.py)."""
    from miaobi.train import resuming

    resuming.check_settings(folder, verb, before, after)


def need_torch() -> None:
    """Check that torch is installed and set how its threads wait, before it is imported.

    Raises:
        MissingPart: torch is not installed
    """
    if importlib.util.find_spec("torch") is None:
        raise MissingPart(
            say(
                "Training needs PyTorch, which is not installed.",
                "训练需要 PyTorch，目前未安装。",
            ),
            "pip install 'miaobi[train]'",
        )
    settle_waiting()


def _run(
    settings: Settings,
    runs: Location,
    folder: Path | None = None,
    dry_run: bool = False,
    quiet: bool = False,
) -> Trained | Plan:
    """Train, or estimate the cost of it.

    Args:
        settings: the resolved recipe
        runs: where a new run gets its folder
        folder: a run that is continued
        dry_run: stop after the estimate
        quiet: no progress
    """
    need_torch()
    import torch

    from miaobi.train import elsewhere, estimate, loop, processes, resuming, threads
    from miaobi.train import run as runs_of
    from miaobi.train.samples import record_samples

    family = settings.family
    config_of_loop = settings.train
    torch.manual_seed(config_of_loop.seed)
    torch.set_flush_denormal(True)  # denormals make a CPU's products many times slower
    device = processes.pick_device(config_of_loop.device)
    with processes.process_group(device), threads.restored():
        dataset = datasets.get(family.DATA).prepare(settings.data)
        origin = {"data": dataset.fingerprint}
        model = family.build(settings.model, dataset.spec)
        state = loop.start(model, config_of_loop)
        # Each process has its own dropout.
        torch.manual_seed(config_of_loop.seed + processes.rank())
        if folder:
            resuming.check_origin(folder, "train", origin, settings.flat)
            runs_of.restore_newest(state, folder)
        expected = estimate.estimate(
            state, dataset, folder or elsewhere.folder_of_runs(runs)
        )
        estimate.check_limits(
            expected, config_of_loop.max_minutes, config_of_loop.max_steps
        )
        if dry_run:
            notes = []
            if not loop.has_validation(dataset):
                notes.append(runs_of.describe_no_validation())
            return Plan(settings.values, expected, notes)
        run_folder = folder or runs_of.new_folder(runs, settings.name)
        if processes.rank() == 0:
            resuming.note_origin(run_folder, origin)

        def sample(state: State, trackers: Sequence[Tracker]) -> None:
            samples = family.sample(state.objective, dataset, settings.sample)
            record_samples(samples, settings.name, state.step, run_folder, trackers)

        run = runs_of.Run(run_folder, config_of_loop, settings.values, "train", sample)
        seconds = run.train(state, dataset, expected, quiet or processes.rank() > 0)
        run.conclude(state, dataset)
        trained = _finish(settings, state, dataset, run_folder, expected, seconds)
        if processes.rank() == 0:
            elsewhere.push(run_folder)
        return trained


def _finish(
    settings: Settings,
    state: State,
    dataset: Dataset,
    run: Path,
    expected: Estimate,
    seconds: float,
) -> Trained:
    """Write the bundle and put it into the store; only the first process does."""
    from miaobi.train import processes

    model = settings.name
    folder = run / "bundle"
    if processes.rank() == 0:
        _write_bundle(settings, state, dataset, run)
        version = Store().add(folder, settings.name)
        model = str(version)
        if not isinstance(version.location, Url):
            folder = version.location
    return Trained(
        model,
        folder,
        run,
        state.step,
        state.validation,
        seconds,
        expected.parameters,
        settings.family.MODALITY,
    )


def validation_metrics(state: State) -> dict[str, float]:
    """Return the validation loss as a manifest has it; nothing without validation."""
    if state.validation is None:
        return {}
    return {"validation_loss": state.validation}


def _write_bundle(
    settings: Settings, state: State, dataset: Dataset, run: Path
) -> None:
    from miaobi.train import loop, resuming

    data = settings.values["data"]
    controls = state.objective.controls
    manifest = bundle.Manifest(
        settings.family.NAME,
        settings.family.MODALITY,
        recipe=settings.values,
        data={
            "fingerprint": dataset.fingerprint,
            "folder": str(dataset.folder),
            "source": data.get("pack") or data.get("path") or "",
        },
        resumed=resuming.noted_changes(run),
        controls=None if controls is None else sorted(controls),
        metrics={
            **validation_metrics(state),
            "seconds": round(state.seconds, 1),
            "steps": state.step,
        },
    )

    def write(draft: Path) -> None:
        with loop.averaged(state):
            settings.family.save(state.objective, draft)
        dataset.save(draft)
        # The learning curve goes where the model goes.
        shutil.copy(run / "log.jsonl", draft / "log.jsonl")

    shutil.rmtree(run / "bundle", ignore_errors=True)
    bundle.write(run / "bundle", manifest, write)
