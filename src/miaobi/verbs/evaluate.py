"""Judge a model: how well it foresees text it has not seen, how varied it writes, and how much it copies.

Every score states its sample size and a 95 % interval; what cannot be measured is said, with the reason.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miaobi.core import bundle, registry
from miaobi.core.config import plain
from miaobi.core.files import home, write_beside, write_text
from miaobi.core.language import say
from miaobi.evaluate.score import Score
from miaobi.evaluate.subject import Sample, Subject, chosen

if TYPE_CHECKING:
    from miaobi.core.engine import Weights
    from miaobi.data.tokenizer import Tokenizer
    from miaobi.data.tokens import Tokens
    from miaobi.engines.load import Model


@dataclass(frozen=True)
class Missing:
    metric: str
    why: str


@dataclass(frozen=True)
class Judged:
    """The scores of one model."""

    model: str
    engine: str
    scores: tuple[Score, ...]
    missing: tuple[Missing, ...]
    samples: tuple[Sample, ...]
    documents: int
    data: str
    seconds: float
    curve: tuple[Mapping[str, Any], ...] = ()
    """The log of the run that trained it, where it was trained here."""


@dataclass(frozen=True)
class Evaluation:
    """What `miaobi evaluate` found; also in report.json beside the page."""

    judged: tuple[Judged, ...]
    settings: Mapping[str, Any]
    page: Path

    @property
    def scores(self) -> tuple[Score, ...]:
        """The scores of the model that was asked about."""
        return self.judged[0].scores

    def __str__(self) -> str:
        return _table(self)


def evaluate(model: str, *, against: str | None = None, data: Path | None = None, samples: int = 20, limit: int = 200,
             out: Path | None = None, engine: str = "auto", seed: int = 0) -> Evaluation:
    """Judge a model and write report.json and index.html.

    Args:
        model: A name in the store ("poet", "poet@2"), a starter pack, a path or a hub id.
        against: Another model, judged on the same text and shown beside.
        data: Held-out text to judge by, for models whose own is not known here (any format that `data inspect` reads).
        samples: How many texts to have written.
        limit: At most so many held-out documents.
        out: Folder for the report; runs/evaluate/NAME by default.
        engine: auto takes one that tells how likely a text is, where there is one.
        seed: Decides which documents, prompts and samples; the same seed gives the same report.
    """
    names = [model, *([against] if against else [])]
    _check_unlike(names)
    folder = out or Path("runs") / "evaluate" / "-vs-".join(name.replace("/", "_") for name in names)
    known = None if data is None else chosen(_documents(data), limit, seed)
    judged = []
    for name in names:
        found, texts = _judge(name, engine, data, known, samples, limit, seed)
        judged.append(found)
        known = known or texts
    settings = {"samples": samples, "limit": limit, "seed": seed, "data": str(data or "")}
    result = Evaluation(tuple(judged), settings, folder / "index.html")
    write_text(folder / "report.json", json.dumps(plain(result), ensure_ascii=False, indent=1))
    write_page(result, result.page)
    return result


def _check_unlike(names: list[str]) -> None:
    from miaobi.core.errors import BadInput
    from miaobi.engines.weights import find

    if len({find(name).location for name in names}) < len(names):
        raise BadInput(say(f"{names[0]} and {names[1]} are the same model.", f"{names[0]} 与 {names[1]} 是同一个模型。"),
                       say("Give --against another name or version.", "请用 --against 给出另一个模型或版本。"))


def _judge(name: str, engine: str, data: Path | None, known: list[str] | None, samples: int, limit: int,
           seed: int) -> tuple[Judged, list[str]]:
    """Open, measure and close one model; also the held-out text it was judged by."""
    from miaobi.engines.load import load
    from miaobi.engines.weights import find
    from miaobi.train.tracking import read_log

    began = time.monotonic()
    weights = find(name)
    with load(name, engine=_telling(weights) if engine == "auto" else engine) as opened:
        own = _own_data(weights)
        if known is None and own is not None:
            split = "test" if own.count("test") else "validation"
            known = chosen(own.documents(split), limit, seed)
        with _progress(str(weights.name)) as progress:
            subject = _subject(opened, weights, own, known or [], samples, seed)
            scores, missing = measure(subject, progress)
        place = str(data) if data else say("its own held-out text", "自身的留出文本") if own else say("none", "无")
        label = f"{weights.name}@{weights.version}" if weights.version else weights.name
        written = tuple(subject.samples)
        curve = tuple(read_log(weights.path)) if weights.format == "bundle" else ()
        return Judged(label, opened.engine_name, tuple(scores), tuple(missing), written, len(subject.held_out), place,
                      round(time.monotonic() - began, 1), curve), list(subject.held_out)


def measure(subject: Subject, progress: Callable[[str, float], None]) -> tuple[list[Score], list[Missing]]:
    """Run every registered metric of the subject's modality that can be measured."""
    scores, missing = list[Score](), list[Missing]()
    for name in sorted(registry.metrics.names(), key=lambda name: (name != "likelihood", name)):
        metric = registry.metrics.get(name)
        if subject.modality != metric.MODALITY:
            continue
        why = subject.lacks(metric.NEEDS)
        if why:
            missing.append(Missing(name, why))
            continue
        subject.listeners[:] = [lambda share, name=name: progress(name, share)]
        scores.extend(metric.measure(subject))
        progress(name, 1.0)
    return scores, missing


