"""Train a model from a recipe: prepare the data, say what it will cost, run the loop,
judge, keep it in the store.

runs/poet-20261121-221500/
  config.yaml       the resolved settings; `miaobi train --resume` needs nothing else
  log.jsonl         every figure, by step
  checkpoints/      the last ones and the best
  samples/          what the model made along the way
  tensorboard/
  bundle/           the finished model, as it went into the store
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from miaobi.core import bundle, config
from miaobi.core.config import Option
from miaobi.core.errors import BadInput, MissingPart, nearest
from miaobi.core.files import write_text
from miaobi.core.language import say
from miaobi.core.machine import settle_waiting
from miaobi.core.store import Store, check_name
from miaobi.data import datasets
from miaobi.families import families

RECIPE = {"family", "name", "data", "model", "train", "sample"}


@dataclass(frozen=True)
class SampleConfig:
    """What to try the model on while it learns."""

    prompts: list[str] | None = None
    """Beginnings to continue; none means from nothing."""
    max_new_tokens: int = 64
    """Length of each."""
    pictures: int = 48
    """How many to paint, for families of pictures."""


@dataclass(frozen=True)
class Trained:
    model: str
    """Name and version in the store."""
    bundle: Path
    run: Path
    step: int
    validation_loss: float
    seconds: float
    parameters: int
    modality: str = "text"

    def __str__(self) -> str:
        from miaobi.train.estimate import format_duration

        name = self.model.split("@")[0]
        ask = f"miaobi generate {self.modality} --model {name}" + (
            " --prompt ..." if self.modality == "text" else ""
        )
        return say(
            f"{self.model}: {self.parameters / 1e6:.2f} M parameters, "
            f"{self.step} steps in {format_duration(self.seconds)}, validation loss "
            f"{self.validation_loss:.4f}.\n"
            f"  run: {self.run}\n  next: {ask}   miaobi evaluate {self.model}",
            f"{self.model}：{self.parameters / 1e6:.2f} M 参数，{self.step} "
            f"步，用时 {format_duration(self.seconds)}，验证损失 "
            f"{self.validation_loss:.4f}。\n"
            f"  训练记录：{self.run}\n  接下来：{ask}   miaobi evaluate {self.model}",
        )


@dataclass(frozen=True)
class Plan:
    """What a dry run answers."""

    settings: Mapping[str, Any]
    estimate: Any

    def __str__(self) -> str:
        import yaml

        return (
            yaml.safe_dump(dict(self.settings), allow_unicode=True, sort_keys=False)
            + f"\n{self.estimate}"
        )


@dataclass(frozen=True)
class Settings:
    """A recipe, resolved and typed."""

    name: str
    family: Any
    data: Any
    model: Any
    train: Any
    sample: SampleConfig
    values: Mapping[str, Any]
    """The same, nested and plain, as saved with the run."""


def recipe_options(family: Any) -> list[Option]:
    """Every key of a recipe for `family`."""
    from miaobi.train.config import TrainConfig

    return [
        Option("family", str, family.NAME, "A name in the families registry."),
        Option("name", str | None, None, "What the model will be called in the store."),
        *config.options(datasets.get(family.DATA).Config, "data."),
        *config.options(family.Config, "model."),
        *config.options(TrainConfig, "train."),
        *config.options(SampleConfig, "sample."),
    ]


def settle(
    recipe: Mapping[str, Any], words: tuple[str, ...] = (), origin: str = ""
) -> Settings:
    """Resolve a recipe (as read from the file `origin`) and the command line's words over it."""
    from miaobi.train.config import TrainConfig

    family = _family(recipe, words, origin)
    recipe = {
        key: value for key, value in recipe.items() if key != "search"
    }  # that section is for `miaobi search`
    unknown = next((key for key in recipe if key not in RECIPE), None)
    if unknown:
        raise BadInput(
            say(
                f"{origin}: there is no section {unknown!r} in a recipe.",
                f"{origin}：配方中没有 {unknown!r} 这一节。",
            ),
            nearest(unknown, RECIPE),
        )
    values = config.resolve(recipe_options(family), words, recipe, origin)
    made = {
        section: kind(**config.build(kind, values, f"{section}."))
        for section, kind in (
            ("data", datasets.get(family.DATA).Config),
            ("model", family.Config),
            ("train", TrainConfig),
            ("sample", SampleConfig),
        )
    }
    name = check_name(
        values["name"] or Path(origin or family.NAME).stem.replace("_", "-").lower()
    )
    return Settings(
        name, family, **made, values=config.nested({**values, "name": name})
    )


def _family(recipe: Mapping[str, Any], words: tuple[str, ...], origin: str) -> Any:
    """The family decides which keys there are, so it is looked for first."""
    chosen = config.peek(words, "family") or recipe.get("family")
    if not chosen:
        raise BadInput(
            say(
                f"{origin or 'The recipe'} does not say which family to train.",
                f"{origin or '配方'} 没有写明要训练的模型族（family）。",
            ),
            say(
                f"Add a line such as `family: gpt`. {nearest('', families.names())}",
                f"请加入一行，例如 `family: gpt`。{nearest('', families.names())}",
            ),
        )
    return families.get(chosen)


