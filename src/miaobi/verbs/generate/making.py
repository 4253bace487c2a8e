"""What all `generate` verbs do: collect the answers, name and write their files."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from miaobi.core.artifacts import Artifact
from miaobi.core.language import say
from miaobi.core.requests import Request
from miaobi.engines import auto, engines
from miaobi.engines.collected import Collected
from miaobi.engines.model import Model
from miaobi.models.weights import find
from miaobi.provenance import writers
from miaobi.provenance.label import NOTICE
from miaobi.provenance.publish import is_folder, publish, publish_each

MAX_NAMES = 10_000
"""File names that are tried before giving up."""


def origin(model: Model, seed: int | None) -> str:
    """Return the notice, and what made the answers."""
    return f"{NOTICE} · {model.weights.label} · {model.engine_name} · seed {seed}"


def offers(name: str) -> str:
    """Return what can be set with a model, known without opening it."""
    weights = find(name)
    engine = auto.choose(weights)
    controls = sorted(engines.get(engine).ABILITIES.of(weights))
    listed = ", ".join(f"--{control.replace('_', '-')}" for control in controls)
    return say(
        f"{weights.label} ({engine}) offers: {listed}",
        f"{weights.label}（{engine}）支持：{listed}",
    )


def collect(model: Model, request: Request) -> Sequence[Artifact]:
    """Return the answers, with a progress bar; Ctrl-C keeps those that are done."""
    from miaobi.data.progress import bar

    collected = Collected(request)
    progress = dict[int, float]()
    try:
        with bar() as show:
            for chunk in model.stream(request):
                collected.add(chunk)
                share = 1.0 if chunk.finish else chunk.progress or 0.0
                progress[chunk.index] = share
                show(model.name, sum(progress.values()), request.n)
    except KeyboardInterrupt:
        artifacts = collected.artifacts(model.facts(request))
        if not artifacts:
            raise
        print(
            say(
                f"Stopped: {len(artifacts)} of {request.n} are done.",
                f"已停止：完成 {len(artifacts)}/{request.n}。",
            ),
            file=sys.stderr,
        )
        return artifacts
    return collected.artifacts(model.facts(request))


def new_path(name: str, request: Request) -> Path:
    """Return a new name in the current folder: a file, or a folder for several artifacts
    that are numbered.
    """
    writer = writers.get(request.answer.__name__)
    stem = f"{Path(name).name}-{request.seed}"
    in_folder = writer.NUMBERED and request.n > 1
    ending = "" if in_folder else next(iter(writer.ENDINGS))
    names = [f"{stem}{ending}"]
    names += [f"{stem}-{number}{ending}" for number in range(2, MAX_NAMES)]
    return next(path for path in map(Path, names) if not path.exists())


def write(artifacts: Sequence[Artifact], out: Path) -> list[Path]:
    """Write the artifacts and return the file of each."""
    if is_folder(out, type(artifacts[0])):
        return publish_each(artifacts, out)
    return [publish(artifacts, out)] * len(artifacts)