def _subject(opened: Model, weights: Weights, own: Tokens | None, held_out: list[str], samples: int, seed: int) -> Subject:
    words = _tokenizer(weights)
    score = opened.score if opened.engine.abilities.score else None
    return Subject(
        name=opened.name, generate=lambda prompt, **controls: opened.generate(opened.start + prompt or _start(words), raw=True, **controls),
        score=score, encode=_encoder(words), tokenizer=words.name if words else "", start=_start(words),
        context_length=min(opened.context_length, 1024), held_out=held_out, training=_training_text(own) if own else None,
        count=samples, max_new_tokens=max(8, min(96, opened.context_length // 2)), seed=seed)


def _telling(weights: Weights) -> str:
    """An engine that reads these weights and tells how likely a text is; otherwise the usual choice."""
    for name in registry.engines.names():
        module = registry.engines.get(name)
        if weights.format in module.FORMATS and module.ABILITIES.score and not module.installed() and module.reads(weights):
            return name
    return "auto"


def _own_data(weights: Weights) -> Tokens | None:
    """The prepared data that a bundle was trained on, where it is still here."""
    from miaobi.data.tokens import MANIFEST, Tokens

    if weights.format != "bundle":
        return None
    manifest = bundle.read(weights.path)
    folder = Path(str(manifest.data.get("folder", "")))
    if manifest.modality != "text" or not (folder / MANIFEST).exists():
        return None
    return Tokens(folder, int(manifest.recipe.get("data", {}).get("context_length", 256)))


def _training_text(own: Tokens) -> Path:
    """The training split as one UTF-8 file, written once for each data set."""
    target = home() / "evaluate" / f"{own.fingerprint}.txt"
    if not target.exists():
        with write_beside(target) as draft, draft.open("w", encoding="utf-8") as file:
            for document in own.documents("train"):
                file.write(document + "\n")
    return target


def _documents(data: Path) -> Iterator[str]:
    from miaobi.data.files import read
    return (document.training_text() for document in read(data, strict=False, report=lambda problem: None))


def _tokenizer(weights: Weights) -> Tokenizer | None:
    from miaobi.core.errors import MiaobiError
    from miaobi.data.tokenizer import load

    if weights.format == "url":
        return None
    try:
        return load(weights.path)
    except MiaobiError:
        return None  # a kind of tokenizer that is not known here: the likelihood is then reported as not measurable


def _start(words: Tokenizer | None) -> str:
    return str(words.backend.id_to_token(words.end_id)) if words else ""


def _encoder(words: Tokenizer | None) -> Callable[[str], list[tuple[int, int, int]]] | None:
    if words is None:
        return None

    def encode(text: str) -> list[tuple[int, int, int]]:
        words.backend.encode_special_tokens = False
        encoding = words.backend.encode(text, add_special_tokens=False)
        return [(token, first, last) for token, (first, last) in zip(encoding.ids, encoding.offsets, strict=True)]
    return encode


@contextmanager
def _progress(model: str) -> Iterator[Callable[[str, float], None]]:
    """Bars on stderr with the time left; nothing where there is no terminal."""
    import sys

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    bars = Progress(TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TimeRemainingColumn(),
                    console=Console(stderr=True), disable=not sys.stderr.isatty())
    tasks: dict[str, Any] = {}
    with bars:
        def tell(name: str, share: float) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(f"{model}: {name}", total=1.0)
            bars.update(tasks[name], completed=share)
        yield tell


def write_page(result: Evaluation, path: Path) -> None:
    """The evaluation as one HTML page."""
    from miaobi.evaluate.page import Page, Quote, facts, loss_chart, prose, quotes, scores, steps

    models = [item.model for item in result.judged]
    page = Page(say("Evaluation of ", "评估：") + say(" and ", " 与 ").join(models),
                say("What it foresees, how varied it writes, how much it copies; every figure with its sample size and interval.",
                    "预测能力、多样性与复制程度；每个数字都附样本量与置信区间。"))
    page.add(say("Scores", "得分"), scores({item.model: item.scores for item in result.judged}),
             prose(*dict.fromkeys(f"{item.metric}: {item.why}" for judged in result.judged for item in judged.missing)))
    for item in result.judged:
        page.add(say(f"Samples of {item.model}", f"{item.model} 的样本"), quotes(Quote(one.text, one.prompt) for one in item.samples[:12]))
        page.generated_by(item.model)
    for item in result.judged:
        if item.curve:
            page.add(say(f"How {item.model} learned", f"{item.model} 的学习过程"), loss_chart(item.curve))
    first = result.judged[0]
    page.add(say("How it was measured", "测量方式"), facts({
        say("Engine", "引擎"): ", ".join(dict.fromkeys(item.engine for item in result.judged)), say("Held-out text", "留出文本"): first.data,
        say("Documents", "文档数"): first.documents, say("Samples", "样本数"): len(first.samples),
        say("Sampling", "采样"): "temperature 0.8, top_p 0.95", say("Seed", "随机种子"): result.settings["seed"],
        say("Seconds", "秒"): sum(item.seconds for item in result.judged)}))
    page.add(say("What to do next", "下一步"), steps(*_next(first.model)))
    page.write(path)


def _next(model: str) -> list[tuple[str, str]]:
    """What suits a version in the store; a model from elsewhere can only be set beside another."""
    name, _, number = model.partition("@")
    other = f"{name}@{int(number) - 1}" if number.isdigit() and int(number) > 1 else "OTHER"
    compare = (say("Set it beside another model on the same text:", "在同一文本上与另一个模型比较："), f"miaobi evaluate {model} --against {other}")
    return [compare] if not number else [
        compare, (say("Put this version into production:", "设为正式版："), f"miaobi models promote {model}"),
        (say("Take it to llama.cpp, LM Studio or Ollama:", "导出到 llama.cpp、LM Studio 或 Ollama："), f"miaobi export {model} --to gguf")]


def _table(result: Evaluation) -> str:
    from io import StringIO

    from rich.console import Console
    from rich.table import Table

    from miaobi.evaluate.page import figure

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for item in result.judged:
        table.add_column(item.model, justify="right")
        table.add_column("95 %", justify="left", style="dim")
        table.add_column("n", justify="right", style="dim")
    labels = {score.name: score.label or score.name for item in result.judged for score in item.scores}
    for name, label in labels.items():
        cells = list[str]()
        for item in result.judged:
            score = next((one for one in item.scores if one.name == name), None)
            cells += [f"{figure(score.value)} {score.unit}".strip(), f"{figure(score.low)} – {figure(score.high)}", str(score.n)] if score else ["–", "", ""]
        table.add_row(label, *cells)
    text = StringIO()
    Console(file=text, width=110).print(table)
    notes = dict.fromkeys(f"{item.metric}: {item.why}" for judged in result.judged for item in judged.missing)
    return "\n".join([*(line.rstrip() for line in text.getvalue().splitlines()), *notes, "", str(result.page)])
