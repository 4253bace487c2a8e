"""What may change when a run is resumed, and what is written of it, so that the manifest
of a version names exactly what made it.

runs/poet-20261121-221500/
  origin.json    the data and the base that the run began with, by what they contain
  resumed.json   settings that changed when it was resumed: [{"step": 12, "changed": {...}}]

Where a run is kept, watched and shown may change at any time, and so may its length.
How it learns may change while it has not ended. Other data, another base, model or
batch make another run.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from miaobi.core import bundle
from miaobi.core.config import plain
from miaobi.core.errors import BadInput
from miaobi.core.files import write_text
from miaobi.core.language import in_each, say
from miaobi.train import checkpoint

ORIGIN = "origin.json"
CHANGES = "resumed.json"
AROUND = frozenset(
    {
        "name",
        "train.max_steps",
        "train.patience",
        "train.keep",
        "train.checkpoint_every",
        "train.sample_every",
        "train.validate_every",
        "train.validation_batches",
        "train.log_every",
        "train.trackers",
        "train.max_minutes",
        "train.device",
        "train.threads",
    }
)
"""Settings that may change at any time, beside those of the sections in `SHOWN`."""
SHOWN = ("sample.", "report.")
LEARNING = frozenset(
    {
        "train.learning_rate",
        "train.warmup",
        "train.schedule",
        "train.decay",
        "train.final_learning_rate",
        "train.clip",
        "train.weight_decay",
    }
)
"""Settings that may change while the run has not ended."""
PLACES = frozenset(
    {"base", "data.path", "data.pack", "data.validation_path", "data.test_path"}
)
"""Settings that say where something lies. What lies there decides: see `check_origin`."""

Settings = Mapping[str, Any]
"""By dotted key."""


def changed(before: Settings, after: Settings) -> dict[str, tuple[Any, Any]]:
    """Return the settings that are in both and differ, as (before, after)."""
    return {
        key: (plain(before[key]), plain(value))
        for key, value in after.items()
        if key in before and plain(before[key]) != plain(value)
    }


def check_settings(folder: Path, verb: str, before: Settings, after: Settings) -> None:
    """Raise BadInput for settings with which the run cannot go on.

    Args:
        folder: the run's.
        verb: "train" or "finetune".
        before: what the run began with.
        after: the same with what is to change.
    """
    changes = changed(before, after)
    progress = _progress(folder)
    ended = _has_ended(folder, progress, before["train.max_steps"])
    has_origin = (folder / ORIGIN).exists()
    refused = {
        key: values
        for key, values in changes.items()
        if not _may_change(key, ended, has_origin)
    }
    if refused:
        raise _another_run(folder, verb, refused, ended)
    if "train.max_steps" in changes:
        _check_length(progress, after)


def _may_change(key: str, ended: bool, has_origin: bool) -> bool:
    if key in AROUND or key.startswith(SHOWN):
        return True
    if key in LEARNING:
        return not ended
    return key in PLACES and has_origin


def _progress(folder: Path) -> Mapping[str, Any]:
    """Return the plain values of the run's newest checkpoint; empty without one."""
    checkpoints = checkpoint.list_checkpoints(folder / "checkpoints")
    if not checkpoints:
        return {}
    content: dict[str, Any] = json.loads((checkpoints[-1] / "state.json").read_text())
    return content


def _has_ended(folder: Path, progress: Mapping[str, Any], max_steps: int) -> bool:
    is_whole = bool(progress) and progress["step"] >= max_steps
    return _has_bundle(folder) or is_whole or bool(progress.get("finished"))


def _has_bundle(folder: Path) -> bool:
    return (folder / "bundle" / bundle.MANIFEST).exists()


def _another_run(
    folder: Path, verb: str, refused: Mapping[str, tuple[Any, Any]], ended: bool
) -> BadInput:
    """Return the error for settings that make another run, with its command."""
    listed = ", ".join(
        f"{key}: {_shown(before)} → {_shown(after)}"
        for key, (before, after) in refused.items()
    )
    options = " ".join(
        f"--{key} {shlex.quote(_shown(after))}" for key, (_, after) in refused.items()
    )
    what = (
        say(f"{folder} has ended", f"{folder} 已经结束")
        if ended
        else say(f"{folder} has begun", f"{folder} 已经开始")
    )
    return BadInput(
        in_each(
            lambda: say(
                f"{what} with other settings ({listed}): the model would not be what they say.",
                f"{what}，所用设置不同（{listed}）：模型将与设置不符。",
            )
        ),
        say(
            f"Start another run: {_new_run(folder, verb)} {options}",
            f"请另起一次训练：{_new_run(folder, verb)} {options}",
        ),
    )


