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
    """start words end; unknown words are [UNK], Chinese characters stand alone, as in
    BERT. The last two marks are start and end.
    """
    vocabulary = {
        word: place for place, word in enumerate([*marks, *dict.fromkeys(WORDS), ":"])
    }
    start, end = marks[-2:]
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=False)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}",
        pair=f"{start} $A {end} {start} $B:1 {end}:1"
        if len(marks) == 3
        else f"{start} $A {end} $B:1 {end}:1",
        special_tokens=[(mark, vocabulary[mark]) for mark in marks[-2:]],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        unk_token="[UNK]",
        pad_token=marks[0] if len(marks) == 4 else end,
        cls_token=start,
        sep_token=end,
    )


def plain() -> PreTrainedTokenizerFast:
    """Words, blanks and single letters, no marks around texts, no padding token: as
    causal models often come.
    """
    letters = [chr(code) for code in range(33, 127)]
    made = Tokenizer(
        models.WordLevel(
            {
                word: place
                for place, word in enumerate(
                    dict.fromkeys(["<unk>", "</s>", " ", "\n", *WORDS, *letters])
                )
            },
            unk_token="<unk>",
        )
    )
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|\s|[^\w\s]"), "isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", eos_token="</s>"
    )


def base(folder: Path, kind: str = "bert", seed: int = 0, positions: int = 128) -> Base:
    """kind: bert or llama. Saved as a pretrained model is, without a head."""
    torch.manual_seed(seed)
    words = wordpiece() if kind == "bert" else plain()
    if kind == "bert":
        net: Any = BertModel(
            BertConfig(
                vocab_size=len(words),
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
                vocab_size=len(words),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=positions,
            )
        )
    net.save_pretrained(folder)
    words.save_pretrained(folder)
    return Base(Weights("transformers", str(folder), folder.name), folder)


def examples(
    task: Any, config: Any, records: Sequence[Mapping[str, Any]]
) -> list[Example]:
    found = [task.columns(record, config) for record in records]
    return [
        Example(columns, f"test:{place}", task.question(columns))
        for place, columns in enumerate(found)
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


def judged(
    learner: Learner, task: Any, config: Any, records: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """Each figure over these records."""
    with torch.no_grad():
        found = learner.evaluate_all(
            [
                learner.collate(
                    [
                        learner.encode(task.columns(record, config), 0)
                        for record in records
                    ]
                )
            ]
        )
    return {
        figure.name: float(
            figure.combine(sum(item.counts[figure.name] for item in found))
        )
        for figure in learner.metrics()
    }
