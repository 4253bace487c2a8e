"""Makes the files of a version, from which every later version has to go on.

    PYTHONPATH=src .venv/bin/python -m tests.upgrade.make

writes tests/upgrade/0.1.0, named after the version of the code on the path, which may
lie elsewhere (PYTHONPATH=../miaobi-0.1.0/src). All of it is made by that code, by its
command line and over HTTP; only its users' data and recipes are written here (inputs.py).

    home/            a $MIAOBI_HOME: models, prepared data, the server's files
      models/        verse (gpt) in two versions, the first in production again;
                     verse-lstm; shapes (vae); helper, a LoRA of verse@1;
                     mood, a classifier, a LoRA of bases/bert; a training job's model
      server/        as a killed server leaves it: SQLite with its write-ahead log,
                     uploads, folders of a batch and of a tuning job, both half done
    runs/            half-train and half-tune, killed at half of their steps
    data/, bases/    what these learn from; tiny random Transformers models
    recipes/         in full, as `--print-config` prints them
    expected/        the weights with which this version ends its own stopped runs
    expected.json    what this version answers, lists and ends with

Data, seeds and steps are fixed and the kernels are the same on every x86 processor, so
weights and answers come out alike each time. Ids, keys and times are drawn by the server
and stand in expected.json. Everything is made in /tmp/miaobi-upgrade-0.1.0, whose path
stands in the files; relocation.py replaces it.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import yaml
from safetensors.numpy import load_file
from tests.upgrade import inputs, processes
from tests.upgrade.api import (
    get_json,
    listing,
    post_json,
    upload,
    wait_for_end,
    wait_until,
)
from tests.upgrade.inputs import HALF, STEPS, write_lines
from tests.upgrade.processes import (
    DATABASE,
    Server,
    command,
    migration,
    run_session,
    versions,
)
from tests.upgrade.relocation import TEXT

import miaobi

HERE = Path(__file__).parent
LINES = 40
"""Requests of the batch that is killed."""
ANSWERED = 6
"""Of which so many are answered by then, or a few more."""
REPORT_SECONDS = 1.2
"""A job reports its progress every second."""

RUN_SETTINGS = {
    "train.max_steps": STEPS,
    "train.batch_size": 4,
    "train.accumulation": 1,
    "train.learning_rate": 0.01,
    "train.checkpoint_every": HALF,
    "train.validate_every": 10,
    "train.log_every": 5,
    "train.patience": 0,
}
TRAIN_SETTINGS = {
    **RUN_SETTINGS,
    "model.num_layers": 1,
    "model.hidden_size": 16,
    "data.context_length": 32,
    "sample.max_new_tokens": 8,
}
TUNE_SETTINGS = {
    **RUN_SETTINGS,
    "tune.method": "full",
    "report.limit": 2,
    "report.forgetting": False,
    "report.memorisation": False,
}
THUMB = {
    "kind": "thumb",
    "model": "verse",
    "messages": [{"role": "user", "content": "春"}],
    "chosen": "眠不觉晓",
    "label": True,
}
EDIT = {
    "kind": "edit",
    "model": "verse",
    "messages": [{"role": "user", "content": "The moon"}],
    "chosen": " is bright.",
    "rejected": " is dark.",
}
VOTE = {
    "kind": "vote",
    "model": "verse",
    "other": "verse-lstm",
    "messages": [{"role": "user", "content": "In spring"}],
    "chosen": " I sleep.",
    "rejected": " be be be.",
    "label": True,
}

ZERO = {"temperature": 0, "max_new_tokens": 24}
WRITERS = (
    ("verse", "auto"),
    ("verse", "native"),
    ("verse@1", "native"),
    ("verse@2", "native"),
    ("verse@latest", "native"),
    ("verse@production", "native"),
    ("verse-lstm", "auto"),
    ("helper", "auto"),
)
"""Models that write, and the engine to ask them with."""


def questions() -> dict[str, dict[str, Any]]:
    """What the models in the store are asked, as steps of session.py."""
    asks = {
        f"{model} by {engine}": (model, engine, "The moon", ZERO)
        for model, engine in WRITERS
    }
    asks |= {
        "verse in Chinese": ("verse", "auto", "春眠", ZERO),
        "mood good": ("mood", "auto", "the food is nice 3", {}),
        "mood bad": ("mood", "auto", "the staff is awful 4", {}),
    }
    names = ("model", "engine", "ask", "controls")
    steps: dict[str, dict[str, Any]] = {
        step: dict(zip(names, ask, strict=True)) for step, ask in asks.items()
    }
    controls = {"seed": 3, "n": 2, "label": "1"}
    return {**steps, "shapes": {"painter": "shapes", "controls": controls}}


def write_recipes(root: Path) -> None:
    """Every recipe in full: the version prints all keys that it knows."""
    folder = root / "recipes"
    folder.mkdir()
    verbs = {
        "train": inputs.train_recipes(root),
        "finetune": inputs.tune_recipes(root),
    }
    for verb, recipes in verbs.items():
        for name, recipe in recipes.items():
            path = folder / f"{name}.yaml"
            path.write_text(yaml.safe_dump(recipe, allow_unicode=True))
            path.write_text(command(root, verb, str(path), "--print-config"))


def fill_store(root: Path) -> None:
    """Five models, one of them in two versions, of which the second was in production for a while."""
    scratch = ("--runs", "scratch")
    for name in ("verse", "verse-lstm", "shapes"):
        command(root, "train", f"recipes/{name}.yaml", *scratch)
    command(root, "train", "recipes/verse.yaml", "--train.seed", "2", *scratch)
    command(root, "models", "promote", "verse@2")
    command(root, "models", "promote", "verse@1")
    for name in ("helper", "mood"):
        command(root, "finetune", f"recipes/{name}.yaml", *scratch)
    shutil.rmtree(root / "scratch")


def kill_half_way(root: Path, verb: str, name: str) -> None:
    """Start a run, and kill it once its first checkpoint stands."""
    pattern = f"runs/{name}-*/checkpoints/step-{HALF:08d}/state.json"
    process = processes.start(root, verb, f"recipes/{name}.yaml", "--runs", "runs")
    wait_until(lambda: process.poll() is not None or list(root.glob(pattern)), 0.001)
    process.kill()
    process.communicate()
    if not list(root.glob(pattern)) or list(root.glob(f"runs/{name}-*/bundle")):
        raise RuntimeError(f"{name} was not killed half way; run this again")


def create_keys(root: Path) -> dict[str, str]:
    """Three callers: one with limits, an operator, one whose key was revoked. Their keys by name."""
    options = {
        "team-a": ("--requests-per-minute", "10000", "--tokens-per-day", "1000000"),
        "ops": ("--operator",),
        "former": (),
    }
    keys = {
        name: json.loads(command(root, "keys", "create", name, *argv, "--json"))["key"]
        for name, argv in options.items()
    }
    command(root, "keys", "revoke", "former")
    return keys


def batch_requests(count: int) -> list[dict[str, Any]]:
    """Beginnings of verses to be continued, up to 42, all different."""
    prompts = [
        couplet[:length] for length in range(2, 9) for couplet in inputs.COUPLETS
    ]
    return [
        {
            "custom_id": f"line-{number}",
            "method": "POST",
            "url": "/v1/completions",
            "body": {
                "model": "verse",
                "prompt": prompt,
                "max_tokens": 24,
                "temperature": 0,
            },
        }
        for number, prompt in enumerate(prompts[:count])
    ]


def serve(root: Path, keys: Mapping[str, str]) -> None:
    """Jobs that end well, fail, are cancelled and paused; answers that are counted; feedback. Then an orderly stop."""
    with Server(root, workers=1) as server:
        client = server.client(keys["team-a"])
        run_jobs(client, root)
        other = server.client(keys["ops"])
        upload(other, root / "data" / "sayings.jsonl", "fine-tune")
        body = {"model": "verse", "prompt": "The moon", "max_tokens": 8}
        for caller in (client, other):
            post_json(caller, "/v1/completions", {**body, "temperature": 0})
            post_json(caller, "/v1/feedback", THUMB)
        post_json(client, "/v1/feedback", EDIT)
        post_json(client, "/v1/feedback", VOTE)
        picture = {"model": "shapes", "prompt": "1", "response_format": "b64_json"}
        post_json(client, "/v1/images/generations", {**picture, "n": 2})
        server.stop()


def run_jobs(client: httpx.Client, root: Path) -> None:
    """One of each kind that ends well; one that fails, one that is cancelled, one that is paused."""
    data = root / "data"
    verses_file = upload(client, data / "verses.jsonl", "user_data")
    training = {
        "recipe": "my-corpus",
        "training_file": verses_file,
        "seed": 3,
        "miaobi": TRAIN_SETTINGS,
    }
    job = post_json(client, "/v1/training/jobs", {**training, "suffix": "done"})
    check_end(client, f"/v1/training/jobs/{job['id']}", "succeeded")

    batch = create_batch(client, root, batch_requests(3))
    check_end(client, f"/v1/batches/{batch}", "completed")

    reviews_file = upload(client, data / "reviews.jsonl", "fine-tune")
    tuning = {
        "model": "verse",
        "training_file": reviews_file,
        "seed": 3,
        "miaobi": {**TUNE_SETTINGS, "task": "chat"},  # reviews are no dialogues
    }
    job = post_json(client, "/v1/fine_tuning/jobs", {**tuning, "suffix": "broken"})
    check_end(client, f"/v1/fine_tuning/jobs/{job['id']}", "failed")

    for action, suffix in (("cancel", "gone"), ("pause", "later")):
        job = post_json(client, "/v1/training/jobs", {**training, "suffix": suffix})
        post_json(client, f"/v1/training/jobs/{job['id']}/{action}", {})


def create_batch(
    client: httpx.Client, root: Path, requests: list[dict[str, Any]]
) -> str:
    lines = write_lines(root / "requests.jsonl", requests)
    body = {
        "input_file_id": upload(client, lines, "batch"),
        "endpoint": "/v1/completions",
        "completion_window": "24h",
    }
    lines.unlink()
    return str(post_json(client, "/v1/batches", body)["id"])


def check_end(client: httpx.Client, path: str, status: str) -> dict[str, Any]:
    """The job at `path` once it has ended. Raises RuntimeError unless it ended with this status."""
    job = wait_for_end(client, path)
    if job["status"] != status:
        raise RuntimeError(f"{path} is {job['status']}, not {status}: {job}")
    return job


def serve_until_killed(root: Path, key: str) -> dict[str, Any]:
    """A tuning job and a batch, both half done when they and the server are killed.

    Returns what the API said of everything just before.
    """
    database = root / DATABASE
    folder = database.parent
    with Server(root, workers=2) as server:
        client = server.client(key)
        job = start_tuning(client, root)
        job_path = f"/v1/fine_tuning/jobs/{job}"
        runs = folder / "jobs" / job / "runs"
        checkpoint = f"*/checkpoints/step-{HALF:08d}/state.json"
        wait_until(lambda: list(runs.glob(checkpoint)), 0.001)
        stop_process(
            server.jobs()[0],
            database,
            lambda: get_json(client, f"{job_path}/checkpoints")["data"],
        )

        batch = create_batch(client, root, batch_requests(LINES))
        batch_path = f"/v1/batches/{batch}"
        journal = folder / "jobs" / batch / "answers.jsonl"
        wait_until(lambda: journal.exists() and lines_of(journal) >= ANSWERED, 0.001)
        stop_process(
            server.jobs()[1],
            database,
            lambda: get_json(client, batch_path)["request_counts"]["completed"],
        )

        before = listing(client)
        server.kill()
    statuses = [before["jobs"][path]["status"] for path in (job_path, batch_path)]
    if statuses != ["running", "in_progress"] or lines_of(journal) == LINES:
        raise RuntimeError(f"killed too late ({statuses}); run this again")
    return {**before, "running": {"job": job_path, "batch": batch_path}}


def start_tuning(client: httpx.Client, root: Path) -> str:
    """The id of the job that is going to be killed."""
    tuning = {
        "model": "verse",
        "training_file": upload(client, root / "data" / "sayings.jsonl", "fine-tune"),
        "seed": 3,
        "suffix": "half",
        "miaobi": {**TUNE_SETTINGS, "task": "causal"},
    }
    return str(post_json(client, "/v1/fine_tuning/jobs", tuning)["id"])


def lines_of(path: Path) -> int:
    return path.read_bytes().count(b"\n")


def stop_process(
    process: psutil.Process, database: Path, reported: Callable[[], object]
) -> None:
    """Stop a job's process where it is, but for what it takes until its progress is `reported`."""
    process.suspend()
    time.sleep(REPORT_SECONDS)
    process.resume()
    wait_until(reported, 0.001)
    process.suspend()
    while is_locked(database):
        process.resume()
        process.suspend()


