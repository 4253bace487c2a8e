"""Evaluate a model: how well it predicts held-out data, how good and varied its samples
are, and how much it copies.

Every score has its sample size and a 95 % interval; what cannot be measured is listed
with the reason. This module runs the evaluation and writes the page; the registered
evaluators know the models.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

from pydantic import Field

from miaobi.core.config import checked, plain
from miaobi.core.errors import BadInput, NotFound, Unsupported
from miaobi.core.files import write_text
from miaobi.core.language import say
from miaobi.core.registry import Registry
from miaobi.core.store import Store
from miaobi.data.progress import PlainLines
from miaobi.evaluate.evaluation import ModelReport, Options, Progress, Results
from miaobi.evaluate.score import Score, to_row

if TYPE_CHECKING:
    from miaobi.core.engine import Weights
    from miaobi.evaluate.page import Page


class Evaluator(Protocol):
    """A module that evaluates one kind of model: opens it, finds its data, measures."""

    LEAD: tuple[str, str]
    """What an evaluation says, in English and in Chinese; the page begins with it."""

    def evaluates(self, models: Sequence[Weights]) -> bool:
        """Return whether all of these can be evaluated, by the same held-out data."""
        ...

    def evaluate_model(
        self,
        name: str,
        weights: Weights,
        options: Options,
        reference: Any,
        progress: Progress,
    ) -> ModelReport:
        """Open, evaluate and close one model.

        Args:
            name: as the user wrote it
            weights: of the model
            options: how to evaluate
            reference: `ModelReport.reference` of the first model; None for the first
            progress: called with (what is measured, the share that is done)
        """
        ...


evaluators: Registry[Evaluator] = Registry(
    "evaluators",
    {
        "tuned": "miaobi.verbs.evaluate.tuned",
        "fills": "miaobi.verbs.evaluate.fills",
        "pairs": "miaobi.verbs.evaluate.pairs",
        "text": "miaobi.verbs.evaluate.text",
        "image": "miaobi.verbs.evaluate.image",
    },
)
"""The first that evaluates the models is taken, those of other packages before these."""
TABLE_WIDTH = 110


@dataclass(frozen=True)
class Evaluation:
    """The results of `miaobi evaluate`; also in report.json beside the page."""

    judged: tuple[Results, ...]
    settings: Mapping[str, Any]
    page: Path

    @property
    def scores(self) -> tuple[Score, ...]:
        """The scores of the first model."""
        return self.judged[0].scores

    def __str__(self) -> str:
        changes = [line for item in self.judged for line in item.beside]
        missing = _missing(self.judged)
        return "\n".join([*_table(self), *missing, *changes, "", str(self.page)])


@checked
def evaluate(
    model: str,
    *,
    against: str | None = None,
    data: Path | None = None,
    samples: Annotated[int, Field(ge=1)] | None = None,
    limit: Annotated[int, Field(ge=1)] | None = None,
    out: Path | None = None,
    engine: str = "auto",
    extractor: str | None = None,
    allow_leakage: bool = False,
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0,
) -> Evaluation:
    """Evaluate a model and write report.json and index.html.

    Args:
        model: A name in the store ("poet", "digits-vae@2"), a starter pack, a path or a hub id.
        against: Another model of the same kind, evaluated on the same held-out data and shown beside.
        data: Held-out text or pictures to evaluate by, for models whose own are not known
            here (whatever `data inspect` reads).
        samples: Number of texts (20) or pictures (1000, or as many as three minutes
            allow) to generate.
        limit: At most so many held-out documents (200), or held-out and as many
            training pictures (10000).
        out: Folder for the report; runs/evaluate/NAME by default, and NAME-2, NAME-3 after it.
        engine: auto takes one that gives log-probabilities of texts, where there is one.
        extractor: For pictures, what features are measured with: efficientnet-lite0
            (the default), or an ONNX file of one's own.
        allow_leakage: Evaluate a tuned model although --data holds examples it was trained on.
        seed: Decides which documents, prompts and samples; the same seed gives the same report.
    """
    names = [model, *([against] if against else [])]
    weights = _find(names)
    evaluator = _evaluator_of(names, weights)
    options = Options(
        data, samples, limit, engine, extractor or "", seed, allow_leakage
    )
    reports = _reports(evaluator, names, weights, options)
    default = "-vs-".join(name.replace("/", "_") for name in names)
    folder = out or _free_folder(Path("runs") / "evaluate", default)
    result = Evaluation(
        tuple(report.results for report in reports),
        {
            "samples": samples,
            "limit": limit,
            "seed": seed,
            "data": str(data or ""),
            "extractor": extractor or "",
        },
        folder / "index.html",
    )
    content = json.dumps(plain(result), ensure_ascii=False, indent=1)
    write_text(folder / "report.json", content)
    for item, report in zip(weights, reports, strict=True):
        _record(item, report.results.scores)
    page(result, reports, say(*evaluator.LEAD)).write(result.page)
    return result


def _record(weights: Weights, scores: Sequence[Score]) -> None:
    """Store the scores beside a model of the store."""
    store = Store()
    with suppress(NotFound):
        version = store.resolve(weights.label)
        if str(version.location) == weights.location:
            store.record_scores(version, list(map(to_row, scores)))


def _free_folder(parent: Path, name: str) -> Path:
    """Return a folder of this name, numbered where there is one: a report stays."""
    folder = parent / name
    number = 1
    while folder.exists():
        number += 1
        folder = parent / f"{name}-{number}"
    return folder


def _find(names: list[str]) -> list[Weights]:
    """Return the weights of these models. Raises BadInput where they are the same."""
    from miaobi.models.weights import find

    weights = [find(name) for name in names]
    if len({item.location for item in weights}) < len(names):
        raise BadInput(
            say(
                f"{names[0]} and {names[1]} are the same model.",
                f"{names[0]} 与 {names[1]} 是同一个模型。",
            ),
            say(
                "Use another name or version with --against.",
                "请用 --against 给出另一个模型或版本。",
            ),
        )
    return weights


def _evaluator_of(names: list[str], weights: list[Weights]) -> Evaluator:
    """Return what evaluates these models.

    Raises:
        BadInput: they are of different kinds
        Unsupported: models of this kind cannot be evaluated
    """
    for name in [*evaluators.added(), *evaluators.built_in()]:
        evaluator = evaluators.get(name)
        if evaluator.evaluates(weights):
            return evaluator
    makes = [item.modality for item in weights]
    if len(set(makes)) > 1:
        raise BadInput(
            say(
                f"{names[0]} makes {makes[0]}, {names[1]} makes {makes[1]}.",
                f"{names[0]} 生成 {makes[0]}，{names[1]} 生成 {makes[1]}。",
            ),
            say(
                "Use a model of the same kind with --against.",
                "请用 --against 给出同类的模型。",
            ),
        )
    raise Unsupported(
        say(
            f"{names[0]} makes {makes[0]}, which cannot be evaluated yet.",
            f"{names[0]} 生成 {makes[0]}，暂时无法评估。",
        ),
        ", ".join(evaluators.names()),
    )


def _reports(
    evaluator: Evaluator, names: list[str], weights: list[Weights], options: Options
) -> list[ModelReport]:
    """Evaluate one model after another, the later ones by the first one's held-out data."""
    reports = list[ModelReport]()
    for name, item in zip(names, weights, strict=True):
        reference = reports[0].reference if reports else None
        with _progress(item.name) as progress:
            reports.append(
                evaluator.evaluate_model(name, item, options, reference, progress)
            )
    return reports


