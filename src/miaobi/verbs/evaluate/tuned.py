"""Judging a tuned model by its own task, and its base or another version of it on the
same examples.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miaobi.core.errors import BadInput, NotFound
from miaobi.core.language import say
from miaobi.evaluate.evaluation import ModelReport, Options, Progress, Results

if TYPE_CHECKING:
    from miaobi.core.engine import Weights
    from miaobi.models.tuned import Tuned
    from miaobi.tune.learner import Evaluation, Example, Learner

LIMIT, BATCH, SHOWN = 200, 8, 6


@dataclass(frozen=True)
class Known:
    """What the second model is judged by: the first one's task, examples, and how it did."""

    tuned: Tuned
    examples: list[Example]
    place: str
    judged: list[Evaluation]


def judge(
    name: str,
    weights: Weights,
    options: Options,
    known: Known | None,
    progress: Progress,
) -> ModelReport:
    """Open, measure and close one model; the first must be a tuned one, whose task and
    data count.
    """
    from miaobi.engines.load import load
    from miaobi.evaluate import tuned as judging
    from miaobi.evaluate.compare import differences, scores
    from miaobi.evaluate.page import prose, table
    from miaobi.models.tuned import FAMILY, open_tuned
    from miaobi.train.tracking import read_log
    from miaobi.tune.text import teacher
    from miaobi.verbs.readable import answer_of, readable

    began = time.monotonic()
    if known is None and weights.family != FAMILY:
        raise BadInput(
            say(
                f"{name} has no task of its own to be judged by.",
                f"{name} 没有可据以评估的任务。",
            ),
            say(
                "Name the tuned model first: miaobi evaluate TUNED --against BASE.",
                "请先写微调后的模型：miaobi evaluate 微调模型 --against 基础模型。",
            ),
        )
    tuned = open_tuned(weights) if weights.family == FAMILY else None
    first = tuned if known is None else known.tuned
    assert first is not None
    examples, place = (
        (known.examples, known.place) if known else held_out(first, options)
    )
    with teacher.opened_by(load):
        learner = _learner(tuned, first, name)
    length = int(first.manifest.recipe["data"]["max_length"])
    judged = judging.evaluate(
        learner,
        [learner.encode(example.columns, length) for example in examples],
        BATCH,
        lambda share: progress(say("test examples", "测试样本"), share),
    )
    figures, sections, beside = learner.metrics(), list[Any](), tuple[str, ...]()
    label = weights.label
    if known is not None:
        beside = tuple(map(str, differences(figures, judged, known.judged)))
        sections.append(
            (
                say(
                    f"{known.tuned.label} beside {label}, example by example",
                    f"{known.tuned.label} 与 {label} 逐例对比",
                ),
                (prose(*beside),),
            )
        )
    rows = [
        [
            readable(examples[at].parts),
            readable(answer_of(examples[at])),
            readable(judged[at].answer),
            f"{judged[at].loss:.3f}",
        ]
        for at in sorted(range(len(judged)), key=lambda at: -judged[at].loss)[:SHOWN]
    ]
    sections.append(
        (
            say(f"Where {label} does worst", f"{label} 表现最差之处"),
            (
                table(
                    [
                        say("Asked", "提问"),
                        say("Wanted", "期望"),
                        say("Answer", "回答"),
                        say("Loss", "损失"),
                    ],
                    rows,
                ),
            ),
        )
    )
    outcome = Results(
        label,
        "training",
        tuple(scores(figures, judged, options.seed)),
        (),
        (),
        len(examples),
        place,
        round(time.monotonic() - began, 1),
        tuple(read_log(weights.path)) if weights.format == "bundle" else (),
        beside,
    )
    settings = {
        say("Task", "任务"): first.manifest.recipe["task"],
        say("Test examples", "测试样本"): f"{place} ({len(examples)})",
    }
    onward = (
        say(
            "Take it to llama.cpp, LM Studio or Ollama:",
            "导出到 llama.cpp、LM Studio 或 Ollama：",
        ),
        f"miaobi export {label} --merge --to gguf",
    )
    return ModelReport(
        outcome,
        tuple(sections),
        settings,
        Known(first, examples, place, judged),
        onward if first.manifest.modality == "text" else ("", ""),
    )


