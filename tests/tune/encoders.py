"""Tiny random encoders and causal models of the real architectures, and what a test of
a task over text needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from miaobi.core.engine import Weights
from miaobi.models.base import Base
from miaobi.tune.learner import Example, Learner

WORDS = [
    "good",
    "bad",
    "fine",
    "poor",
    "nice",
    "awful",
    "room",
    "price",
    "staff",
    "food",
    "the",
    "a",
    "of",
    "is",
    "in",
    "was",
    "where",
    "what",
    "who",
    "lives",
    "works",
    "at",
    "red",
    "blue",
    "green",
    "cat",
    "dog",
    "Ada",
    "Bob",
    "Eve",
    "Paris",
    "Rome",
    "Oslo",
    "not",
    "very",
    "and",
    ",",
    ".",
    "?",
    "!",
    "0",
    "1",
    "2",
    "3",
    "4",
    "5",
    "好",
    "坏",
    "的",
    "我",
    "很",
    "书",
    "看",
    "北",
    "京",
    "上",
    "海",
    "王",
    "明",
    "在",
    "住",
    "李",
    "小",
    "红",
]


def wordpiece(
    marks: tuple[str, ...] = ("[PAD]", "[UNK]", "[CLS]", "[SEP]"),
) -> PreTrainedTokenizerFast:
    """[CLS] words [SEP]; unknown words are [UNK], Chinese characters stand alone, as in
    BERT. The last two marks begin and end a text.
    """
    vocabulary = {
        word: number for number, word in enumerate([*marks, *dict.fromkeys(WORDS), ":"])
    }
    first, last = marks[-2:]
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=False)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}",
        pair=f"{first} $A {last} {first} $B:1 {last}:1"
        if len(marks) == 3
        else f"{first} $A {last} $B:1 {last}:1",
        special_tokens=[(mark, vocabulary[mark]) for mark in marks[-2:]],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="[UNK]",
        pad_token=marks[0] if len(marks) == 4 else last,
        cls_token=first,
        sep_token=last,
    )


def plain() -> PreTrainedTokenizerFast:
    """Words, blanks and single letters, no marks around texts, no padding token: as
    causal models often come.
    """
    letters = [chr(code) for code in range(33, 127)]
    backend = Tokenizer(
        models.WordLevel(
            {
                word: number
                for number, word in enumerate(
                    dict.fromkeys(["<unk>", "</s>", " ", "\n", *WORDS, *letters])
                )
            },
            unk_token="<unk>",
        )
    )
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|\s|[^\w\s]"), "isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", eos_token="</s>"
    )


def base(folder: Path, kind: str = "bert", seed: int = 0, positions: int = 128) -> Base:
    """kind: bert or llama. Saved as a pretrained model is, without a head."""
    torch.manual_seed(seed)
    own_tokenizer = wordpiece() if kind == "bert" else plain()
    if kind == "bert":
        net: Any = BertModel(
            BertConfig(
                vocab_size=len(own_tokenizer),
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=4,
                intermediate_size=64,
                max_position_embeddings=positions,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
                initializer_range=0.2,
            )
        )
    else:
        net = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(own_tokenizer),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=positions,
            )
        )
    net.save_pretrained(folder)
    own_tokenizer.save_pretrained(folder)
    return Base(Weights("transformers", str(folder), folder.name), folder)


def examples(
    task: Any, config: Any, records: Sequence[Mapping[str, Any]]
) -> list[Example]:
    rows = [task.columns(record, config) for record in records]
    return [
        Example(columns, f"test:{number}", task.question(columns))
        for number, columns in enumerate(rows)
    ]


def make(
    task: Any, config: Any, origin: Base, records: Sequence[Mapping[str, Any]]
) -> Learner:
    torch.manual_seed(1)
    learner: Learner = task.learner(
        origin, task.survey(examples(task, config, records), config), config
    )
    return learner


def fit(
    learner: Learner,
    task: Any,
    config: Any,
    records: Sequence[Mapping[str, Any]],
    steps: int = 60,
    rate: float = 5e-3,
) -> float:
    """The mean loss after so many steps over all of them."""
    batch = learner.collate(
        [learner.encode(task.columns(record, config), 0) for record in records]
    )
    optimiser = torch.optim.AdamW(learner.parameters(), lr=rate)
    learner.train()
    for _ in range(steps):
        loss = learner.loss(batch)
        optimiser.zero_grad()
        (loss.total / loss.count).backward()
        optimiser.step()
    learner.eval()
    return loss.total.item() / loss.count


def metrics_of(
    learner: Learner, task: Any, config: Any, records: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """Return each metric over these records."""
    features = [learner.encode(task.columns(record, config), 0) for record in records]
    with torch.no_grad():
        evaluations = learner.evaluate_all([learner.collate(features)])
    values = dict[str, float]()
    for metric in learner.metrics():
        counts = sum(item.counts[metric.name] for item in evaluations)
        values[metric.name] = float(metric.combine(counts))
    return values