def _new_run(folder: Path, verb: str) -> str:
    return f"miaobi {verb} {shlex.quote(str(folder / 'config.yaml'))}"


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _check_length(progress: Mapping[str, Any], after: Settings) -> None:
    """Raise BadInput for a run that would take no further step."""
    if not progress:
        return
    step = progress["step"]
    max_steps = after["train.max_steps"]
    if max_steps <= step:
        raise BadInput(
            say(
                f"train.max_steps is {max_steps}; the run has taken {step} steps.",
                f"train.max_steps 为 {max_steps}；训练已进行 {step} 步。",
            ),
            say("Give more than that.", "请给出更大的步数。"),
        )
    patience = after["train.patience"]
    if patience and progress["stale"] >= patience:
        raise BadInput(
            say(
                f"The run stopped at step {step}: {progress['stale']} validations brought nothing better.",
                f"训练已在第 {step} 步停止：{progress['stale']} 次验证没有改善。",
            ),
            say(
                "To go on all the same, add --train.patience 0.",
                "若仍要继续，请加上 --train.patience 0。",
            ),
        )


def check_origin(
    folder: Path, verb: str, origin: Mapping[str, str], after: Settings
) -> None:
    """Raise BadInput where a run would go on with other data or another base than it
    began with, as far as that was noted.

    Args:
        folder: the run's.
        verb: "train" or "finetune".
        origin: {"data": its fingerprint, "base": its hash}, the latter where there is one.
        after: the settings that it would go on with.
    """
    path = folder / ORIGIN
    if not path.exists():
        return
    began_with = json.loads(path.read_text(encoding="utf-8"))
    if origin["data"] != began_with["data"]:
        raise BadInput(
            say(
                f"The data is not what {folder.name} began with: other examples, or divided otherwise.",
                f"数据与 {folder.name} 开始时不同：样本或划分有变。",
            ),
            _instead(folder, verb, _data_option(after), after["name"]),
        )
    if origin.get("base") != began_with.get("base"):
        base = f"--base {shlex.quote(after['base'])}"
        raise BadInput(
            say(
                f"The base is not the one that {folder.name} began with: other weights.",
                f"基础模型与 {folder.name} 开始时不同：权重有变。",
            ),
            _instead(folder, verb, base, ""),
        )


def _data_option(after: Settings) -> str:
    key = "data.path" if after["data.path"] else "data.pack"
    return f"--{key} {shlex.quote(after[key])}"


def _instead(folder: Path, verb: str, option: str, name: str) -> str:
    """Return what to do with other data or another base.

    Args:
        folder: the run's.
        verb: "train" or "finetune".
        option: names the data or the base.
        name: of the model; empty where it cannot be tuned again.
    """
    new = f"{_new_run(folder, verb)} {option}"
    if verb == "finetune" and name and _has_bundle(folder):
        again = f"miaobi finetune --continue {name} {option}"
        return say(
            f"Tune the finished model again: {again}. Or start another run: {new}",
            f"请再次微调已完成的模型：{again}。或另起一次训练：{new}",
        )
    return say(
        f"Put it back as it was, or start another run: {new}",
        f"请恢复原样，或另起一次训练：{new}",
    )


def note_origin(folder: Path, origin: Mapping[str, str]) -> None:
    """Write what a run begins with, for `check_origin`."""
    path = folder / ORIGIN
    if not path.exists():
        write_text(path, json.dumps(origin))


def note_changes(folder: Path, step: int, before: Settings, after: Settings) -> None:
    """Write which settings change from this step on, if any does."""
    changes = changed(before, after)
    if not changes:
        return
    notes = [*noted_changes(folder), {"step": step, "changed": changes}]
    write_text(folder / CHANGES, json.dumps(notes, ensure_ascii=False, indent=1))


def noted_changes(folder: Path) -> list[dict[str, Any]]:
    """Return the changes of a run's settings: [{"step", "changed": {key: [before, after]}}]."""
    path = folder / CHANGES
    if not path.exists():
        return []
    notes: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return notes