def command(*words: str) -> Any:
    """`miaobi train RECIPE [--resume RUN] [--dry-run] [--print-config] [--runs DIR] [--key value ...]`."""
    own = [
        Option(
            "recipe",
            str | None,
            None,
            say("A recipe file, see recipes/.", "配方文件，见 recipes/。"),
            positional=True,
        ),
        Option(
            "resume",
            str | None,
            None,
            say(
                "Go on with a run: its folder, or the start of its name.",
                "继续一次训练：写文件夹，或其名称的开头。",
            ),
        ),
        Option(
            "dry_run",
            bool,
            False,
            say("Say what it would cost and stop.", "只给出预计开销，不训练。"),
        ),
        Option(
            "print_config",
            bool,
            False,
            say("Print the resolved settings and stop.", "打印最终设置后退出。"),
        ),
        Option("runs", str, "runs", say("Where runs are kept.", "训练记录的文件夹。")),
    ]
    mine, theirs = parted(words, {option.key: option for option in own})
    if "--help" in words or "-h" in words:
        return _usage(own, mine)
    values = config.resolve(own, mine)
    if values["resume"]:
        return resume(values["resume"], runs=Path(values["runs"]), words=theirs)
    if not values["recipe"]:
        raise BadInput(
            say("Which recipe?", "用哪个配方？"),
            "miaobi train recipes/text/poet_gpt.yaml",
        )
    path = Path(values["recipe"])
    settings = settle(config.read_recipe(path), tuple(theirs), str(path))
    if values["print_config"]:
        return Printed(settings.values)
    done = _run(settings, Path(values["runs"]), dry_run=values["dry_run"])
    return (
        done if os.environ.get("RANK", "0") == "0" else None
    )  # under torchrun, the first process speaks for all


@dataclass(frozen=True)
class Printed:
    settings: Mapping[str, Any]

    def __str__(self) -> str:
        import yaml

        return yaml.safe_dump(
            dict(self.settings), allow_unicode=True, sort_keys=False
        ).rstrip()


def parted(
    words: tuple[str, ...], own: Mapping[str, Option]
) -> tuple[list[str], list[str]]:
    """(the verb's own words, the recipe's words)."""
    mine, theirs, rest = (
        list[str](),
        list[str](),
        [word for word in words if word not in ("--help", "-h")],
    )
    while rest:
        word = rest.pop(0)
        key = word[2:].partition("=")[0].replace("-", "_")
        if not word.startswith("--"):
            mine.append(word)
            continue
        side = mine if key in own else theirs
        side.append(word)
        flag = key in own and own[key].type is bool
        if "=" not in word and rest and not flag and not rest[0].startswith("--"):
            side.append(rest.pop(0))
    return mine, theirs


def _usage(own: list[Option], mine: list[str]) -> str:
    recipe = next((word for word in mine if not word.startswith("--")), None)
    family = (
        _family(config.read_recipe(recipe), (), recipe)
        if recipe
        else families.get("gpt")
    )
    about = say(
        "Train a model from a recipe. Keys of a recipe for the family "
        f"{family.NAME}; another family's: miaobi train RECIPE --help.",
        f"按配方训练模型。以下为模型族 {family.NAME} 的设置；其他族：miaobi train 配方 --help。",
    )
    return config.usage("miaobi train", about, [*own, *recipe_options(family)])


def train(
    recipe: str | Path | Mapping[str, Any],
    *,
    name: str | None = None,
    settings: Mapping[str, Any] | None = None,
    runs: str | Path = "runs",
    quiet: bool = False,
) -> Trained:
    """Train from Python.

    Args:
        recipe: a recipe file, or the same as nested mappings
        name: what the model will be called in the store
        settings: dotted keys over the recipe, such as {"train.max_steps": 200}
        runs: where to keep the run
        quiet: no progress
    """
    trained = _run(
        _settled(recipe, {**(settings or {}), **({"name": name} if name else {})}),
        Path(runs),
        quiet=quiet,
    )
    assert isinstance(trained, Trained)
    return trained


def plan(
    recipe: str | Path | Mapping[str, Any],
    *,
    settings: Mapping[str, Any] | None = None,
    runs: str | Path = "runs",
) -> Plan:
    """What `train` with the same arguments would cost: the data is prepared, the model
    built, a few steps are timed.
    """
    planned = _run(_settled(recipe, settings or {}), Path(runs), dry_run=True)
    assert isinstance(planned, Plan)
    return planned


def _settled(
    recipe: str | Path | Mapping[str, Any], changes: Mapping[str, Any]
) -> Settings:
    """A recipe with dotted keys over it."""
    need_torch()
    origin = "" if isinstance(recipe, Mapping) else str(recipe)
    tree = dict(recipe) if isinstance(recipe, Mapping) else config.read_recipe(recipe)
    for key, value in changes.items():
        *folders, leaf = key.split(".")
        branch = tree
        for folder in folders:
            branch[folder] = branch = dict(branch.get(folder) or {})
        branch[leaf] = value
    return settle(tree, (), origin)