def _learner(tuned: Tuned | None, first: Tuned, name: str) -> Learner:
    """A tuned model's own; of a plain base, what the first one's task makes of it, with
    a head that has learned nothing.
    """
    from miaobi.models.base import open_base
    from miaobi.tune.saved import head_of, learner_of, task_of

    if tuned is None:
        learner: Learner = task_of(first).learner(
            open_base(name), first.manifest.data["spec"], head_of(first)
        )
        return learner.eval()
    if tuned.manifest.recipe["task"] != first.manifest.recipe["task"]:
        raise BadInput(
            say(
                f"{tuned.label} was tuned for {tuned.manifest.recipe['task']}, "
                f"{first.label} for {first.manifest.recipe['task']}.",
                f"{tuned.label} 的任务是 {tuned.manifest.recipe['task']}，"
                f"{first.label} 的任务是 {first.manifest.recipe['task']}。",
            ),
            say("Compare models of one task.", "请比较同一任务的模型。"),
        )
    return learner_of(tuned)


def held_out(tuned: Tuned, options: Options) -> tuple[list[Example], str]:
    """The examples to judge by: of the file that was given, or the test split of the
    data it was tuned on.
    """
    from miaobi.tune.examples import read_split
    from miaobi.tune.saved import task_of

    folder = Path(str(tuned.manifest.data["folder"]))
    limit = options.limit or LIMIT
    if options.data is None:
        if not folder.exists():
            raise NotFound(
                say(
                    f"The data {tuned.label} was tuned on is no longer in {folder}.",
                    f"{tuned.label} 微调所用的数据已不在 {folder}。",
                ),
                say("Give test examples with --data.", "请用 --data 给出测试样本。"),
            )
        return read_split(folder, "test", task_of(tuned))[:limit], say(
            "its own test split", "自身的测试集"
        )
    found = _read(tuned, options.data)
    if folder.exists() and not options.allow_leakage:
        _refuse_leaks(tuned, found, read_split(folder, "train", task_of(tuned)))
    return found[:limit], str(options.data)


def _read(tuned: Tuned, data: Path) -> list[Example]:
    from miaobi.data.labelled import readers
    from miaobi.data.text.shapes import Unusable
    from miaobi.tune.examples import example_of
    from miaobi.tune.learner import Example
    from miaobi.tune.saved import head_of, task_of

    task, found = task_of(tuned), list[Example]()
    names = tuned.manifest.recipe["data"].get("columns") or {}
    for place, record in islice(readers.get(task.READER)(str(data), ""), 1_000_000):
        try:
            example = example_of(place, record, names, task, head_of(tuned))
            task.check(example, tuned.manifest.data["spec"], head_of(tuned))
        except Unusable as error:
            raise BadInput(f"{place}: {error.what}", error.remedy) from None
        found.append(example)
    if not found:
        raise BadInput(
            say(f"{data} holds no example.", f"{data} 中没有样本。"),
            say(
                f"Expected records such as {task.EXAMPLE}",
                f"应为这样的记录：{task.EXAMPLE}",
            ),
        )
    return found


def _refuse_leaks(
    tuned: Tuned, found: Sequence[Example], trained: Sequence[Example]
) -> None:
    from miaobi.tune.examples import describe_leaks, question_digest, shared_questions

    leaks = shared_questions(
        *(
            [(question_digest(example.parts), example.location) for example in examples]
            for examples in (found, trained)
        )
    )
    if leaks:
        shown = describe_leaks(leaks)
        raise BadInput(
            say(
                f"{len(leaks)} of the {len(found)} test examples were trained on: {shown}",
                f"{len(found)} 条测试样本中有 {len(leaks)} 条用于过训练：{shown}",
            ),
            say(
                "Take them out, or go on with --allow-leakage: the figures will flatter the model.",
                "请去掉它们，或用 --allow-leakage 继续，但结果会偏高。",
            ),
        )
