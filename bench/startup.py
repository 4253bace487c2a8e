"""How long things take to begin: `miaobi --help`, `import miaobi`, and a language
model's first words from a cold process.

Targets: 0.25 s, 0.15 s, 3 s. Run alone: python bench/startup.py
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

FIRST_WORDS = """
import miaobi
for chunk in miaobi.load("smollm2").stream("Say hello.", max_new_tokens=8, temperature=0):
    if chunk.text:
        break
"""
CASES = {
    "help": (["-m", "miaobi.cli", "--help"], 0.25, 15),
    "import": (["-c", "import miaobi"], 0.15, 15),
    "llm_first_words": (["-c", FIRST_WORDS], 3.0, 5),
}


def main() -> None:
    figures, missed = {}, False
    for name, (command, target, runs) in CASES.items():
        subprocess.run(
            [sys.executable, *command], check=True, capture_output=True
        )  # warms the file cache and fetches the pack
        seconds = []
        for _ in range(runs):
            began = time.perf_counter()
            subprocess.run([sys.executable, *command], check=True, capture_output=True)
            seconds.append(time.perf_counter() - began)
        figures[name] = {
            "median": round(statistics.median(seconds), 3),
            "worst": round(max(seconds), 3),
            "target": target,
        }
        missed |= figures[name]["median"] > target
    bare = [_bare() for _ in range(15)]
    figures["python_itself"] = {"median": round(statistics.median(bare), 3)}
    print(json.dumps(figures, indent=1))
    sys.exit(1 if missed else 0)


def _bare() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
