"""Fine-tune a pretrained model in five steps: base and data; task head and loss; how it
is changed; training; test against the base.

runs/helpdesk-20261122-101500/
  config.yaml         the resolved settings; `miaobi finetune --resume` needs nothing else
  log.jsonl, checkpoints/, samples/, tensorboard/
  base.json           how the base did on the test
  report.json, report.html
  bundle/             the tuned model, as it went into the store
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from miaobi.core import bundle, config
from miaobi.core.config import Option
from miaobi.core.errors import BadInput
from miaobi.core.files import write_text
from miaobi.core.language import say
from miaobi.core.store import Store, Version
from miaobi.verbs.train import Plan, Printed, need_torch, parted

OWN = [
    Option(
        "recipe",
        str | None,
        None,
        "A recipe file, see recipes/tune/; without one, --base and --data.",
        positional=True,
    ),
    Option(
        "resume",
        str | None,
        None,
        "Go on with a run that was stopped: its folder, or the start of its name.",
    ),
    Option(
        "continue",
        str | None,
        None,
        "Tune a tuned model again, on --data: a new version, with some of the old data replayed.",
    ),
    Option(
        "replay",
        float,
        1.0,
        "With --continue: old examples for each new one, as far as there are.",
    ),
    Option(
        "promote",
        bool,
        False,
        "Put the new version into production if it is not worse than what it was tuned from.",
    ),
    Option(
        "dry_run",
        bool,
        False,
        "Show the data as the model will see it, say what it would cost, and stop.",
    ),
    Option("print_config", bool, False, "Print the resolved settings and stop."),
    Option("runs", str, "runs", "Where runs are kept."),
]


@dataclass(frozen=True)
class Tuned:
    model: str
    """Name and version in the store."""
    bundle: Path
    run: Path
    report: Path
    step: int
    seconds: float
    differences: tuple[Any, ...]
    """Tuned against base on the test, figure by figure (evaluate.compare.Difference)."""
    promoted: bool = False
    makes: str = "text"
    modality: str = "text"
    """Of what it is asked."""

    def __str__(self) -> str:
        from miaobi.train.estimate import format_duration

        name = self.model.split("@")[0]
        lines = [
            say(
                f"{self.model}: {self.step} steps in {format_duration(self.seconds)}",
                f"{self.model}：{self.step} 步，用时 {format_duration(self.seconds)}",
            ),
            *(f"  {item}" for item in self.differences),
            say(f"  report: {self.report}", f"  报告：{self.report}"),
        ]
        verb = "image" if self.makes == "image" else "text"
        asked = (
            "--image photo.png"
            if self.modality == "image" and self.makes != "image"
            else "--prompt ..."
        )
        if self.promoted:
            lines.append(
                say(
                    f"  {self.model} is in production now.",
                    f"  {self.model} 已设为正式版。",
                )
            )
        lines.append(
            say(
                f"  next: miaobi generate {verb} --model {name} {asked}",
                f"  接下来：miaobi generate {verb} --model {name} {asked}",
            )
        )
        return "\n".join(lines)


def command(*words: str) -> Any:
    """`miaobi finetune [RECIPE] [--base M --data FILE --method lora --name N] [--resume RUN] [--continue MODEL] [--dry-run] [--key value ...]`."""
    mine, theirs = parted(words, {option.key: option for option in OWN})
    if "--help" in words or "-h" in words:
        return _usage(mine, theirs)
    values = config.resolve(OWN, mine)
    runs = Path(values["runs"])
    if values["resume"]:
        return resume(values["resume"], runs=runs, words=theirs)
    if values["continue"]:
        done = again(
            values["continue"],
            words=theirs,
            replay=values["replay"],
            runs=runs,
            promote=values["promote"],
            dry_run=values["dry_run"],
        )
        return done if os.environ.get("RANK", "0") == "0" else None
    if not values["recipe"] and config.peek(theirs, "base") is None:
        raise BadInput(
            say("What is to be tuned?", "要微调什么？"),
            "miaobi finetune --base smollm2 --data chats.jsonl --method lora --name helpdesk",
        )
    need_torch()
    from miaobi.verbs.finetune.settings import settle

    recipe = config.read_recipe(values["recipe"]) if values["recipe"] else {}
    settings = settle(recipe, theirs, values["recipe"] or "")
    if values["print_config"]:
        return Printed(config.nested(settings.values))
    done = _run(settings, runs, dry_run=values["dry_run"], promote=values["promote"])
    return (
        done if os.environ.get("RANK", "0") == "0" else None
    )  # under torchrun, the first process speaks for all


def _usage(mine: Sequence[str], theirs: Sequence[str]) -> str:
    from miaobi.tune.tasks import tasks
    from miaobi.verbs.finetune.settings import options_of

    recipe = next((word for word in mine if not word.startswith("--")), None)
    read = config.read_recipe(recipe) if recipe else {}
    task = tasks.get(config.peek(theirs, "task") or read.get("task") or "chat")
    about = say(
        "Fine-tune a pretrained model. Keys of a recipe for the task "
        f"{task.NAME}; another task's: miaobi finetune --task NAME --help. "
        f"Tasks: {', '.join(tasks.names())}. Short for --data.path, --data.pack and --tune.method: --data, --method.",
        f"微调预训练模型。以下为任务 {task.NAME} 的设置；其他任务：miaobi finetune --task 名称 --help。"
        f"任务：{'、'.join(tasks.names())}。--data 与 --method 是 --data.path、--data.pack 与 --tune.method 的简写。",
    )
    return config.usage("miaobi finetune", about, [*OWN, *options_of(task)])


def finetune(
    recipe: str | Path | Mapping[str, Any] | None = None,
    *,
    base: str | None = None,
    data: str | Path | None = None,
    method: str | None = None,
    name: str | None = None,
    settings: Mapping[str, Any] | None = None,
    runs: str | Path = "runs",
    quiet: bool = False,
) -> Tuned:
    """Fine-tune from Python.

    Args:
        recipe: a recipe file, or the same as nested mappings; may be left out where base and data are given
        base: a starter pack, a model in the store, a path, a hub id
        data: a file, a folder or a starter pack of labelled examples
        method: full, frozen, lora, ... (see tune/methods/__init__.py)
        name: what the tuned model will be called in the store
        settings: dotted keys over the recipe, such as {"train.max_steps": 20}
        runs: where to keep the run
        quiet: no progress, no preview
    """
    need_torch()
    from miaobi.verbs.finetune.settings import settle

    origin = str(recipe) if isinstance(recipe, str | Path) else ""
    tree = (
        dict(recipe)
        if isinstance(recipe, Mapping)
        else config.read_recipe(recipe)
        if recipe
        else {}
    )
    short = {"--base": base, "--data": data, "--method": method, "--name": name}
    words = [
        part
        for key, value in short.items()
        if value is not None
        for part in (key, str(value))
    ]
    words += config.as_argv(settings or {})
    done = _run(settle(tree, words, origin), Path(runs), quiet=quiet)
    assert isinstance(done, Tuned)
    return done


def resume(
    run: str | Path,
    *,
    runs: Path = Path("runs"),
    words: Sequence[str] = (),
    quiet: bool = False,
) -> Tuned:
    """Go on with a run that was stopped, exactly as if it had not been."""
    need_torch()
    from miaobi.train.run import find_run
    from miaobi.verbs.finetune.settings import settle

    folder = find_run(str(run), runs)
    read = config.read_yaml(folder / "config.yaml")
    before = folder / "before.json"
    previous = (
        json.loads(before.read_text(encoding="utf-8")) if before.exists() else None
    )
    done = _run(
        settle(read, words, str(folder / "config.yaml")),
        folder.parent,
        folder=folder,
        quiet=quiet,
        before=Store().resolve(previous["model"]) if previous else None,
        replay=previous["replay"] if previous else 1.0,
    )
    assert isinstance(done, Tuned)
    return done


def again(
    model: str,
    *,
    words: Sequence[str],
    replay: float = 1.0,
    runs: Path = Path("runs"),
    promote: bool = False,
    dry_run: bool = False,
    quiet: bool = False,
) -> Tuned | Plan:
    """Tune a tuned model further on new data: a new version under its name, compared
    with the one it came from.

    Args:
        model: a tuned model in the store
        words: the new data (["--data", "new.jsonl"]) and settings over those of the last time
        replay: old training examples for each new one, so that what was learned is not lost
    """
    need_torch()
    from miaobi.models.tuned import FAMILY
    from miaobi.verbs.finetune.settings import settle, spelled_out

    version = Store().resolve(model)
    manifest = bundle.read(version.path)
    if manifest.family != FAMILY:
        raise BadInput(
            say(
                f"{version} was not made by fine-tuning.",
                f"{version} 不是微调得到的模型。",
            ),
            f"miaobi finetune --base {version} --data ...",
        )
    told = spelled_out(words)
    if (
        config.peek(told, "data.path") is None
        and config.peek(told, "data.pack") is None
    ):
        raise BadInput(
            say("Which new data?", "新数据在哪里？"),
            f"miaobi finetune --continue {model} --data new.jsonl",
        )
    recipe = {
        key: dict(value) if isinstance(value, Mapping) else value
        for key, value in manifest.recipe.items()
    }
    recipe["data"] |= {
        "path": "",
        "pack": "",
        "validation_path": "",
        "test_path": "",
        "max_examples": 0,
    }
    recipe["train"] = {
        key: value
        for key, value in recipe["train"].items()
        if key
        not in ("max_steps", "validate_every", "checkpoint_every", "sample_every")
    }
    return _run(
        settle(recipe, told),
        runs,
        before=version,
        replay=replay,
        promote=promote,
        dry_run=dry_run,
        quiet=quiet,
    )


def _run(
    settings: Any,
    runs: Path,
    folder: Path | None = None,
    dry_run: bool = False,
    quiet: bool = False,
    promote: bool = False,
    before: Version | None = None,
    replay: float = 1.0,
) -> Tuned | Plan:
    import torch

    from miaobi.train import estimate, loop, processes
    from miaobi.train import run as runs_of
    from miaobi.verbs.finetune.report import Report
    from miaobi.verbs.finetune.work import Work

    torch.manual_seed(settings.train.seed)
    torch.set_flush_denormal(True)
    with processes.process_group(processes.pick_device(settings.train.device)):
        quiet = quiet or processes.rank() > 0
        work = Work.open(settings, before, replay, quiet)
        settings = work.settings
        state = loop.start(work.learner, settings.train)
        torch.manual_seed(settings.train.seed + processes.rank())
        known = estimate.estimate(state, work.data, folder or runs)
        estimate.check_limits(
            known, settings.train.max_minutes, settings.train.max_steps
        )
        if not quiet:
            work.show_preview()
        if dry_run:
            return Plan(config.nested(settings.values), known)
        place = folder or runs_of.new_folder(runs, settings.name)
        report = Report(work, place, known)
        if before is not None and processes.rank() == 0:
            write_text(
                place / "before.json",
                json.dumps({"model": str(before), "replay": replay}),
            )
        report.evaluate_base(state)
        runs_of.restore_newest(state, place)
        run = runs_of.Run(
            place,
            settings.train,
            config.nested(settings.values),
            "finetune",
            report.sample,
            report.watch,
        )
        try:
            report.seconds = run.train(state, work.data, known, quiet)
        except KeyboardInterrupt:
            report.write(state)
            raise
        run.conclude(state, work.data)
        return _finish(work, state, report, place, before, promote)


def _finish(
    work: Any,
    state: Any,
    report: Any,
    place: Path,
    before: Version | None,
    promote: bool,
) -> Tuned:
    """Compare with the base, bundle, put into the store, report."""
    from miaobi.models.tuned import FAMILY
    from miaobi.train import loop, processes
    from miaobi.tune import methods

    settings, makes = work.settings, work.settings.task.MAKES
    if processes.rank() > 0:
        return Tuned(
            settings.name,
            place / "bundle",
            place,
            place / "report.html",
            state.step,
            report.seconds,
            (),
            makes=makes,
        )
    with loop.averaged(state):
        report.evaluate_tuned(state)
        manifest = bundle.Manifest(
            FAMILY,
            makes,
            recipe=config.nested(settings.values),
            data=work.facts(),
            parents=(str(before) if before else work.base.name,),
            metrics={
                **{f"test_{score.name}": score.value for score in report.tuned_scores},
                "validation_loss": state.validation,
                "seconds": round(report.seconds, 1),
                "steps": state.step,
            },
        )

        def write(draft: Path) -> None:
            methods.save(work.learner, settings.tune, draft)
            work.learner.save(draft)
            shutil.copy(place / "log.jsonl", draft / "log.jsonl")

        shutil.rmtree(place / "bundle", ignore_errors=True)
        bundle.write(place / "bundle", manifest, write)
    version = Store().add(place / "bundle", settings.name)
    report.model = str(version)
    promoted = promote and all(
        item.better is not False for item in report.differences[:1]
    )
    if promoted:
        Store().promote(str(version))
    report.write(state)
    return Tuned(
        str(version),
        version.path,
        place,
        place / "report.html",
        state.step,
        report.seconds,
        tuple(report.differences),
        promoted,
        makes,
        settings.task.MODALITY,
    )
