"""Measures the lines that a recipe's header gives: three seeds of the recipe as it is,
each trained and evaluated in a store of its own, then the median and the range.

One run is no measurement: another seed, or another number of threads, moves a Fréchet
distance by more than its interval says. Run alone, on an idle machine (on a busy one the
scores are right and the times are not):

    python bench/recipe_headers.py recipes/image/digits_gan.yaml recipes/image/digits_vae.yaml

Prints the comment lines for the head of each recipe; --json FILE keeps all figures.
Without --write nothing is changed; with it the lines replace the recipe's own between
"# Measured" and "# Recipe:".
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

SEEDS = (1, 2, 3)
SCORES = {
    "frechet": ("Fréchet distance", 0),
    "precision": ("precision", 2),
    "recall": ("recall", 2),
    "class_accuracy": ("class accuracy", 3),
    "exact_copies": ("exact copies", 3),
    "nats": ("nats a picture", 1),
    "psnr": ("PSNR", 1),
    "ssim": ("structural similarity", 3),
}
"""What headers give, as they call it, with its decimals."""
COLUMNS = 150


@dataclass(frozen=True)
class Run:
    """One seed's training and evaluation."""

    seed: int
    seconds: float
    """Of the training."""
    gigabytes: float
    """The largest resident memory of its processes."""
    parameters: int
    scores: dict[str, float]


def run(recipe: Path, seed: int, threads: int, extra: list[str]) -> Run:
    """Train and evaluate a recipe with a seed, in a process and a store of its own."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        began = time.monotonic()
        trained = _miaobi(
            work,
            threads,
            [
                "train",
                str(recipe),
                "--name",
                "measured",
                f"--train.seed={seed}",
                *extra,
            ],
        )
        seconds = time.monotonic() - began
        # A set number is not cut short where the machine is slow.
        argv = ["evaluate", "measured", "--samples", "1000", "--seed", str(seed)]
        _miaobi(work, threads, argv)
        [report] = (work / "runs" / "evaluate").rglob("report.json")
        results = json.loads(report.read_text(encoding="utf-8"))["judged"][0]
    used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return Run(
        seed,
        round(seconds, 1),
        round(used / 1024**2, 2),
        int(trained.get("parameters", 0)),
        {score["name"]: score["value"] for score in results["scores"]},
    )


def _miaobi(work: Path, threads: int, argv: list[str]) -> dict[str, int]:
    """Run a command in `work`; return its answer as JSON.

    Packs and prepared data come from the usual home, the store from `work`.
    """
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "MIAOBI_STORAGE": str(work / "storage"),
    }
    done = subprocess.run(
        [sys.executable, "-m", "miaobi", *argv, "--json"],
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{' '.join(argv)}\n{done.stderr}")
    answer: dict[str, int] = json.loads(done.stdout)
    return answer


def header(runs: list[Run], threads: int, date: str) -> list[str]:
    """Return the comment lines of a recipe's header: medians and ranges."""
    seconds = [item.seconds for item in runs]
    gigabytes = max(item.gigabytes for item in runs)
    parameters = runs[0].parameters / 1e6
    cost = (
        f"Measured on {os.cpu_count()} cores (no GPU, {threads} threads), {date}, "
        f"{len(runs)} seeds, median (range): "
        f"{_duration(median(seconds))} of training ({_duration(min(seconds))} to "
        f"{_duration(max(seconds))}), {gigabytes:.2f} GB of memory, "
        f"{parameters:.2f} M parameters."
    )
    figures = [
        _figure(name, [item.scores[name] for item in runs])
        for name in SCORES
        if all(name in item.scores for item in runs)
    ]
    return [*_wrapped(cost), *_wrapped(", ".join(figures) + ".")]


def _figure(name: str, values: list[float]) -> str:
    label, decimals = SCORES[name]
    low, middle, high = min(values), median(values), max(values)
    return f"{label} {middle:.{decimals}f} ({low:.{decimals}f}-{high:.{decimals}f})"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _wrapped(text: str) -> list[str]:
    lines = ["#"]
    for word in text.split(" "):
        if len(lines[-1]) + len(word) >= COLUMNS:
            lines.append("#")
        lines[-1] += f" {word}"
    return lines


def write(recipe: Path, lines: list[str]) -> None:
    """Put the lines where the recipe has its own."""
    text = recipe.read_text(encoding="utf-8")
    pattern = re.compile(r"^# Measured.*?(?=^# Recipe:)", re.MULTILINE | re.DOTALL)
    changed, count = pattern.subn("".join(f"{line}\n" for line in lines), text)
    if count != 1:
        sys.exit(f"{recipe} has no lines from '# Measured' to '# Recipe:'")
    recipe.write_text(changed, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipes", type=Path, nargs="+")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--write", action="store_true")
    parser.add_argument(
        "--set", action="append", default=[], help="an option of miaobi train"
    )
    options = parser.parse_args()
    date = datetime.now(UTC).date().isoformat()
    measured = dict[str, list[dict[str, object]]]()
    for recipe in options.recipes:
        runs = list[Run]()
        for seed in options.seeds:
            print(f"{recipe}: seed {seed}", file=sys.stderr)
            runs.append(run(recipe.resolve(), seed, options.threads, options.set))
        lines = header(runs, options.threads, date)
        print(recipe, *lines, sep="\n")
        measured[str(recipe)] = [asdict(item) for item in runs]
        if options.json:
            options.json.write_text(json.dumps(measured, indent=1), encoding="utf-8")
        if options.write:
            write(recipe, lines)


if __name__ == "__main__":
    main()
