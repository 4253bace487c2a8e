"""Texts read aloud against kokoro-onnx and piper-tts: the same weights, the same texts.

Every entry is a process of its own that opens its model, warms up, and works when it is
told to; one works at a time, rounds alternate, medians are compared. Four things:

one     the texts one after the other: characters a second
eight   eight requests at once: characters a second
first   seconds to the first sound of a paragraph
long    memory while a long text is read (--minutes of sound): growth after the first third

Characters, since the entries leave pauses of different lengths. Times of the processor
stand beside those of the clock: a busy machine shares its cores.

The peers may live in another environment: python bench/voices.py [--peers
venv/bin/python --rounds 3 --minutes 5]; without them there, ours run alone.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from miaobi.data import packs
from miaobi.engines.voices import STYLES

TARGETS = {
    ("kokoro", "eight"): 1.3,
    ("joe", "eight"): 1.0,
    ("kokoro", "first"): 0.8,
    ("joe", "first"): 0.8,
}
"""Ours over theirs; of `first`, at most."""
PEERS = {"kokoro": "kokoro-onnx", "joe": "piper-tts"}
TEXTS = [
    "The train to the coast leaves early in the morning, and most people on it are asleep.",
    "She opened the window and let the cold air in. It smelled of snow and of wood smoke.",
    "When the meeting was over, nobody could say what had been decided, or by whom.",
    "He keeps two dogs, a cat, and a parrot that speaks better Spanish than he does.",
    "Every spring the river floods the lower fields, and every summer they are green again.",
    "Read the instructions before you begin. If a part is missing, write to the shop.",
    "A good map shows less than the country it stands for, and that is why it is useful.",
    "The old clock on the tower has been wrong for years, but everyone knows by how much.",
]
WORKER = """
import asyncio, json, sys, time
from concurrent.futures import ThreadPoolExecutor
import numpy as np
import psutil
entry, folder, voices, texts = sys.argv[1:]
texts = json.loads(texts)
paragraph = " ".join(texts[:4])
if entry == "kokoro-onnx":
    from kokoro_onnx import Kokoro
    model = Kokoro(folder, voices)
    def speak(text): return model.create(text, voice="af_heart", lang="en-us")[0]
    def first(text):
        async def begin():
            async for sound, _ in model.create_stream(text, voice="af_heart", lang="en-us"):
                return sound
        return asyncio.run(begin())
elif entry == "piper-tts":
    from piper import PiperVoice
    model = PiperVoice.load(folder)
    def speak(text): return np.concatenate([it.audio_float_array for it in model.synthesize(text)])
    def first(text): return next(iter(model.synthesize(text)))
else:
    import miaobi
    model = miaobi.load(entry, streams=1)
    crowd = miaobi.load(entry, streams=8)
    def speak(text): return model.generate(text)[0].samples
    def first(text):
        for chunk in model.stream(text):
            return chunk
def one():
    for text in texts: speak(text)
def eight():
    if entry in ("kokoro-onnx", "piper-tts"):
        with ThreadPoolExecutor(8) as pool: list(pool.map(speak, texts))
    else:
        async def all_at_once():
            await asyncio.gather(*(crowd.agenerate(text) for text in texts))
        asyncio.run(all_at_once())
def long(minutes):
    process = psutil.Process()
    sizes, seconds = [], 0.0
    while seconds < 60 * minutes:
        for text in texts:
            seconds += len(speak(text)) / 24000
        sizes.append(process.memory_info().rss / 1e6)
    return {"megabytes": [sizes[len(sizes) // 3], sizes[-1]], "minutes": seconds / 60}
speak(texts[0]); first(texts[0]); eight()
print("ready", flush=True)
for line in sys.stdin:
    task, *rest = line.split()
    wall, cpu = time.perf_counter(), time.process_time()
    if task == "long":
        found = long(float(rest[0]))
    else:
        {"one": one, "eight": eight, "first": lambda: first(paragraph)}[task]()
        found = {}
    found |= {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    print(json.dumps(found), flush=True)
"""


class Entry:
    """A process that speaks when it is told to."""

    def __init__(self, name: str, python: str, weights: Path, voices: Path) -> None:
        self.name = name
        self.rows = dict[str, list[dict[str, Any]]]()
        self._process = subprocess.Popen(
            [python, "-c", WORKER, name, str(weights), str(voices), json.dumps(TEXTS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=dict(os.environ),
        )

    def ready(self) -> bool:
        """Return whether its packages are there and its model is open."""
        assert self._process.stdout is not None
        return self._process.stdout.readline() == "ready\n"

    def measure(self, task: str) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{task}\n")
        self._process.stdin.flush()
        row = json.loads(self._process.stdout.readline())
        self.rows.setdefault(task.split()[0], []).append(row)

    def median(self, task: str, clock: str) -> float:
        return statistics.median(row[clock] for row in self.rows[task])

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def voices_file(folder: Path, target: Path) -> Path:
    """Write Kokoro's voices as kokoro-onnx reads them."""
    tables = {
        file.stem: np.fromfile(file, np.float32).reshape(-1, 1, 256)
        for file in (folder / STYLES).glob("*.bin")
    }
    with target.open("wb") as file:
        np.savez(file, **tables)
    return target


def compare(ours: Entry, peer: Entry | None, rounds: int) -> dict[str, Any]:
    """Alternate the two; return medians, and ours over theirs."""
    entries = [ours] if peer is None else [ours, peer]
    for number, task in itertools.product(range(rounds), ("one", "eight", "first")):
        ordered = entries if number % 2 == 0 else entries[::-1]
        for entry in ordered:
            entry.measure(task)
    characters = sum(map(len, TEXTS))
    found = dict[str, Any]()
    for task in ("one", "eight"):
        speeds = {
            entry.name: round(characters / entry.median(task, "wall"), 1)
            for entry in entries
        }
        found[task] = {"characters_per_second": speeds}
        found[task]["cpu_seconds"] = {
            entry.name: round(entry.median(task, "cpu"), 2) for entry in entries
        }
        if peer is not None:
            found[task]["ratio"] = round(speeds[ours.name] / speeds[peer.name], 3)
    found["first"] = {
        "seconds": {
            entry.name: round(entry.median("first", "wall"), 3) for entry in entries
        }
    }
    if peer is not None:
        ratio = ours.median("first", "wall") / peer.median("first", "wall")
        found["first"]["ratio"] = round(ratio, 3)
    for task, figures in found.items():
        if (ours.name, task) in TARGETS:
            figures["target"] = TARGETS[ours.name, task]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", default=sys.executable)
    parser.add_argument("--models", default="kokoro,joe")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=60)
    options = parser.parse_args()
    results = dict[str, Any]()
    with tempfile.TemporaryDirectory() as folder:
        voices = voices_file(packs.path("kokoro"), Path(folder) / "voices.npz")
        for name in options.models.split(","):
            path = packs.path(name)
            weights = path / "kokoro.onnx" if path.is_dir() else path
            ours = Entry(name, sys.executable, weights, voices)
            assert ours.ready()
            peer: Entry | None = Entry(PEERS[name], options.peers, weights, voices)
            if peer is not None and not peer.ready():
                peer = None
            results[name] = compare(ours, peer, options.rounds)
            if options.minutes:
                ours.measure(f"long {options.minutes}")
                results[name]["long"] = ours.rows["long"][0]
            for entry in (ours, peer):
                if entry is not None:
                    entry.end()
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
