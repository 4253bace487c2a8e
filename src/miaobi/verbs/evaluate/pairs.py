"""Evaluate a model that writes targets for sources, by its held-out pairs."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from miaobi.core.language import say
from miaobi.evaluate.evaluation import ModelReport, Options, Progress, Results, measure
from miaobi.evaluate.pairs import Pair, PairSubject
from miaobi.evaluate.text.subject import Sample
from miaobi.verbs.evaluate.own_data import folder_of, refuse_other_data

if TYPE_CHECKING:
    from miaobi.core.engine import Weights

LEAD = (
    "How much of the references it writes, beside a memory; every score with its sample size and interval.",
    "所写与参考文本的重合程度，并与翻译记忆比较；每个数字都附样本量与置信区间。",
)
FAMILY = "seq2seq"
LIMIT = 200
"""Held-out pairs, where --limit sets no number."""
BEAMS = 4
QUOTES = 12
"""Pairs on the page."""


def evaluates(models: Sequence[Weights]) -> bool:
    return all(weights.family == FAMILY for weights in models)


def evaluate_model(
    name: str,
    weights: Weights,
    options: Options,
    reference: None,
    progress: Progress,
) -> ModelReport:
    """Open, evaluate and close one model; see Evaluator."""
    from miaobi.data.text.pairs import Pairs
    from miaobi.data.text.pairs.config import MANIFEST
    from miaobi.engines.load import load
    from miaobi.train.tracking import read_log

    refuse_other_data(name, options)
    began = time.monotonic()
    folder, settings = folder_of(weights, MANIFEST)
    data = Pairs(folder)
    split = "test" if data.count("test") else "validation"
    held_out = [Pair(*texts) for texts in data.texts(split)]
    limit = min(options.limit or LIMIT, len(held_out))
    with load(weights, engine=options.engine) as opened:

        def write(source: str) -> str:
            settings = {"num_beams": BEAMS, "max_new_tokens": data.spec.target_length}
            return str(opened.generate(source, raw=True, **settings)[0])

        subject = PairSubject(
            name=name,
            write=write,
            held_out=random.Random(options.seed).sample(held_out, limit),
            training=[Pair(*texts) for texts in data.texts("train")],
            translates=bool(settings["languages"]),
            seed=options.seed,
        )
        scores, missing = measure(subject, progress)
        results = Results(
            model=weights.label,
            engine=opened.engine_name,
            scores=tuple(scores),
            missing=tuple(missing),
            samples=tuple(
                Sample(pair.source, answer)
                for pair, answer in zip(subject.held_out, subject.answers, strict=True)
            ),
            documents=limit,
            data=split,
            seconds=round(time.monotonic() - began, 1),
            curve=tuple(read_log(weights.path)),
        )
    return _report(results, subject)


def _report(results: Results, subject: PairSubject) -> ModelReport:
    from miaobi.evaluate.page import Quote, quotes

    shown = zip(subject.held_out, subject.answers, strict=True)
    texts = quotes(
        Quote(f"{answer}  [{pair.target}]", pair.source)
        for pair, answer in list(shown)[:QUOTES]
    )
    heading = say(
        f"What {results.model} writes, and the reference",
        f"{results.model} 的输出与参考文本",
    )
    settings = {
        say("Held-out pairs", "留出文本对"): results.documents,
        say("Beams", "集束宽度"): BEAMS,
    }
    return ModelReport(results, ((heading, (texts,)),), settings)
