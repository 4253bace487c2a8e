"""The verb of a kind of request that has none of its own: `miaobi generate embedding
--model minilm --texts "a fox" --out fox.json`.

The fields of the request are its options. `generate.other:NAME` is the verb of the
request that is registered as NAME.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from miaobi.core.artifacts import Facts, FinishReason
from miaobi.core.config import Noted, flat
from miaobi.core.errors import Unsupported
from miaobi.core.language import say
from miaobi.core.requests import Request, command_for, requests
from miaobi.engines.load import load
from miaobi.provenance.publish import check_ending
from miaobi.verbs.generate.making import collect, new_path, offers, origin, write


@dataclass(frozen=True)
class Answer:
    """One generated artifact, and the file that holds it."""

    file: Path
    finish: FinishReason
    facts: Facts


@dataclass(frozen=True)
class GeneratedFiles:
    """Generated artifacts and their files."""

    out: Path
    """The file, or the folder of numbered files."""
    answers: tuple[Answer, ...]

    def __str__(self) -> str:
        files = list(dict.fromkeys(str(answer.file) for answer in self.answers))
        return files[0] if len(files) == 1 else f"{files[0]} … {Path(files[-1]).name}"


def __getattr__(name: str) -> Callable[..., GeneratedFiles]:
    if name not in requests:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return verb_of(requests.get(name))


def verb_of(kind: type[Request]) -> Callable[..., GeneratedFiles]:
    """Return the function whose options are the fields of this kind of request."""

    def verb(
        *,
        model: Annotated[str, Noted(offers)],
        request: Any,
        out: Path | None = None,
        engine: str = "auto",
    ) -> GeneratedFiles:
        """Generate with a model.

        Args:
            model: A name in the store, a starter pack, a model folder, a URL or a hub id.
            out: The file to write, labelled, in place of one that is there; its ending
                decides the format. Without --out: NAME-SEED here.
            engine: The name of an engine, or auto for what reads the model.
        """
        return generate(kind, model, request, out, engine)

    verb.__annotations__["request"] = Annotated[kind, flat]
    return verb


def generate(
    kind: type[Request], model: str, request: Request, out: Path | None, engine: str
) -> GeneratedFiles:
    """Answer a request and write the answers.

    Args:
        kind: what the model has to take.
        model: its name.
        request: what is asked of it.
        out: the file; None for a new name in the current folder.
        engine: the name of an engine, or auto.
    """
    if out is not None:
        check_ending(out, kind.answer)
    with load(
        model, engine=engine, streams=request.n, needs=request.controls()
    ) as opened:
        takes = opened.engine.takes
        if not issubclass(takes, kind):
            raise Unsupported(
                say(
                    f"{opened.name} makes {takes.makes}, not {kind.makes}.",
                    f"{opened.name} 生成 {takes.makes}，而不是 {kind.makes}。",
                ),
                command_for(takes.makes, model),
            )
        full = opened.request(request, seed=request.seed)
        began = time.perf_counter()
        artifacts = collect(opened, full)
        seconds = time.perf_counter() - began
        where = origin(opened, full.seed)
        print(
            say(
                f"{where} · {len(artifacts)} in {seconds:.1f} s",
                f"{where} · {len(artifacts)} 个，{seconds:.1f} 秒",
            ),
            file=sys.stderr,
        )
        path = out or new_path(opened.name, full)
    answers = [
        Answer(file, artifact.finish, artifact.facts)
        for file, artifact in zip(write(artifacts, path), artifacts, strict=True)
    ]
    return GeneratedFiles(path, tuple(answers))
