"""Judge a model: how well it foresees what it has not seen, how good and varied its
samples are, and how much it copies.

Every score states its sample size and a 95 % interval; what cannot be measured is said,
with the reason. This file asks, tells and draws the page; evaluate_texts.py,
evaluate_pictures.py and evaluate_tuned.py know the models.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from miaobi.core.config import plain
from miaobi.core.errors import BadInput, Unsupported
from miaobi.core.files import write_text
from miaobi.core.language import say
from miaobi.evaluate.evaluation import ModelReport, Options, Progress, Results
from miaobi.evaluate.score import Score

JUDGES = {
    "text": "miaobi.verbs.evaluate.text",
    "image": "miaobi.verbs.evaluate.image",
    "tuned": "miaobi.verbs.evaluate.tuned",
}


@dataclass(frozen=True)
class Evaluation:
    """What `miaobi evaluate` found; also in report.json beside the page."""

    judged: tuple[Results, ...]
    settings: Mapping[str, Any]
    page: Path

    @property
    def scores(self) -> tuple[Score, ...]:
        """The scores of the model that was asked about."""
        return self.judged[0].scores

    def __str__(self) -> str:
        return _table(self)


def evaluate(
    model: str,
    *,
    against: str | None = None,
    data: Path | None = None,
    samples: int | None = None,
    limit: int | None = None,
    out: Path | None = None,
    engine: str = "auto",
    extractor: str | None = None,
    allow_leakage: bool = False,
    seed: int = 0,
) -> Evaluation:
    """Judge a model and write report.json and index.html.

    Args:
        model: A name in the store ("poet", "digits-vae@2"), a starter pack, a path or a hub id.
        against: Another model of the same kind, judged on the same held-out data and shown beside.
        data: Held-out text or pictures to judge by, for models whose own are not known
            here (whatever `data inspect` reads).
        samples: How many texts (20) or pictures (1000, or as many as three minutes
            allow) to have made.
        limit: At most so many held-out documents (200), or held-out and as many
            training pictures (10000).
        out: Folder for the report; runs/evaluate/NAME by default.
        engine: auto takes one that tells how likely a text is, where there is one.
        extractor: For pictures, what features are measured with: efficientnet-lite0
            (the default), or an ONNX file of one's own.
        allow_leakage: Judge a tuned model although --data holds examples it was trained on.
        seed: Decides which documents, prompts and samples; the same seed gives the same report.
    """
    names = [model, *([against] if against else [])]
    for name, value in (("samples", samples), ("limit", limit)):
        if value is not None and value < 1:
            raise BadInput(
                say(f"{name} is {value}.", f"{name} 为 {value}。"),
                say("Give 1 or more.", "请给出不小于 1 的值。"),
            )
    kind = _kind_of(names)
    folder = out or Path("runs") / "evaluate" / "-vs-".join(
        name.replace("/", "_") for name in names
    )
    reports = _reports(
        kind,
        names,
        Options(data, samples, limit, engine, extractor or "", seed, allow_leakage),
    )
    settings = {
        "samples": samples,
        "limit": limit,
        "seed": seed,
        "data": str(data or ""),
        "extractor": extractor or "",
    }
    result = Evaluation(
        tuple(report.results for report in reports), settings, folder / "index.html"
    )
    write_text(
        folder / "report.json", json.dumps(plain(result), ensure_ascii=False, indent=1)
    )
    write_page(result, reports, kind)
    return result


def _kind_of(names: list[str]) -> str:
    """What these models make. Raises BadInput for a model beside itself, or for two
    that make different things.
    """
    from miaobi.models.tuned import FAMILY
    from miaobi.models.weights import find

    found = [find(name) for name in names]
    if len({weights.location for weights in found}) < len(names):
        raise BadInput(
            say(
                f"{names[0]} and {names[1]} are the same model.",
                f"{names[0]} 与 {names[1]} 是同一个模型。",
            ),
            say(
                "Give --against another name or version.",
                "请用 --against 给出另一个模型或版本。",
            ),
        )
    if any(weights.family == FAMILY for weights in found):
        return FAMILY
    kinds = [weights.modality for weights in found]
    if len(set(kinds)) > 1:
        raise BadInput(
            say(
                f"{names[0]} makes {kinds[0]}, {names[1]} makes {kinds[1]}.",
                f"{names[0]} 生成 {kinds[0]}，{names[1]} 生成 {kinds[1]}。",
            ),
            say(
                "Give --against a model of the same kind.",
                "请用 --against 给出同类的模型。",
            ),
        )
    if kinds[0] not in JUDGES:
        raise Unsupported(
            say(
                f"{names[0]} makes {kinds[0]}, which cannot be judged yet.",
                f"{names[0]} 生成 {kinds[0]}，暂时无法评估。",
            ),
            ", ".join(JUDGES),
        )
    return kinds[0]


def _reports(kind: str, names: list[str], options: Options) -> list[ModelReport]:
    """The models one after another, the later ones by the held-out data of the first."""
    from miaobi.models.weights import find

    reports = list[ModelReport]()
    for name in names:
        weights = find(name)
        with _progress(str(weights.name)) as progress:
            reports.append(
                import_module(JUDGES[kind]).judge(
                    name,
                    weights,
                    options,
                    reports[0].reference if reports else None,
                    progress,
                )
            )
    return reports


@contextmanager
def _progress(model: str) -> Iterator[Progress]:
    """Bars on stderr with the time left; nothing where there is no terminal."""
    import sys

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )
    tasks: dict[str, Any] = {}
    with bars:

        def tell(name: str, share: float) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(f"{model}: {name}", total=1.0)
            bars.update(tasks[name], completed=share)

        yield tell


def write_page(result: Evaluation, reports: Sequence[ModelReport], kind: str) -> None:
    """The evaluation as one HTML page."""
    from miaobi.evaluate.page import Page, facts, loss_chart, prose, score_table, steps

    models = [item.model for item in result.judged]
    page = Page(
        say("Evaluation of ", "评估：") + say(" and ", " 与 ").join(models),
        {
            "text": say(
                "What it foresees, how varied it writes, how much it copies; "
                "every figure with its sample size and interval.",
                "预测能力、多样性与复制程度；每个数字都附样本量与置信区间。",
            ),
            "tuned": say(
                "How it does at what it was tuned for; every figure with its sample size and interval.",
                "在其微调任务上的表现；每个数字都附样本量与置信区间。",
            ),
            "image": say(
                "How close its pictures come to real ones, how varied they "
                "are, how much they copy; every figure with its sample size "
                "and interval.",
                "图片的逼真程度、多样性与复制程度；每个数字都附样本量与置信区间。",
            ),
        }[kind],
    )
    page.add(
        say("Scores", "得分"),
        score_table({item.model: item.scores for item in result.judged}),
        prose(*_missing(result.judged)),
    )
    for report in reports:
        for heading, blocks in report.sections:
            page.add(heading, *blocks)
        page.generated_by(report.results.model)
    for item in result.judged:
        if item.curve:
            page.add(
                say(f"How {item.model} learned", f"{item.model} 的学习过程"),
                loss_chart(item.curve),
            )
    measured = {
        name: ", ".join(
            dict.fromkeys(
                str(report.settings[name])
                for report in reports
                if name in report.settings
            )
        )
        for name in reports[0].settings
    }
    page.add(
        say("How it was measured", "测量方式"),
        facts(
            {
                **measured,
                say("Seed", "随机种子"): result.settings["seed"],
                say("Seconds", "秒"): round(
                    sum(item.seconds for item in result.judged), 1
                ),
            }
        ),
    )
    page.add(
        say("What to do next", "下一步"), steps(*_next(models[0], reports[0].next_step))
    )
    page.write(result.page)


def _next(model: str, onward: tuple[str, str]) -> list[tuple[str, str]]:
    """What suits a version in the store; a model from elsewhere can only be set beside another."""
    name, _, number = model.partition("@")
    other = (
        f"{name}@{int(number) - 1}" if number.isdigit() and int(number) > 1 else "OTHER"
    )
    compare = (
        say(
            "Set it beside another model on the same data:",
            "在同样的数据上与另一个模型比较：",
        ),
        f"miaobi evaluate {model} --against {other}",
    )
    return (
        [
            compare,
            (
                say("Put this version into production:", "设为正式版："),
                f"miaobi models promote {model}",
            ),
            onward,
        ]
        if number
        else [compare]
    )


def _table(result: Evaluation) -> str:
    from io import StringIO

    from rich.console import Console
    from rich.table import Table

    from miaobi.evaluate.page import format_number

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for item in result.judged:
        table.add_column(item.model, justify="right")
        table.add_column("95 %", justify="left", style="dim")
        table.add_column("n", justify="right", style="dim")
    labels = {
        score.name: score.label or score.name
        for item in result.judged
        for score in item.scores
    }
    for name, label in labels.items():
        cells = list[str]()
        for item in result.judged:
            score = next((one for one in item.scores if one.name == name), None)
            cells += (
                [
                    f"{format_number(score.value)} {score.unit}".strip(),
                    f"{format_number(score.low)} – {format_number(score.high)}",
                    str(score.n),
                ]
                if score
                else ["–", "", ""]
            )
        table.add_row(label, *cells)
    text = StringIO()
    Console(file=text, width=110).print(table)
    return "\n".join(
        [
            *(line.rstrip() for line in text.getvalue().splitlines()),
            *_missing(result.judged),
            *(line for item in result.judged for line in item.beside),
            "",
            str(result.page),
        ]
    )


def _missing(judged: Sequence[Results]) -> list[str]:
    """What could not be measured and why; of which model, where only one of two lacks it."""
    reasons = {
        f"{item.metric}: {item.why}": [
            other.model for other in judged if item in other.missing
        ]
        for one in judged
        for item in one.missing
    }
    return [
        f"{reason} ({models[0]})" if len(models) < len(judged) else reason
        for reason, models in reasons.items()
    ]