@contextmanager
def _progress(model: str) -> Iterator[Progress]:
    """Show bars on stderr with the time left; without a terminal, a line at the end of
    each metric, and now and then within one.
    """
    if not sys.stderr.isatty():
        print_line = PlainLines(each_end=True)
        yield lambda name, share: print_line(f"{model}: {name}", share, 1.0)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    tasks: dict[str, Any] = {}
    with bars:

        def show(name: str, share: float) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(f"{model}: {name}", total=1.0)
            bars.update(tasks[name], completed=share)

        yield show


def page(result: Evaluation, reports: Sequence[ModelReport], lead: str) -> Page:
    """Return the evaluation as one HTML page that begins with `lead`."""
    from miaobi.evaluate.page import Page, facts, loss_chart, prose, score_table, steps

    models = [item.model for item in result.judged]
    title = say("Evaluation of ", "评估：") + say(" and ", " 与 ").join(models)
    drawn = Page(title, lead)
    drawn.add(
        say("Scores", "得分"),
        score_table({item.model: item.scores for item in result.judged}),
        prose(*_missing(result.judged)),
    )
    for report in reports:
        for heading, blocks in report.sections:
            drawn.add(heading, *blocks)
        drawn.generated_by(report.results.model)
    for item in result.judged:
        if item.curve:
            drawn.add(
                say(f"How {item.model} learned", f"{item.model} 的学习过程"),
                loss_chart(item.curve),
            )
    drawn.add(say("How it was measured", "测量方式"), facts(_method(result, reports)))
    next_steps = _next_steps(models[0], reports[0].next_step)
    drawn.add(say("What to do next", "下一步"), steps(*next_steps))
    return drawn


