"""What tuning makes of each packaged encoder: reviews, entities, questions and, with a
file of them, pairs of texts; every score with its interval, seeds by turns.

Each subject is a packaged recipe, run as it is but for the base, the seed and the
learning rate (a Transformer wants a smaller one than the convolutions of
use-multilingual); the tuned model is then evaluated on its own test split. Long: about
an hour for each subject, base and seed on two cores. Run alone:
python bench/tuned_encoders.py [--subjects reviews --seeds 1 -- --train.max-steps 20]
Whatever follows -- goes to `miaobi finetune`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from typing import Any

RATES = {"use-multilingual": "1e-3", "e5-small:en+zh": "1e-4"}
"""By base, its learning rate."""
SUBJECTS = {
    "reviews": ["recipes/tune/review_sentiment.yaml"],
    "entities": ["recipes/tune/entities.yaml"],
    "questions": ["recipes/tune/questions.yaml"],
    "pairs": ["--task", "pair-classification", "--method", "full"],
}


def run(*arguments: str) -> dict[str, Any]:
    """Return the result of a command of miaobi."""
    done = subprocess.run(
        [sys.executable, "-m", "miaobi", *arguments, "--json"],
        capture_output=True,
        text=True,
        env={**os.environ, "MIAOBI_LANG": "en"},
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--subjects", nargs="+", default=["reviews", "entities"])
    parser.add_argument("--pairs", help="AFQMC's, OCNLI's or another file of pairs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit", default="1000", help="test examples")
    argv, _, extra = " ".join(sys.argv[1:]).partition(" -- ")
    options = parser.parse_args(argv.split())
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(root)
        for subject in options.subjects:
            source = list(SUBJECTS[subject])
            if subject == "pairs":
                source += ["--data", options.pairs]
            for seed in range(options.seeds):
                for base, rate in RATES.items():
                    name = f"bench-{subject}-{base.partition(':')[0]}-{seed}"
                    settings = ["--base", base, "--name", name]
                    settings += ["--train.learning-rate", rate]
                    settings += ["--train.seed", str(seed)]
                    run("finetune", *source, *settings, *extra.split())
                    out = os.path.join(scratch, name)
                    evaluated = run(
                        "evaluate", name, "--limit", options.limit, "--out", out
                    )
                    row = {"subject": subject, "base": base, "seed": seed}
                    scores = {
                        score["name"]: [score["value"], score["low"], score["high"]]
                        for score in evaluated["judged"][0]["scores"]
                    }
                    print(json.dumps({**row, **scores}), flush=True)


if __name__ == "__main__":
    main()
