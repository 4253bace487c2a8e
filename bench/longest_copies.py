"""How long the search for verbatim copies takes in fifteen megabytes of training text.
Target: at most 20 s for twenty samples.

python bench/longest_copies.py
"""

from __future__ import annotations

import json
import random
import tempfile
import time
from pathlib import Path

from miaobi.evaluate.text.memorisation import longest_copies

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def main() -> None:
    draw = random.Random(0)
    words = ["".join(draw.choices(LETTERS, k=draw.randint(2, 9))) for _ in range(5000)]
    corpus = " ".join(draw.choices(words, k=2_400_000))
    texts = [
        corpus[start : start + 60] + " ".join(draw.choices(words, k=40))
        for start in range(0, 20_000, 1000)
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "corpus.txt"
        path.write_text(corpus)
        start = time.perf_counter()
        longest_copies(texts, path)
        seconds = time.perf_counter() - start
    print(json.dumps({"megabytes": len(corpus) / 1e6, "seconds": round(seconds, 2)}))


if __name__ == "__main__":
    main()
