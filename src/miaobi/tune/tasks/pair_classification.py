"""Pair classification: one label for two texts. Do they mean the same, does the second
follow from the first, does the answer fit the question?

The net reads both at once, with its tokenizer's mark between them; head, loss and metrics
are those of text classification (accuracy, macro F1). AFQMC's and OCNLI's records are
read as they are, and so are those of SNLI, MNLI, QQP, MRPC and LCQMC.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from miaobi.core.language import say
from miaobi.data.text.shapes import Record, Unusable, written_text
from miaobi.tune.heads import TextClassificationHead as Config
from miaobi.tune.tasks import text_classification
from miaobi.tune.tasks.text_classification import Classifier as Classifier
from miaobi.tune.tasks.text_classification import check as check
from miaobi.tune.tasks.text_classification import group as group
from miaobi.tune.tasks.text_classification import learner as learner
from miaobi.tune.tasks.text_classification import question as question
from miaobi.tune.tasks.text_classification import survey as survey

__all__ = [
    "Classifier",
    "Config",
    "check",
    "columns",
    "group",
    "learner",
    "question",
    "survey",
]

NAME = "pair-classification"
SUMMARY = (
    "one label for two texts: the same meaning, entailment, a fitting answer",
    "为两段文本给出一个标签：语义相同、蕴含、答案是否合适",
)
MODALITY = "text"
READER = "labelled/texts"
MAKES = "labels"
ASK = """--prompt '{"text": "...", "text_pair": "..."}'"""
EXAMPLE = '{"text": "...", "text_pair": "...", "label": "same"}'
FIRST_COLUMNS = (
    *text_classification.TEXT_COLUMNS,
    "text1",
    "text_a",
    "question1",
    "string1",
)
SECOND_COLUMNS = (
    *text_classification.PAIR_COLUMNS,
    "text2",
    "text_b",
    "question2",
    "string2",
)


def columns(record: Mapping[str, Any], config: Config) -> Mapping[str, Any]:
    record = Record.of(record)
    texts = {
        "text": _text(record, FIRST_COLUMNS, "first", "第一"),
        "text_pair": _text(record, SECOND_COLUMNS, "second", "第二"),
    }
    labelled = {**texts, "label": record.get("label")}
    return text_classification.columns(labelled, config)


def _text(record: Record, names: tuple[str, ...], english: str, chinese: str) -> str:
    """Return the text of the first of these columns that holds one. Raises Unusable."""
    column = record.first(names)
    text = written_text(record[column], column) if column else ""
    if not text.strip():
        raise Unusable(
            say(f"no {english} text.", f"缺少{chinese}段文本。"),
            EXAMPLE,
        )
    return text
