"""Evaluate a tuned model by its own task, and its base or another version of it on the
same examples.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from miaobi.core.errors import BadInput, NotFound
from miaobi.core.language import say
from miaobi.evaluate.evaluation import ModelReport, Options, Progress, Results
from miaobi.evaluate.page import Block
from miaobi.models.tuned import FAMILY

if TYPE_CHECKING:
    from miaobi.core.engine import Weights
    from miaobi.models.tuned import Tuned
    from miaobi.tune.learner import Evaluation, Example, Learner

LIMIT = 200
"""Test examples, where --limit sets no number."""
BATCH_SIZE = 8
WORST_EXAMPLES = 6
"""Shown on the page."""
MAX_RECORDS = 1_000_000
"""Read from a file of test examples."""


LEAD = (
    "How it does at what it was tuned for; every score with its sample size and interval.",
    "在其微调任务上的表现；每个数字都附样本量与置信区间。",
)


@dataclass(frozen=True)
class Reference:
    """What the second model is evaluated by, and how the first one did."""

    tuned: Tuned
    """Whose task counts."""
    examples: list[Example]
    source: str
    """Where the examples are from, in words."""
    evaluations: list[Evaluation]


def evaluates(models: Sequence[Weights]) -> bool:
    """Return whether one of them was tuned: a plain base is evaluated beside it."""
    return any(weights.family == FAMILY for weights in models)


def evaluate_model(
    name: str,
    weights: Weights,
    options: Options,
    reference: Reference | None,
    progress: Progress,
) -> ModelReport:
    """Open, evaluate and close one model; see Evaluator."""
    from miaobi.engines.load import load
    from miaobi.evaluate import tuned as evaluation
    from miaobi.evaluate.compare import differences, scores
    from miaobi.models.tuned import open_tuned
    from miaobi.train.tracking import read_log
    from miaobi.tune.text import teacher

    began = time.monotonic()
    tuned = open_tuned(weights) if weights.family == FAMILY else None
    if reference is not None:
        first = reference.tuned
        examples, source = reference.examples, reference.source
    elif tuned is not None:
        first = tuned
        examples, source = held_out(first, options)
    else:
        raise _no_task(name)
    with teacher.opened_by(load):
        learner = _learner(tuned, first, name)
    length = int(first.manifest.recipe["data"]["max_length"])
    evaluations = evaluation.evaluate(
        learner,
        [learner.encode(example.columns, length) for example in examples],
        BATCH_SIZE,
        lambda share: progress(say("test examples", "测试样本"), share),
    )
    metrics = learner.metrics()
    label = weights.label
    sections = list[tuple[str, tuple[Block, ...]]]()
    changes = tuple[str, ...]()
    if reference is not None:
        changed = differences(metrics, evaluations, reference.evaluations)
        changes = tuple(map(str, changed))
        sections.append(_comparison(first.label, label, changes))
    sections.append(_worst_examples(label, examples, evaluations))
    is_bundle = weights.format == "bundle"
    results = Results(
        model=label,
        engine="training",
        scores=tuple(scores(metrics, evaluations, options.seed)),
        missing=(),
        samples=(),
        documents=len(examples),
        data=source,
        seconds=round(time.monotonic() - began, 1),
        curve=tuple(read_log(weights.path)) if is_bundle else (),
        beside=changes,
    )
    settings = {
        say("Task", "任务"): first.manifest.recipe["task"],
        say("Test examples", "测试样本"): f"{source} ({len(examples)})",
    }
    return ModelReport(
        results,
        tuple(sections),
        settings,
        Reference(first, examples, source, evaluations),
        _next_step(first, label),
    )


def _no_task(name: str) -> BadInput:
    return BadInput(
        say(
            f"{name} has no task of its own to be evaluated by.",
            f"{name} 没有可据以评估的任务。",
        ),
        say(
            "Name the tuned model first: miaobi evaluate TUNED --against BASE.",
            "请先写微调后的模型：miaobi evaluate 微调模型 --against 基础模型。",
        ),
    )


def _comparison(
    first: str, second: str, changes: Sequence[str]
) -> tuple[str, tuple[Block, ...]]:
    from miaobi.evaluate.page import prose

    heading = say(
        f"{first} beside {second}, example by example",
        f"{first} 与 {second} 逐例对比",
    )
    return heading, (prose(*changes),)


def _worst_examples(
    label: str, examples: Sequence[Example], evaluations: Sequence[Evaluation]
) -> tuple[str, tuple[Block, ...]]:
    from miaobi.evaluate.compare import worst
    from miaobi.evaluate.page import table
    from miaobi.verbs.readable import answer_of, readable

    rows = list[list[str]]()
    for position in worst(evaluations, WORST_EXAMPLES):
        example, evaluation = examples[position], evaluations[position]
        rows.append(
            [
                readable(example.parts),
                readable(answer_of(example)),
                readable(evaluation.answer),
                f"{evaluation.loss:.3f}",
            ]
        )
    columns = [
        say("Question", "提问"),
        say("Expected", "期望"),
        say("Answer", "回答"),
        say("Loss", "损失"),
    ]
    heading = say(f"Where {label} does worst", f"{label} 表现最差之处")
    return heading, (table(columns, rows),)


def _next_step(first: Tuned, label: str) -> tuple[str, str]:
    if not first.writes:
        return "", ""
    sentence = say(
        "Export it to llama.cpp, LM Studio or Ollama:",
        "导出到 llama.cpp、LM Studio 或 Ollama：",
    )
    return sentence, f"miaobi export {label} --merge --to gguf"


def _learner(tuned: Tuned | None, first: Tuned, name: str) -> Learner:
    """Return a tuned model's learner, or that of a plain base with an untrained head.

    Args:
        tuned: the model; None for a plain base
        first: the model whose task counts
        name: of the base
    """
    from miaobi.models.base import open_base
    from miaobi.tune.saved import head_of, learner_of, task_of

    if tuned is None:
        learner: Learner = task_of(first).learner(
            open_base(name), first.manifest.data["spec"], head_of(first)
        )
        return learner.eval()
    if tuned.task_name != first.task_name:
        raise BadInput(
            say(
                f"{tuned.label} was tuned for {tuned.task_name}, {first.label} for {first.task_name}.",
                f"{tuned.label} 的任务是 {tuned.task_name}，{first.label} 的任务是 {first.task_name}。",
            ),
            say("Compare models of one task.", "请比较同一任务的模型。"),
        )
    return learner_of(tuned)


def held_out(tuned: Tuned, options: Options) -> tuple[list[Example], str]:
    """Return (the examples to evaluate by, where they are from).

    They are those of --data, or the test split of the data that the model was tuned on.

    Raises:
        NotFound: that data is no longer here
        BadInput: examples of --data do not fit, or were trained on
    """
    from miaobi.tune.examples import read_split
    from miaobi.tune.saved import task_of

    folder = Path(str(tuned.manifest.data["folder"]))
    limit = options.limit or LIMIT
    task = task_of(tuned)
    if options.data is not None:
        examples = _read(tuned, options.data)
        if folder.exists() and not options.allow_leakage:
            _refuse_leaks(examples, read_split(folder, "train", task))
        return examples[:limit], str(options.data)
    if not folder.exists():
        raise NotFound(
            say(
                f"The data {tuned.label} was tuned on is no longer in {folder}.",
                f"{tuned.label} 微调所用的数据已不在 {folder}。",
            ),
            say("Set test examples with --data.", "请用 --data 给出测试样本。"),
        )
    source = say("its own test split", "自身的测试集")
    return read_split(folder, "test", task)[:limit], source


def _read(tuned: Tuned, data: Path) -> list[Example]:
    from miaobi.data import readers
    from miaobi.data.text.shapes import Unusable
    from miaobi.tune.examples import example_of
    from miaobi.tune.learner import Example
    from miaobi.tune.saved import head_of, task_of

    task, head = task_of(tuned), head_of(tuned)
    columns = tuned.manifest.recipe["data"].get("columns") or {}
    records = readers.get(task.READER)(str(data), "")
    examples = list[Example]()
    for location, record in islice(records, MAX_RECORDS):
        try:
            example = example_of(location, record, columns, task, head)
            task.check(example, tuned.manifest.data["spec"], head)
        except Unusable as error:
            raise BadInput(error.at(location), error.remedy) from None
        examples.append(example)
    if not examples:
        raise BadInput(
            say(f"{data} holds no example.", f"{data} 中没有样本。"),
            say(
                f"Expected records such as {task.EXAMPLE}",
                f"应为这样的记录：{task.EXAMPLE}",
            ),
        )
    return examples


def _refuse_leaks(examples: Sequence[Example], trained: Sequence[Example]) -> None:
    """Raise BadInput where a test example asks what a training example asks."""
    from miaobi.tune.examples import describe_leaks, question_digest, shared_questions

    questions, trained_questions = (
        [(question_digest(example.parts), example.location) for example in side]
        for side in (examples, trained)
    )
    leaks = shared_questions(questions, trained_questions)
    if not leaks:
        return
    listed = describe_leaks(leaks)
    raise BadInput(
        say(
            f"{len(leaks)} of the {len(examples)} test examples were trained on: {listed}",
            f"{len(examples)} 条测试样本中有 {len(leaks)} 条用于过训练：{listed}",
        ),
        say(
            "Take them out, or continue with --allow-leakage: the scores will be too good.",
            "请去掉它们，或用 --allow-leakage 继续，但结果会偏高。",
        ),
    )
