"""Runs whose folder lies at a URL. A run works in a folder here and is copied there.

    memory://runs/poet-20261121-221500/
      checkpoints/step-00000100/   written with its marker last: half a one is never chosen
      checkpoints/best-00000080/   a name of its own for each, since nothing is renamed there
      config.yaml  log.jsonl  ...  the rest of the folder, but for bundle/ (it is in the store)

The folder here is under $MIAOBI_HOME/runs and has the URL in `.elsewhere`. A run on a plain
path is not copied: every function here does nothing, or returns that path.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from miaobi.core import storage
from miaobi.core.files import home, locked, write_text
from miaobi.core.storage import Location, Url

ORIGIN = ".elsewhere"
COPIED = ".copied.json"
"""What was copied to the URL, in the folder here: name -> [bytes, time]."""
CLAIM = ".begun"
"""At the URL: the name of this run is taken."""
LEFT_HERE = ("bundle", "checkpoints")
"""Folders of a run that are not copied file by file."""


def folder_of_runs(runs: Location) -> Path:
    """Return the folder here in which runs of `runs` work."""
    if isinstance(runs, Path):
        return runs
    return home() / "runs" / hashlib.sha256(str(runs).encode()).hexdigest()[:16]


def claim(run: Url) -> Path | None:
    """Return the folder here of a new run at a URL; None where the name is taken."""
    if not storage.create(run / CLAIM):
        return None
    folder = folder_of_runs(run.parent) / run.name
    folder.mkdir(parents=True)
    write_text(folder / ORIGIN, str(run))
    return folder


def origin(folder: Path) -> Location:
    """Return where a run lies: at a URL, or in its folder."""
    path = folder / ORIGIN
    return Url(path.read_text(encoding="utf-8")) if path.exists() else folder


def names(runs: Location) -> list[str]:
    """Return the names of the runs under `runs`, the newest last."""
    if isinstance(runs, Path):
        folders = [path.parent for path in runs.glob("*/config.yaml")]
        folders.sort(key=lambda folder: folder.stat().st_mtime)
        return [folder.name for folder in folders]
    begun = [
        name
        for name in storage.names(runs)
        if storage.exists(runs / name / "config.yaml")
    ]
    # A name ends with its time: poet-20261121-221500.
    return sorted(begun, key=lambda name: name.split("-")[-2:])


def push(folder: Path) -> None:
    """Copy what changed in a run's folder to its URL, if it has one."""
    run = origin(folder)
    if isinstance(run, Path):
        return
    copied = _copied(folder)
    for name, state in _small_files(folder).items():
        if state != copied.get(name):
            storage.put(folder / name, run / name)
            copied[name] = state
    _push_checkpoints(folder / "checkpoints", run / "checkpoints", copied)
    write_text(folder / COPIED, json.dumps(copied))


def _push_checkpoints(here: Path, there: Url, copied: dict[str, Any]) -> None:
    """Copy the checkpoints that are new, then delete those that are no longer here."""
    current = {path.name: path for path in sorted(here.glob("step-*"))}
    best = here / "best"
    if best.exists():
        step = json.loads((best / "state.json").read_text())["step"]
        current[f"best-{step:08d}"] = best
    for name, path in current.items():
        state = storage.state(path / "state.json")
        if copied.get(name) != state:
            storage.copy_tree(path, there / name)
            copied[name] = state
    for name in storage.names(there):
        if name not in current:
            storage.delete(there / name)


def _copied(folder: Path) -> dict[str, Any]:
    path = folder / COPIED
    copied: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return copied


def _small_files(folder: Path) -> Mapping[str, Any]:
    """The states of a run's files by name, without checkpoints and bundle."""
    states = dict[str, Any]()
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        is_hidden = any(part.startswith(".") for part in PurePosixPath(name).parts)
        if file.is_file() and not is_hidden and name.split("/")[0] not in LEFT_HERE:
            states[name] = storage.state(file)
    return states


def pull(run: Url) -> Path:
    """Bring a run at a URL to its folder here, with its newest and its best checkpoint,
    unless what is here is as new; return the folder.
    """
    folder = folder_of_runs(run.parent) / run.name
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        checkpoints = run / "checkpoints"
        whole = [
            name
            for name in storage.names(checkpoints)
            if storage.is_complete(checkpoints / name)
        ]
        steps = [name for name in whole if name.startswith("step-")]
        bests = [name for name in whole if name.startswith("best-")]
        here = sorted(path.name for path in folder.glob("checkpoints/step-*"))
        is_new_here = (folder / "config.yaml").exists() and here[-1:] >= steps[-1:]
        if not is_new_here:
            _fetch(run, folder, [*steps[-1:], *bests[-1:]])
    return folder


def _fetch(run: Url, folder: Path, checkpoints: Sequence[str]) -> None:
    for file in storage.files(run):
        name = storage.relative(file, run)
        if name.split("/")[0] not in LEFT_HERE and name != CLAIM:
            storage.write(folder / name, storage.read(file))
    copied = dict(_small_files(folder))
    for name in checkpoints:
        target = folder / "checkpoints" / ("best" if name.startswith("best-") else name)
        if target.exists():
            storage.delete(target)
        storage.fetch_tree(run / "checkpoints" / name, target)
        copied[name] = storage.state(target / "state.json")
    write_text(folder / ORIGIN, str(run))
    write_text(folder / COPIED, json.dumps(copied))
