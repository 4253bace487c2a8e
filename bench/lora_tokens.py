"""LoRA on SmolLM2-135M, rank 8 on all linear layers, against Transformers' Trainer with
PEFT as its documentation shows it.

Both learn the assistant's turns of the same dialogues (chatterbot-corpus, the base's
own chat template, at most 512 tokens), in the same batches of `--batch`, with AdamW in
float32. The peer pads to the longest of a batch (DataCollatorForSeq2Seq); ours lays
dialogues end to end and computes what all of a batch begin with (SmolLM2's system turn)
once. Real tokens are those of the dialogues: no padding counts, and each dialogue
counts whole on both sides. Every run is a process of its own; they alternate; medians
of `--rounds`. Memory is the process's peak (ru_maxrss), loading and libraries included.
The loss of the same first batch, before training, is told by both.

Run alone: python bench/lora_tokens.py
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch

from miaobi.data.labelled.texts import texts
from miaobi.data.text.shapes import Unusable
from miaobi.models.base import Base, open_base
from miaobi.nn.objective import Batch
from miaobi.train import loop
from miaobi.train.config import TrainConfig
from miaobi.tune import methods
from miaobi.tune.learner import Features
from miaobi.tune.methods import TuneConfig
from miaobi.tune.tasks import chat
from miaobi.tune.tasks.chat import Assistant

LONGEST, RATE, WARM = 512, 1e-3, 1


def dialogues(learner: Assistant, count: int, seed: int) -> list[Features]:
    """The same dialogues in the same order for every process of a round."""
    usable = list[Any]()
    for _, record in texts("", "chatterbot-corpus"):
        try:
            usable.append(chat.columns(record, chat.Config()))
        except Unusable:  # those that end with the user
            continue
    order = np.random.default_rng(seed).permutation(len(usable))
    return [learner.encode(usable[place], LONGEST) for place in order[:count]]


def result(
    seconds: float, features: Sequence[Features], first: float, last: float
) -> dict[str, float]:
    tokens = sum(len(item["ids"]) for item in features)
    return {
        "tokens_per_second": tokens / seconds,
        "seconds": seconds,
        "tokens": tokens,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "first_loss": first,
        "last_loss": last,
    }


def ours(base: Base, batch: int, steps: int, seed: int) -> dict[str, float]:
    learner = chat.learner(base, {}, chat.Config())
    features = dialogues(learner, batch * (steps + WARM), seed)
    methods.apply(learner, TuneConfig(method="lora", lora_rank=8))
    state = loop.start(
        learner,
        TrainConfig(
            max_steps=steps + WARM,
            learning_rate=RATE,
            warmup=0.0,
            schedule="constant",
            betas=(0.9, 0.999),
            weight_decay=0.0,
        ),
    )
    learner.train()
    losses, began = list[float](), 0.0
    for step in range(steps + WARM):
        began = time.perf_counter() if step == WARM else began
        made: Batch = learner.collate(features[step * batch : (step + 1) * batch])
        loop.train_step(state, [made])
        losses.append(state.train["loss"])
    return result(
        time.perf_counter() - began, features[WARM * batch :], losses[0], losses[-1]
    )


def theirs(base: Base, batch: int, steps: int, seed: int) -> dict[str, float]:
    """huggingface.co/docs/peft, "Quicktour", with the collator of its causal language
    modelling guide for labels of unequal length.
    """
    import tempfile

    from peft import LoraConfig, TaskType, get_peft_model
    from transformers import (
        AutoModelForCausalLM,
        DataCollatorForSeq2Seq,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    learner = Assistant(
        torch.nn.Linear(1, 1), base.tokenizer, chat.template_of(base), 1
    )  # for its tokens and mask only
    features = dialogues(learner, batch * (steps + WARM), seed)
    rows = [
        {
            "input_ids": item["ids"].tolist(),
            "attention_mask": [1] * len(item["ids"]),
            "labels": np.where(item["learned"], item["ids"], -100).tolist(),
        }
        for item in features
    ]
    model = AutoModelForCausalLM.from_pretrained(base.folder, dtype="float32")
    model = get_peft_model(
        model,
        LoraConfig(
            task_type=TaskType.CAUSAL_LM,
            r=8,
            lora_alpha=16,
            lora_dropout=0.0,
            target_modules="all-linear",
        ),
    )
    began, ended = list[float](), list[float]()

    class Clock(TrainerCallback):
        def on_step_begin(self, *args: Any, **settings: Any) -> None:
            began.append(time.perf_counter())

        def on_step_end(self, *args: Any, **settings: Any) -> None:
            ended.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            per_device_train_batch_size=batch,
            max_steps=steps + WARM,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
            dataloader_pin_memory=False,
            train_sampling_strategy="sequential",
        )
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=rows,
            callbacks=[Clock()],
            data_collator=DataCollatorForSeq2Seq(
                base.tokenizer, padding=True, label_pad_token_id=-100
            ),
        )
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    # From the end of the warm-up on, so that collating counts for both.
    return result(
        ended[-1] - ended[WARM - 1], features[WARM * batch :], losses[0], losses[-1]
    )


def measured(side: str, options: argparse.Namespace, seed: int) -> dict[str, float]:
    made = subprocess.run(
        [
            sys.executable,
            __file__,
            "--side",
            side,
            "--seed",
            str(seed),
            "--batch",
            str(options.batch),
            "--steps",
            str(options.steps),
        ],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    found: dict[str, float] = json.loads(made.stdout.splitlines()[-1])
    print(side, json.dumps(found), file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--side", choices=("ours", "theirs"))
    options = parser.parse_args()
    if options.side:
        torch.manual_seed(options.seed)
        side = {"ours": ours, "theirs": theirs}[options.side]
        print(
            json.dumps(
                side(open_base("smollm2"), options.batch, options.steps, options.seed)
            )
        )
        return
    open_base("smollm2")  # unpacked before anything is measured
    runs: dict[str, list[dict[str, float]]] = {"ours": [], "theirs": []}
    for place in range(options.rounds):
        for side in ("ours", "theirs") if place % 2 == 0 else ("theirs", "ours"):
            runs[side].append(measured(side, options, options.seed + place))
    medians = {
        side: {key: statistics.median(run[key] for run in found) for key in found[0]}
        for side, found in runs.items()
    }
    ratios = [
        our["tokens_per_second"] / their["tokens_per_second"]
        for our, their in zip(runs["ours"], runs["theirs"])
    ]
    memory = [
        our["peak_mb"] / their["peak_mb"]
        for our, their in zip(runs["ours"], runs["theirs"])
    ]
    apart = max(
        abs(our["first_loss"] / their["first_loss"] - 1)
        for our, their in zip(runs["ours"], runs["theirs"])
    )
    print(
        json.dumps(
            {
                "batch": options.batch,
                "steps": options.steps,
                **medians,
                "speed": {
                    "median": statistics.median(ratios),
                    "range": [min(ratios), max(ratios)],
                },
                "memory": {
                    "median": statistics.median(memory),
                    "range": [min(memory), max(memory)],
                },
                "first_loss_apart": apart,
                "targets": {"speed": 1.5, "memory": 0.8},
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