def _method(result: Evaluation, reports: Sequence[ModelReport]) -> dict[str, Any]:
    """Return how the models were measured; where they differ, one value for each."""
    rows: dict[str, Any] = {}
    for name in reports[0].settings:
        values = [
            str(report.settings[name]) for report in reports if name in report.settings
        ]
        rows[name] = ", ".join(dict.fromkeys(values))
    seconds = sum(item.seconds for item in result.judged)
    return {
        **rows,
        say("Seed", "随机种子"): result.settings["seed"],
        say("Seconds", "秒"): round(seconds, 1),
    }


def _next_steps(model: str, next_step: tuple[str, str]) -> list[tuple[str, str]]:
    """Return what suits a version in the store; another model can only be compared."""
    name, _, number = model.partition("@")
    has_earlier = number.isdigit() and int(number) > 1
    other = f"{name}@{int(number) - 1}" if has_earlier else "OTHER"
    compare = (
        say(
            "Compare it with another model on the same data:",
            "在同样的数据上与另一个模型比较：",
        ),
        f"miaobi evaluate {model} --against {other}",
    )
    if not number:
        return [compare]
    promote = (
        say("Put this version into production:", "设为正式版："),
        f"miaobi models promote {model}",
    )
    return [compare, promote, next_step]


def _table(result: Evaluation) -> list[str]:
    """Return the scores as the lines of a table, with three columns for each model."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    labels = dict[str, str]()
    for item in result.judged:
        table.add_column(item.model, justify="right")
        table.add_column("95 %", justify="left", style="dim")
        table.add_column("n", justify="right", style="dim")
        for score in item.scores:
            labels[score.name] = score.label or score.name
    for name, label in labels.items():
        cells = list[str]()
        for item in result.judged:
            cells += _cells(item, name)
        table.add_row(label, *cells)
    text = StringIO()
    Console(file=text, width=TABLE_WIDTH).print(table)
    return [line.rstrip() for line in text.getvalue().splitlines()]


def _cells(results: Results, name: str) -> list[str]:
    from miaobi.evaluate.page import format_number

    for score in results.scores:
        if score.name == name:
            return [
                f"{format_number(score.value)} {score.unit}".strip(),
                f"{format_number(score.low)} – {format_number(score.high)}",
                str(score.n),
            ]
    return ["–", "", ""]


def _missing(judged: Sequence[Results]) -> list[str]:
    """Return what could not be measured and why; the model where only one lacks it."""
    models_by_reason = dict[str, list[str]]()
    for results in judged:
        for item in results.missing:
            models = models_by_reason.setdefault(f"{item.metric}: {item.why}", [])
            models.append(results.model)
    return [
        f"{reason} ({models[0]})" if len(models) < len(judged) else reason
        for reason, models in models_by_reason.items()
    ]
