"""Evaluate a model that fills masks: hide words of its held-out texts, count what it finds."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from miaobi.evaluate.evaluation import ModelReport, Options, Progress, Results, measure
from miaobi.evaluate.fills import FillSubject, Hidden
from miaobi.verbs.evaluate.own_data import folder_of, refuse_other_data

if TYPE_CHECKING:
    from miaobi.core.engine import Weights
    from miaobi.data.text.tokens import Tokens
    from miaobi.families.bert import BERT

LEAD = (
    "How often it finds a hidden word, beside a trigram; every score with its sample size and interval.",
    "能否填对被遮盖的词，并与三元模型比较；每个数字都附样本量与置信区间。",
)
FAMILY = "bert"
LIMIT = 200
"""Held-out documents, where --limit sets no number."""
WORDS = 4
"""Of each that are hidden, one at a time."""


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
    from miaobi.data.text.config import MANIFEST
    from miaobi.data.text.tokens import Tokens
    from miaobi.families import bert
    from miaobi.train.tracking import read_log

    refuse_other_data(name, options)
    began = time.monotonic()
    folder, settings = folder_of(weights, MANIFEST)
    text = Tokens(folder, int(settings["context_length"]))
    net = bert.load(weights.path)
    split = "test" if text.count("test") else "validation"
    subject = FillSubject(
        name=name,
        questions=questions(text, split, net, options),
        rank=lambda question: rank(net, question),
        training=np.asarray(text.stream("train")),
        seed=options.seed,
    )
    scores, missing = measure(subject, progress)
    results = Results(
        model=weights.label,
        engine="fills",
        scores=tuple(scores),
        missing=tuple(missing),
        samples=(),
        documents=len({question.document for question in subject.questions}),
        data=split,
        seconds=round(time.monotonic() - began, 1),
        curve=tuple(read_log(weights.path)),
    )
    return ModelReport(results, ())


def questions(text: Tokens, split: str, net: BERT, options: Options) -> list[Hidden]:
    """Return tokens of held-out documents to hide, drawn with the seed."""
    draw = random.Random(options.seed)
    documents = list(_documents(text, split, net.spec.context_length - 2))
    limit = min(options.limit or LIMIT, len(documents))
    hidden = list[Hidden]()
    for number, tokens in enumerate(draw.sample(documents, limit)):
        ids = [net.spec.cls_id, *tokens, net.spec.sep_id]
        count = min(WORDS, len(tokens))
        for position in draw.sample(range(1, len(ids) - 1), count):
            hidden.append(Hidden(ids, position, number))
    return hidden


def _documents(text: Tokens, split: str, longest: int) -> Iterator[list[int]]:
    stream = text.stream(split)
    ends = np.flatnonzero(stream == text.spec.eos_id)
    for before, end in pairwise(ends.tolist()):
        tokens = stream[before + 1 : end][:longest]
        if len(tokens):
            yield tokens.tolist()


def rank(net: BERT, question: Hidden) -> int:
    """Return how many tokens the model finds likelier than the hidden one."""
    import torch

    ids = torch.tensor([question.ids])
    ids[0, question.position] = net.spec.mask_id
    with torch.no_grad():
        logits_V = net(ids)[0, question.position]
    return int((logits_V > logits_V[question.ids[question.position]]).sum())