def is_locked(database: Path) -> bool:
    """Whether a process is writing to a SQLite database; stopped there, it would hold up all others."""
    with closing(sqlite3.connect(database, timeout=0, isolation_level=None)) as other:
        try:
            other.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
        other.execute("ROLLBACK")
    return False


def finish_jobs(root: Path, key: str, running: Mapping[str, str]) -> dict[str, Any]:
    """How the two jobs end: texts by line, and weights in `root`/expected."""
    with Server(root, workers=2) as server:
        client = server.client(key)
        job = check_end(client, running["job"], "succeeded")
        batch = check_end(client, running["batch"], "completed")
        output = client.get(f"/v1/files/{batch['output_file_id']}/content").text
        server.stop()
    rows = [json.loads(line) for line in output.splitlines()]
    model = root / "home" / "models" / job["fine_tuned_model"] / "1"
    target = Path("expected") / "job.safetensors"
    shutil.copy(model / "model.safetensors", root / target)
    return {
        "model": job["fine_tuned_model"],
        "weights": str(target),
        "texts": {
            row["custom_id"]: row["response"]["body"]["choices"][0]["text"]
            for row in rows
        },
    }


def finish_run(root: Path, verb: str, name: str) -> dict[str, Any]:
    """How a stopped run ends: its log, and weights in `root`/expected."""
    command(root, verb, "--resume", name, "--runs", "runs")
    folder = next((root / "runs").glob(f"{name}-*"))
    weights = next((folder / "bundle").glob("*.safetensors"))
    target = Path("expected") / f"{name}.safetensors"
    shutil.copy(weights, root / target)
    log = (folder / "log.jsonl").read_text(encoding="utf-8")
    return {
        "verb": verb,
        "file": weights.name,
        "weights": str(target),
        "log": [json.loads(line) for line in log.splitlines()],
    }


