"""The report of a fine-tuning run as data: the five steps filled in.

`report` is a function of what base and tuned model did on the test and of the facts of
the run. It measures nothing and writes nothing; finetune/page.py draws what it returns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from miaobi.core import machine
from miaobi.core.config import plain
from miaobi.core.language import say
from miaobi.evaluate import tuned
from miaobi.evaluate.compare import Difference, differences, scores, worst
from miaobi.train.loop import State
from miaobi.tune.defaults import Derived
from miaobi.tune.examples import Lengths
from miaobi.tune.learner import Example, Learner, Metric
from miaobi.verbs.finetune.outcome import Outcome
from miaobi.verbs.finetune.settings import Settings
from miaobi.verbs.finetune.work import Work
from miaobi.verbs.readable import answer_of

Advice = tuple[str, str]
"""(a sentence, the command or the flag that follows it)."""


@dataclass(frozen=True)
class RunFacts:
    """All that the report says of a run beside the outcomes of the test."""

    folder: Path
    model: str
    """Name and version in the store; empty while the run has not ended."""
    settings: Settings
    base: str
    base_hash: str
    again_from: str
    """The tuned model that was tuned again; empty for a plain base."""
    data: Mapping[str, Any]
    """What preparation counted."""
    left_out: Sequence[str]
    lengths: Lengths
    spec: Mapping[str, Any]
    """What the head needs to know of the training data."""
    new_modules: Sequence[str]
    """Modules whose weights the base does not have."""
    preview: Sequence[tuple[str, Sequence[tuple[str, bool]]]]
    """(location, (piece, whether the loss looks at it)...) of a few training examples."""
    derived: Sequence[Derived]
    metrics: Sequence[Metric]
    test_examples: Sequence[Example]
    trainable: int
    """Parameters that are trained."""
    parameters: int
    """All parameters."""
    steps: int
    best_step: int
    validation_loss: float | None
    seconds: float
    """Spent in steps, over all resumes."""
    memory_gb: float
    """Largest resident memory of the process so far."""

    @classmethod
    def of(cls, work: Work, state: State, folder: Path, model: str = "") -> RunFacts:
        trainable, parameters = parameter_counts(work.learner)
        return cls(
            folder=folder,
            model=model,
            settings=work.settings,
            base=work.base.name,
            base_hash=work.base.identity,
            again_from=str(work.before or ""),
            data=work.data.spec,
            left_out=sorted(work.data.left_out),
            lengths=work.lengths,
            spec=work.spec,
            new_modules=work.learner.fresh,
            preview=work.preview(),
            derived=work.reasons,
            metrics=work.learner.metrics(),
            test_examples=work.data.examples("test"),
            trainable=trainable,
            parameters=parameters,
            steps=state.step,
            best_step=state.best_step,
            validation_loss=state.validation,
            seconds=state.seconds,
            memory_gb=machine.peak_memory() / 1e9,
        )


def parameter_counts(learner: Learner) -> tuple[int, int]:
    """Return (parameters that are trained, all parameters)."""
    parameters = list(learner.net.parameters())
    trainable = sum(item.numel() for item in parameters if item.requires_grad)
    return trainable, sum(item.numel() for item in parameters)


def report(before: Outcome, after: Outcome, run: RunFacts) -> dict[str, Any]:
    """Return the five steps as plain mappings, lists, text and numbers.

    Args:
        before: the base on the test
        after: the tuned model on the same test; empty while the run has not ended
        run: everything else
    """
    steps = {
        "model": run.model or run.settings.name,
        "finished": bool(run.model),
        "run": str(run.folder),
        "1 base and data": _base_and_data(run),
        "2 task and head": _task_and_head(run),
        "3 how it is changed": _method(run),
        "4 training": _training(run),
        "5 test": _test(before, after, run),
        "what next": [
            {"why": sentence, "command": command}
            for sentence, command in _advice(before, after, run)
        ],
    }
    return {key: plain(value) for key, value in steps.items()}


def _base_and_data(run: RunFacts) -> dict[str, Any]:
    return {
        "base": run.base,
        "parameters": run.parameters,
        "hash": run.base_hash,
        "again_from": run.again_from,
        "source": run.settings.data.pack or run.settings.data.path,
        "data": dict(run.data),
        "left_out": run.left_out,
        "lengths": run.lengths,
    }


def _task_and_head(run: RunFacts) -> dict[str, Any]:
    return {
        "task": run.settings.task.NAME,
        "head": run.settings.head,
        "spec": dict(run.spec),
        "new_modules": list(run.new_modules),
        "preview": run.preview,
    }


def _method(run: RunFacts) -> dict[str, Any]:
    return {
        "tune": run.settings.tune,
        "trainable": run.trainable,
        "train": run.settings.train,
        "derived": [
            {"key": item.key, "value": item.value, "reason": item.reason}
            for item in run.derived
        ],
    }


def _training(run: RunFacts) -> dict[str, Any]:
    return {
        "steps": run.steps,
        "best_step": run.best_step,
        "validation_loss": run.validation_loss,
        "seconds": round(run.seconds, 1),
        "memory_gb": round(run.memory_gb, 2),
    }


def _test(before: Outcome, after: Outcome, run: RunFacts) -> dict[str, Any]:
    return {
        "base": scores(run.metrics, before.evaluations),
        "tuned": scores(run.metrics, after.evaluations),
        "differences": differences(run.metrics, before.evaluations, after.evaluations),
        "answers": _side_by_side(before, after, run),
        "forgetting": forgetting(before, after),
        "on_training_examples": scores(run.metrics, after.on_training),
    }


def forgetting(before: Outcome, after: Outcome) -> list[Difference]:
    """Return how much less likely a general text became, where that was measured."""
    return differences([tuned.GENERAL_LOSS], before.general, after.general)


def _side_by_side(
    before: Outcome, after: Outcome, run: RunFacts
) -> list[dict[str, Any]]:
    """Return both answers to the worst examples that were answered, worst first."""
    order = worst(after.evaluations, len(after.evaluations))
    answered = [position for position in order if position in after.answers]
    rows = list[dict[str, Any]]()
    for position in answered[: run.settings.report.answers]:
        example = run.test_examples[position]
        rows.append(
            {
                "place": example.location,
                "asked": example.parts,
                "wanted": answer_of(example),
                "loss": after.evaluations[position].loss,
                "base": before.answers.get(position),
                "tuned": after.answers[position],
            }
        )
    return rows


def _advice(before: Outcome, after: Outcome, run: RunFacts) -> list[Advice]:
    """Return what to try next."""
    if not run.model:
        resume = f"miaobi finetune --resume {run.folder}"
        return [(say("Resume this run:", "继续这次训练："), resume)]
    name = run.model.partition("@")[0]
    return [
        *_advice_on_training(before, after, run),
        *_advice_on_data(run),
        *_advice_on_forgetting(before, after),
        (
            say("Put it into production:", "设为正式版："),
            f"miaobi models promote {run.model}",
        ),
        (
            say("Tune it again when new data comes:", "有新数据时再次微调："),
            f"miaobi finetune --continue {name} --data new.jsonl",
        ),
    ]


def _advice_on_training(before: Outcome, after: Outcome, run: RunFacts) -> list[Advice]:
    advice = list[Advice]()
    max_steps = run.settings.train.max_steps
    longer = f"--train.max_steps {2 * max_steps}"
    changes = differences(run.metrics, before.evaluations, after.evaluations)
    if changes and changes[0].better is not True:
        sentence = say(
            "The test shows no gain yet. More or cleaner examples "
            "help most; then more steps or a higher learning rate.",
            "测试未显示提升。更多、更干净的样本最有效；其次是更多步数或更高学习率。",
        )
        advice.append((sentence, longer))
    if run.best_step == max_steps:
        sentence = say(
            "Validation was still improving at the end: train longer.",
            "训练结束时验证损失仍在下降：可以训练更久。",
        )
        advice.append((sentence, longer))
    return advice


def _advice_on_data(run: RunFacts) -> list[Advice]:
    advice = list[Advice]()
    cut = run.lengths.cut
    if cut:
        sentence = say(
            f"{cut} examples were longer than data.max_length.",
            f"有 {cut} 条样本超过 data.max_length。",
        )
        advice.append((sentence, f"--data.max_length {run.lengths.needed}"))
    contradictions = run.data.get("contradictions")
    if contradictions:
        sentence = say(
            f"{contradictions} questions have more than one answer: "
            "correct them if they should not.",
            f"有 {contradictions} 个提问存在多个答案，如非本意请修正。",
        )
        advice.append((sentence, ""))
    return advice


def _advice_on_forgetting(before: Outcome, after: Outcome) -> list[Advice]:
    changes = forgetting(before, after)
    if not changes or changes[0].better is not False:
        return []
    sentence = say(
        "A general text became less likely: mix general "
        "examples in, or take a lower learning rate or rank.",
        "通用文本的概率下降：可混入通用样本，或降低学习率与秩。",
    )
    return [(sentence, "")]