def resume(
    run: str | Path,
    *,
    runs: Path = Path("runs"),
    words: list[str] | None = None,
    quiet: bool = False,
) -> Trained:
    """Go on with a run that was stopped, exactly as if it had not been.

    Args:
        run: the run's folder, its name, or the start of its name (the newest that fits)
        runs: where runs are kept
        words: settings to change, such as ["--train.max_steps", "2000"]
        quiet: no progress
    """
    need_torch()
    from miaobi.train.run import find_run

    folder = find_run(str(run), runs)
    settings = settle(
        config.read_yaml(folder / "config.yaml"),
        tuple(words or ()),
        str(folder / "config.yaml"),
    )
    trained = _run(settings, folder.parent, folder=folder, quiet=quiet)
    assert isinstance(trained, Trained)
    return trained


def need_torch() -> None:
    """Before torch is imported: see that it is there, and how its threads are to wait.
    Raises MissingPart.
    """
    import importlib.util

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
    runs: Path,
    folder: Path | None = None,
    dry_run: bool = False,
    quiet: bool = False,
) -> Trained | Plan:
    need_torch()
    import torch

    from miaobi.train import estimate, loop, processes
    from miaobi.train import run as runs_of

    torch.manual_seed(settings.train.seed)
    torch.set_flush_denormal(True)  # denormals make a CPU's products many times slower
    with processes.process_group(processes.pick_device(settings.train.device)):
        dataset = datasets.get(settings.family.DATA).prepare(settings.data)
        state = loop.start(
            settings.family.build(settings.model, dataset.spec), settings.train
        )
        torch.manual_seed(
            settings.train.seed + processes.rank()
        )  # each process its own dropout
        if folder:
            runs_of.restore_newest(state, folder)
        known = estimate.estimate(state, dataset, folder or runs)
        estimate.check_limits(
            known, settings.train.max_minutes, settings.train.max_steps
        )
        if dry_run:
            return Plan(settings.values, known)
        place = folder or runs_of.new_folder(runs, settings.name)

        def sample(state: Any, outputs: Any) -> None:
            show_samples(
                settings.family.sample(state.objective, dataset, settings.sample),
                settings.name,
                state.step,
                place,
                outputs,
            )

        run = runs_of.Run(place, settings.train, settings.values, "train", sample)
        seconds = run.train(state, dataset, known, quiet or processes.rank() > 0)
        run.conclude(state, dataset)
        return _finish(settings, state, dataset, place, known, seconds)


def show_samples(
    made: Any, model: str, step: int, run: Path, outputs: Sequence[Any]
) -> None:
    """What a family's `sample` made, to the run's folder and the trackers: texts, or
    pictures uint8 [rows, columns, H, W, C].
    """
    place = run / "samples" / f"step-{step:08d}"
    if isinstance(made, list):
        for output in outputs:
            output.log_texts(
                step, {f"sample/{at}": item for at, item in enumerate(made)}
            )
        write_text(place.with_suffix(".txt"), "\n\n".join(made) + "\n")
        return
    from miaobi.core.artifacts import Facts, Image
    from miaobi.provenance.publish import publish
    from miaobi.provenance.sheet import sheet

    grid = sheet(made.flatten(0, 1).numpy(), columns=made.shape[1])
    for output in outputs:
        output.log_images(step, {"samples": grid})
    publish(
        Image(grid, Facts(model, parameters={"step": step})), place.with_suffix(".png")
    )


def _finish(
    settings: Settings, state: Any, dataset: Any, run: Path, known: Any, seconds: float
) -> Trained:
    """Bundle the weights and put them in the store."""
    from miaobi.train import loop, processes

    if processes.rank() > 0:
        return Trained(
            settings.name,
            run / "bundle",
            run,
            state.step,
            state.validation,
            seconds,
            known.parameters,
            settings.family.MODALITY,
        )
    manifest = bundle.Manifest(
        settings.family.NAME,
        settings.family.MODALITY,
        recipe=settings.values,
        data={
            "fingerprint": dataset.fingerprint,
            "folder": str(dataset.folder),
            "source": settings.values["data"].get("pack")
            or settings.values["data"].get("path")
            or "",
        },
        metrics={
            "validation_loss": state.validation,
            "seconds": round(state.seconds, 1),
            "steps": state.step,
        },
    )

    def write(folder: Path) -> None:
        with loop.averaged(state):
            settings.family.save(state.objective, folder)
        dataset.save(folder)
        shutil.copy(
            run / "log.jsonl", folder / "log.jsonl"
        )  # the learning curve goes where the model goes

    shutil.rmtree(run / "bundle", ignore_errors=True)
    bundle.write(run / "bundle", manifest, write)
    version = Store().add(run / "bundle", settings.name)
    return Trained(
        str(version),
        version.path,
        run,
        state.step,
        state.validation,
        seconds,
        known.parameters,
        settings.family.MODALITY,
    )