def check_unbroken(root: Path, verb: str, name: str) -> None:
    """Raise RuntimeError unless the run that was never stopped ends with the very same weights."""
    options = ("--runs", "scratch", "--name", "unbroken")
    command(root, verb, f"recipes/{name}.yaml", *options)
    folder = next((root / "scratch").glob("unbroken-*"))
    whole = load_file(next((folder / "bundle").glob("*.safetensors")))
    resumed = load_file(root / "expected" / f"{name}.safetensors")
    if not all(np.array_equal(whole[key], resumed[key]) for key in whole | resumed):
        raise RuntimeError(f"{name}: a resumed run does not end as an unbroken one")
    shutil.rmtree(root / "scratch")


def check_paths(folder: Path, root: Path) -> None:
    """Raise RuntimeError for a file with the root's path that relocation.py would leave as it is."""
    for path in sorted(folder.rglob("*")):
        if path.is_dir() or path.suffix in TEXT or ".sqlite" in path.name:
            continue
        if str(root).encode() in path.read_bytes():
            raise RuntimeError(f"{path} holds the path {root}")


def main() -> None:
    version = miaobi.__version__
    target = HERE / version
    root = Path(f"/tmp/miaobi-upgrade-{version}")
    if target.exists() or root.exists():
        sys.exit(f"{target} or {root} is there already: remove it first")
    for folder in (root / "home", root / "expected"):
        folder.mkdir(parents=True)
    inputs.write(root)
    write_recipes(root)
    fill_store(root)
    kill_half_way(root, "train", "half-train")
    kill_half_way(root, "finetune", "half-tune")
    keys = create_keys(root)
    serve(root, keys)
    server = serve_until_killed(root, keys["team-a"])
    made = int(time.time())
    (root / "serve.log").unlink()
    shutil.rmtree(root / "home" / "converted")  # engines make it again
    shutil.copytree(root, target)

    # The files stand. From here on the version itself goes on from them.
    expected = {
        "version": version,
        "root": str(root),
        "made": made,
        "with": versions(),
        "keys": keys,
        "keyring": json.loads(command(root, "keys", "list", "--json")),
        "migration": migration(root),
        "models": json.loads(command(root, "models", "list", "--json")),
        "questions": questions(),
        "answers": run_session(root, questions()),
        "server": server,
        "finished": finish_jobs(root, keys["team-a"], server["running"]),
        "runs": {
            "half-train": finish_run(root, "train", "half-train"),
            "half-tune": finish_run(root, "finetune", "half-tune"),
        },
    }
    check_unbroken(root, "train", "half-train")
    check_unbroken(root, "finetune", "half-tune")
    for path in sorted((root / "expected").iterdir()):
        shutil.copy(path, target / "expected" / path.name)
    check_paths(target, root)
    text = json.dumps(expected, ensure_ascii=False, indent=1)
    (target / "expected.json").write_text(text + "\n", encoding="utf-8")
    shutil.rmtree(root)


if __name__ == "__main__":
    main()
