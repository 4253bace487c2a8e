"""BERT pre-training against Transformers' Trainer with its masking collator, and beam
search against Transformers' own `generate`.

Pre-training: the same model (as `recipes/text/bert_zh.yaml`, without a second task), the
same poems, AdamW in float32, batches of `--batch` rows. The peer is BertForMaskedLM in a
Trainer with DataCollatorForLanguageModeling (15 %, 80/10/10) and rows grouped by
length, so that it pads as little as we do. Tokens are those of the texts, [CLS] and
[SEP] included, padding not. Stretches of `--steps` alternate; medians of `--rounds`.

Beams: one seq2seq, untrained, by our native engine and by MarianMTModel.generate from
the same folder; `--texts` sources one after the other, `--beams` beams, no text may
end early. They alternate text by text. What they write is compared.

Run alone: python bench/encoders.py
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from torch import nn

from miaobi.core import bundle
from miaobi.core.bundle import Manifest
from miaobi.data.text import masked, pairs
from miaobi.engines.load import load
from miaobi.families import bert, seq2seq
from miaobi.train import loop
from miaobi.train.config import TrainConfig

LEARNING_RATE = 1e-3
WIDTH, LAYERS = 192, 4


def poems() -> masked.Masked:
    return masked.prepare(
        masked.Config(
            pack="chinese-poetry", min_frequency=5, context_length=128, validation=0.02
        )
    )


class Peer:
    """BertForMaskedLM in Transformers' Trainer."""

    def __init__(self, data: masked.Masked, batch: int, rows: int) -> None:
        from transformers import AutoTokenizer, BertForMaskedLM
        from transformers import DataCollatorForLanguageModeling as Collator

        self.batch = batch
        self.folder = Path(tempfile.mkdtemp())
        objective = bert.build(bert.Config(LAYERS, WIDTH), data.spec)
        bert.save(objective, self.folder)
        data.save(self.folder)
        self.model = BertForMaskedLM.from_pretrained(self.folder)
        tokenizer = AutoTokenizer.from_pretrained(self.folder)
        self.collator = Collator(tokenizer, mlm_probability=0.15)
        self.rows = list(self._texts(data, rows))

    def _texts(self, data: masked.Masked, rows: int) -> Iterator[dict[str, Any]]:
        for index in range(rows // self.batch):
            batch = data.batch("train", index, self.batch, 0)
            whole = torch.where(
                batch["targets"] == -100, batch["ids"], batch["targets"]
            )
            for ids, length in zip(whole, batch["lengths"].tolist(), strict=True):
                yield {"input_ids": ids[:length].tolist(), "length": length}

    def run(self, steps: int) -> float:
        """Return tokens a second of so many steps."""
        from transformers import Trainer, TrainerCallback, TrainingArguments

        first = random.randrange(len(self.rows) - steps * self.batch + 1)
        rows = self.rows[first : first + steps * self.batch]
        clock = Clock(TrainerCallback)
        trainer = Trainer(
            self.model,
            TrainingArguments(
                output_dir=str(self.folder / "out"),
                per_device_train_batch_size=self.batch,
                max_steps=steps,
                learning_rate=LEARNING_RATE,
                train_sampling_strategy="group_by_length",
                save_strategy="no",
                logging_strategy="no",
                report_to=[],
                disable_tqdm=True,
                use_cpu=True,
            ),
            train_dataset=rows,
            data_collator=self.collator,
            callbacks=[clock.callback],
        )
        trainer.train()
        return sum(row["length"] for row in rows) / clock.seconds


class Clock:
    """Seconds between the beginning and the end of a Trainer's loop."""

    def __init__(self, base: type) -> None:
        clock = self

        class Timed(base):  # type: ignore[misc]
            def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
                clock.began = time.perf_counter()

            def on_train_end(self, *args: Any, **kwargs: Any) -> None:
                clock.seconds = time.perf_counter() - clock.began

        self.began = self.seconds = 0.0
        self.callback = Timed()


class Ours:
    """The same through the loop of `miaobi train`."""

    def __init__(self, data: masked.Masked, batch: int) -> None:
        self.data, self.batch = data, batch
        objective = bert.build(bert.Config(LAYERS, WIDTH), data.spec)
        settings = TrainConfig(
            max_steps=10**6, learning_rate=LEARNING_RATE, device="cpu"
        )
        self.state = loop.start(objective, settings)

    def run(self, steps: int) -> float:
        """Return tokens a second of so many steps."""
        tokens = 0
        began = time.perf_counter()
        for _ in range(steps):
            batch = self.data.batch("train", self.state.step, self.batch, 0)
            tokens += int(batch["lengths"].sum())
            loop.train_step(self.state, [batch])
        return tokens / (time.perf_counter() - began)


def pretraining(batch: int, steps: int, rounds: int) -> dict[str, Any]:
    data = poems()
    entries = {
        "ours": Ours(data, batch),
        "trainer": Peer(data, batch, 4 * steps * batch),
    }
    for entry in entries.values():
        entry.run(2)
    speeds: dict[str, list[float]] = {name: [] for name in entries}
    for _ in range(rounds):
        for name, entry in entries.items():
            speeds[name].append(entry.run(steps))
    ratios = [a / b for a, b in zip(*speeds.values(), strict=True)]
    return {
        **{name: round(statistics.median(found)) for name, found in speeds.items()},
        "unit": "tokens a second",
        "ratio": round(statistics.median(ratios), 2),
        "range": [round(min(ratios), 2), round(max(ratios), 2)],
        "target": 1.5,
    }


def translator(folder: Path) -> tuple[Path, pairs.Pairs]:
    data = pairs.prepare(pairs.Config(pack="django-zh-en", languages=["zh", "en"]))
    torch.manual_seed(0)
    objective = seq2seq.build(seq2seq.Config(3, WIDTH), data.spec)
    for parameter in objective.parameters():
        nn.init.normal_(parameter, std=0.1)
    with torch.no_grad():
        # The end token is never likely: every text has the same length.
        objective.net.shared.weight[data.spec.eos_id] = 0

    def save(draft: Path) -> None:
        seq2seq.save(objective, draft)
        data.save(draft)

    return bundle.write(folder / "bundle", Manifest("seq2seq", "text"), save), data


def beams(count: int, width: int, length: int) -> dict[str, Any]:
    from transformers import AutoTokenizer, MarianMTModel

    folder, data = translator(Path(tempfile.mkdtemp()))
    peer = MarianMTModel.from_pretrained(folder).eval()
    words = AutoTokenizer.from_pretrained(folder)
    sources = [source for source, _ in data.texts("test")][: count + 1]
    seconds: dict[str, list[float]] = {"ours": [], "generate": []}
    same = 0
    with load(str(folder), engine="native") as model, torch.inference_mode():
        for number, source in enumerate(sources):
            began = time.perf_counter()
            [mine] = model.generate(
                source, raw=True, num_beams=width, max_new_tokens=length
            )
            middle = time.perf_counter()
            theirs = peer.generate(
                **words(source, return_tensors="pt"),
                num_beams=width,
                max_new_tokens=length,
                max_length=None,
                do_sample=False,
            )
            ended = time.perf_counter()
            if number:  # the first warms up
                seconds["ours"].append(middle - began)
                seconds["generate"].append(ended - middle)
                [text] = words.batch_decode(theirs, skip_special_tokens=True)
                same += str(mine).strip("\ufffd") == text.strip("\ufffd")
    ratios = [b / a for a, b in zip(*seconds.values(), strict=True)]
    return {
        **{
            name: round(1000 * statistics.median(found), 1)
            for name, found in seconds.items()
        },
        "unit": f"milliseconds a text of {length} tokens, {width} beams",
        "ratio": round(statistics.median(ratios), 2),
        "same_text": f"{same} of {len(sources) - 1}",
        "target": 1.0,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--texts", type=int, default=20)
    parser.add_argument("--beams", type=int, default=4)
    parser.add_argument("--length", type=int, default=32)
    args = parser.parse_args()
    results = {
        "pretraining": pretraining(args.batch, args.steps, args.rounds),
        "beam_search": beams(args.texts, args.beams, args.length),
    }
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
