"""What base and tuned model do on the same test, and what is measured while training."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from miaobi.core.artifacts import Artifact, Facts, Text
from miaobi.core.errors import BadInput, nearest
from miaobi.core.files import write_text
from miaobi.core.language import say
from miaobi.data.progress import bar
from miaobi.evaluate import tuned
from miaobi.train.loop import State
from miaobi.train.samples import record_samples
from miaobi.train.tracking import Tracker
from miaobi.tune.learner import Evaluation, Metric
from miaobi.verbs.finetune.work import Work
from miaobi.verbs.readable import readable

SAMPLED_EXAMPLES = 2
"""Validation examples that are answered along the way."""


@dataclass(frozen=True)
class Outcome:
    """How one model did on the test split."""

    evaluations: Sequence[Evaluation] = ()
    """Of the test examples, in their order."""
    answers: Mapping[int, Any] = field(default_factory=dict)
    """What the model said, by the example's position in the test split."""
    general: Sequence[Evaluation] = ()
    """Of a general text, window by window; empty where the task does not write."""
    on_training: Sequence[Evaluation] = ()
    """Of training examples, to see what was learned by heart."""


def base_outcome(work: Work, run: Path) -> Outcome:
    """Test the base before the first step, or read base.json where the run has it.

    A resumed run has other weights by now, so the first result is what counts.
    """
    path = run / "base.json"
    if path.exists():
        return _read(path)
    evaluations = _evaluate(work, "test", say("testing the base", "测试基础模型"))
    outcome = Outcome(evaluations, _answers(work, evaluations), _general(work))
    content = {
        "judged": tuned.to_json(outcome.evaluations),
        "general": tuned.to_json(outcome.general),
        "answers": outcome.answers,
    }
    write_text(path, json.dumps(content, ensure_ascii=False))
    return outcome


def _read(path: Path) -> Outcome:
    content = json.loads(path.read_text(encoding="utf-8"))
    return Outcome(
        tuned.from_json(content["judged"]),
        {int(position): answer for position, answer in content["answers"].items()},
        tuned.from_json(content["general"]),
    )


def tuned_outcome(work: Work) -> Outcome:
    """Test the model as it is now, with what `report` asks for."""
    evaluations = _evaluate(
        work, "test", say("testing the tuned model", "测试微调后的模型")
    )
    answers = _answers(work, evaluations)
    general = _general(work)
    on_training = list[Evaluation]()
    if work.settings.report.memorisation:
        on_training = _evaluate(
            work, "train", say("looking for memorisation", "检查记忆程度")
        )
    return Outcome(evaluations, answers, general, on_training)


def _evaluate(work: Work, split: str, label: str) -> list[Evaluation]:
    features = tuned.first_features(work.data, split, work.settings.report.limit)
    with bar() as show:
        return tuned.evaluate(
            work.learner,
            features,
            work.settings.train.batch_size,
            lambda share: show(label, share, 1),
        )


def _answers(work: Work, evaluations: Sequence[Evaluation]) -> dict[int, Any]:
    """Return answers by position in the test split.

    Some tasks answer while they are evaluated. Others that write answer the first few
    examples here.
    """
    if not evaluations:
        return {}
    if evaluations[0].answer is not None:
        return {position: item.answer for position, item in enumerate(evaluations)}
    if not work.learner.writes:
        return {}
    count = min(work.settings.report.answers, len(evaluations))
    examples = work.data.examples("test")[:count]
    with tuned.evaluation_mode(work.learner):
        return {
            position: work.learner.answer(example.parts)
            for position, example in enumerate(examples)
        }


def _general(work: Work) -> list[Evaluation]:
    writes = work.learner.adapter_kind == "CAUSAL_LM"
    if not writes or not work.settings.report.forgetting:
        return []
    return tuned.evaluate_general_text(work.learner, work.base.tokenizer)


def sampler(work: Work, run: Path) -> Callable[[State, Sequence[Tracker]], None]:
    """Return what answers the first validation examples, for samples/ and the trackers."""

    def sample(state: State, trackers: Sequence[Tracker]) -> None:
        examples = work.data.examples("validation")[:SAMPLED_EXAMPLES]
        if not examples or not work.learner.writes:
            return
        texts = list[Artifact]()
        with tuned.evaluation_mode(work.learner):
            for example in examples:
                answer = work.learner.answer(example.parts)
                dialogue = f"{readable(example.parts)}\n→ {readable(answer)}"
                texts.append(Text(dialogue, Facts("")))
        record_samples(texts, work.settings.name, state.step, run, trackers)

    return sample


def watched_metric(work: Work) -> Callable[[State], float] | None:
    """Return what early stopping goes by, lower is better; None for the loss.

    Raises:
        BadInput: the task has no metric of the name in train.watch
    """
    settings = work.settings
    if settings.train.watch == "loss":
        return None
    metric = _metric(work, settings.train.watch)

    def measure(state: State) -> float:
        features = tuned.first_features(work.data, "validation", settings.report.limit)
        evaluations = tuned.evaluate(work.learner, features, settings.train.batch_size)
        return tuned.early_stopping_value(metric, evaluations)

    return measure


def _metric(work: Work, name: str) -> Metric:
    by_name = {metric.name: metric for metric in work.learner.metrics()}
    if name not in by_name:
        task = work.settings.task.NAME
        raise BadInput(
            say(
                f"train.watch is {name!r}, which {task} does not measure.",
                f"train.watch 为 {name!r}，任务 {task} 没有这个指标。",
            ),
            nearest(name, ["loss", *by_name]),
        )
    return by_name[name]
