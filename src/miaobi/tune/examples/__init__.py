"""Labelled examples: read, checked, deduplicated, split without leaks, written, encoded,
and drawn as batches.

`prepare` leaves one folder for each content and configuration, under $MIAOBI_HOME/examples:

    train.jsonl  validation.jsonl  test.jsonl    {"columns": {...}, "place": "chats.jsonl:12"}
    examples.json                                counts, duplicates, contradictions, problems

Examples with the same question (`question` of the task, case and spaces aside) never
stand on two sides of a split; nor do those that the task keeps together (`group`: all
questions about one text), and pictures that a person would call the same
(data/image/near_duplicates.py).

    records      records of any format as examples
    identity     which examples are the same, or nearly
    folder       a prepared folder on disk
    fitting      what of a prepared folder the base can be taught
    preparation  from the configuration to a prepared folder
    dataset      a prepared folder as batches for the training loop
"""

from miaobi.tune.config import DataConfig as Config
from miaobi.tune.config import Source
from miaobi.tune.examples.dataset import Examples, Lengths, measure
from miaobi.tune.examples.fitting import Fit, fit
from miaobi.tune.examples.folder import MANIFEST, SPLITS, manifest, read_split, write
from miaobi.tune.examples.identity import (
    content,
    describe_leaks,
    near_duplicate_groups,
    question_digest,
    shared_questions,
)
from miaobi.tune.examples.preparation import prepare
from miaobi.tune.examples.records import PROBLEMS_LISTED, example_of

__all__ = [
    "MANIFEST",
    "PROBLEMS_LISTED",
    "SPLITS",
    "Config",
    "Examples",
    "Fit",
    "Lengths",
    "Source",
    "content",
    "describe_leaks",
    "example_of",
    "fit",
    "manifest",
    "measure",
    "near_duplicate_groups",
    "prepare",
    "question_digest",
    "read_split",
    "shared_questions",
    "write",
]
