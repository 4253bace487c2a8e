"""Every earlier version's files: they open, resume and serve, and end as that version itself ends them.

Each folder beside this file that has an expected.json is what make.py left of one version. The code under test gets a
copy (relocation.py) and is asked as users ask it: by commands, by `miaobi.load`, over HTTP. Weights are the same to
the bit where PyTorch, Transformers and PEFT are the versions that the files were made with; otherwise they are close,
and the test is skipped with the difference, so that nobody takes "close" for "the same".
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file
from tests.upgrade.api import listing, post_json, wait_for_end
from tests.upgrade.processes import DATABASE, Server, migration, run_session, versions
from tests.upgrade.relocation import Relocation

from miaobi.serve.conversations import Conversations
from miaobi.serve.copies import list_copies
from miaobi.serve.database import open_records

VERSIONS = sorted(path.parent for path in Path(__file__).parent.glob("*/expected.json"))
KILLED_SECONDS = 60
"""Before the test, as the copy's times have it: longer than a job's lease."""
CLOSE = 1e-3
"""Difference of weights and losses on other versions of the libraries."""
REPLACEABLE = {"train.accumulation"}
"""Keys of a recipe that a later version reads, but may print under another name."""
OTHERS_SAMPLES = {"sample.prompts", "sample.max_new_tokens", "sample.pictures"}
"""Keys that 0.1.0 wrote whatever the family, and that did nothing where they were of
another kind: a family prints its own only.
"""
RUNS = ("half-train", "half-tune")
HALF, LAST = 20, 40
"""Steps of their checkpoint and of their end, and of the server's tuning job."""


@dataclass(frozen=True)
class Copy:
    """A version's files in a folder of their own, and what is expected of them there."""

    root: Path
    expected: Mapping[str, Any]


@dataclass(frozen=True)
class Session:
    """A copy whose models were asked and whose runs were resumed, with the result of each step (session.py)."""

    copy: Copy
    results: Mapping[str, Any]

    def output(self, step: str) -> str:
        """What a command printed."""
        result = self.results[step]
        assert result.get("code") == 0, result.get("error") or result["err"]
        return str(result["out"])


@dataclass(frozen=True)
class Restart:
    """A copy whose server was started again after it was killed, once the jobs that ran had ended."""

    copy: Copy
    journal: Sequence[str]
    """Lines of the batch that were answered when it was killed, as they lay on the disk."""
    migrations: tuple[str, str]
    """Of the database, before the server was started and now."""
    server: Server
    after: Mapping[str, Any]
    """What belongs to the key now (api.listing)."""

    @property
    def before(self) -> Mapping[str, Any]:
        """What the version itself listed."""
        return dict(self.copy.expected["server"])


@pytest.fixture(scope="module", params=VERSIONS, ids=lambda path: path.name)
def version(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


def make_copy(version: Path, target: Path) -> Copy:
    expected = json.loads((version / "expected.json").read_text(encoding="utf-8"))
    now = int(time.time()) - KILLED_SECONDS
    relocation = Relocation(expected["root"], str(target), expected["made"], now)
    relocation.copy(version)
    return Copy(target, relocation.value(expected))


@pytest.fixture(scope="module")
def session(version: Path, tmp_path_factory: pytest.TempPathFactory) -> Session:
    copy = make_copy(version, tmp_path_factory.mktemp("session") / version.name)
    steps = {
        "models": {"command": ["models", "list", "--json"]},
        **copy.expected["questions"],
        **{
            f"recipe {path.stem}": {
                "command": [verb_of(path), str(path), "--print-config"]
            }
            for path in recipes(copy)
        },
        **{
            run: {"command": [facts["verb"], "--resume", run, "--runs", "runs"]}
            for run, facts in copy.expected["runs"].items()
        },
        "rollback": {"command": ["models", "rollback", "verse"]},
        "models at last": {"command": ["models", "list", "--json"]},
        "keys": {"command": ["keys", "list", "--json"]},
    }
    return Session(copy, run_session(copy.root, steps))


@pytest.fixture(scope="module")
def restart(
    version: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Restart]:
    copy = make_copy(version, tmp_path_factory.mktemp("restart") / version.name)
    running = copy.expected["server"]["running"]
    batch = running["batch"].rpartition("/")[2]
    path = copy.root / "home" / "server" / "jobs" / batch / "answers.jsonl"
    journal = path.read_text(encoding="utf-8").splitlines()
    migration_before = migration(copy.root)
    with Server(copy.root, workers=2) as server:
        client = server.client(copy.expected["keys"]["team-a"])
        try:
            for job in running.values():
                wait_for_end(client, job)
        except TimeoutError as error:
            pytest.fail(f"{error}\n{server.log.read_text()[-5000:]}")
        migrations = migration_before, migration(copy.root)
        yield Restart(copy, journal, migrations, server, listing(client))


def recipes(copy: Copy) -> list[Path]:
    return sorted((copy.root / "recipes").glob("*.yaml"))


def verb_of(recipe: Path) -> str:
    return "finetune" if "base" in yaml.safe_load(recipe.read_text()) else "train"


def holds(new: Any, old: Any) -> bool:
    """Whether every value of `old` is in `new`, where objects may have further keys."""
    if isinstance(old, dict):
        return all(key in new and holds(new[key], item) for key, item in old.items())
    if isinstance(old, list):
        return len(new) == len(old) and all(map(holds, new, old))
    return bool(new == old)


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of nested mappings by dotted key."""
    values: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            values |= flat(value, f"{prefix}{key}.")
        else:
            values[f"{prefix}{key}"] = value
    return values


def other_versions(expected: Mapping[str, Any]) -> list[str]:
    """What computes here otherwise than where the files were made."""
    return [
        f"{name} is {here}, was {expected['with'][name]}"
        for name, here in versions().items()
        if here != expected["with"][name]
    ]


def check_weights(path: Path, copy: Copy, weights: str) -> None:
    """Compare a file of weights with the one that the version itself ended with."""
    new = load_file(path)
    old = load_file(copy.root / weights)
    assert new.keys() == old.keys()
    differences = {
        name: float(np.abs(new[name] - old[name]).max())
        for name in old
        if not np.array_equal(new[name], old[name])
    }
    if differences:
        others = other_versions(copy.expected)
        assert others, f"not the same bits: {differences}"
        assert max(differences.values()) < CLOSE, (others, differences)
        pytest.skip(f"close, but not the same bits: {', '.join(others)}")


def models_of(output: str) -> dict[str, dict[str, Any]]:
    """The rows of `miaobi models list --json` by model, but for the size, which counts the letters of paths."""
    rows = json.loads(output)["models"]
    return {
        row["model"]: {key: row[key] for key in row if key != "megabytes"}
        for row in rows
    }


def test_files_of_earlier_versions_are_here() -> None:
    assert "0.1.0" in [path.name for path in VERSIONS]


# The store.


def test_models_are_listed(session: Session) -> None:
    rows = models_of(session.output("models"))
    assert holds(rows, models_of(json.dumps(session.copy.expected["models"])))


def test_models_that_write_answer_the_same(session: Session) -> None:
    expected = session.copy.expected["answers"]
    writers = [step for step in expected if step.startswith(("verse", "helper"))]
    answers = {step: session.results[step] for step in writers}
    assert answers == {step: expected[step] for step in writers}
    assert len(writers) >= 9


@pytest.mark.parametrize("step", ["mood good", "mood bad"])
def test_a_tuned_classifier_answers_the_same(session: Session, step: str) -> None:
    assert "texts" in session.results[step], session.results[step]
    new = json.loads(session.results[step]["texts"][0])
    old = json.loads(session.copy.expected["answers"][step]["texts"][0])
    assert new["label"] == old["label"] == step.split()[1]
    assert new["scores"] == pytest.approx(old["scores"], abs=CLOSE)


def test_pictures_are_the_same_for_a_seed(session: Session) -> None:
    assert "pictures" in session.results["shapes"], session.results["shapes"]
    new = np.array(session.results["shapes"]["pictures"])
    old = np.array(session.copy.expected["answers"]["shapes"]["pictures"])
    assert new.shape == old.shape
    assert np.abs(new - old).max() <= (
        1 if other_versions(session.copy.expected) else 0
    )


def test_a_promotion_can_be_taken_back(session: Session) -> None:
    before = models_of(session.output("models"))
    session.output("rollback")
    after = models_of(session.output("models at last"))
    names = ("verse@1", "verse@2")
    assert [before[name]["alias"] for name in names] == ["production", "latest"]
    assert [after[name]["alias"] for name in names] == ["", "production latest"]


def test_recipes_are_read(session: Session) -> None:
    paths = recipes(session.copy)
    for path in paths:
        written = flat(yaml.safe_load(path.read_text(encoding="utf-8")))
        printed = flat(yaml.safe_load(session.output(f"recipe {path.stem}")))
        assert written.keys() - printed.keys() <= REPLACEABLE | OTHERS_SAMPLES
        samples = {key for key in printed if key.startswith("sample.")}
        assert bool(samples) == ("family" in written)
        assert samples <= written.keys()
        assert {key: printed.get(key, written[key]) for key in written} == written
        assert "train.accumulation" in written
    assert len(paths) == 7


# Stopped runs.


@pytest.mark.parametrize("run", RUNS)
def test_a_stopped_run_ends_with_the_same_weights(session: Session, run: str) -> None:
    session.output(run)
    expected = session.copy.expected["runs"][run]
    folder = next((session.copy.root / "runs").glob(f"{run}-*"))
    check_weights(
        folder / "bundle" / expected["file"], session.copy, expected["weights"]
    )
    assert f"{run}@1" in models_of(session.output("models at last"))


@pytest.mark.parametrize("run", RUNS)
def test_a_stopped_run_logs_the_same_losses(
    session: Session, run: str, version: Path
) -> None:
    session.output(run)
    expected = session.copy.expected["runs"][run]["log"]
    new = log_of(next((session.copy.root / "runs").glob(f"{run}-*")))
    check_went_on(new, log_of(next((version / "runs").glob(f"{run}-*"))))
    assert [row["step"] for row in new] == [row["step"] for row in expected]
    exact = CLOSE if other_versions(session.copy.expected) else 0
    for name in ("loss", "validation", "seen", "learning_rate"):
        values = [row[name] for row in expected if name in row]
        assert [row[name] for row in new if name in row] == pytest.approx(
            values, rel=exact, abs=0
        )


def log_of(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "log.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def check_went_on(new: list[dict[str, Any]], old: list[dict[str, Any]]) -> None:
    """Steps up to the checkpoint were not done again: the seconds that they took are those of then."""
    before = [row for row in old if row["step"] <= HALF]
    assert [row for row in new if row["step"] <= HALF] == before
    assert any("seconds" in row for row in before)


# The server's database and files.


def test_the_database_is_brought_up_to_date(restart: Restart) -> None:
    before, after = restart.migrations
    assert before == restart.copy.expected["migration"]
    assert after >= before


def test_the_database_is_copied_before_it_is_migrated(
    version: Path, tmp_path: Path
) -> None:
    """0003 makes amounts of the usage, 0004 adds tables; others stay as they are."""
    root = make_copy(version, tmp_path / version.name).root
    database, revision = root / DATABASE, migration(root)
    with closing(sqlite3.connect(database)) as other_server:
        other_server.execute("SELECT name FROM sqlite_master").close()
        before = rows_of(database)
        open_records(f"sqlite:///{database}").close()
    (copy,) = list_copies(database)
    assert copy.revision == revision == "0002"
    assert rows_of(copy.path) == before
    after = rows_of(database)
    changed = {table for table in before if before[table] != after.get(table)}
    assert changed == {"alembic_version", "usage"}
    assert after.keys() - before.keys() == {
        "amounts",
        "conversations",
        "turns",
        "uploads",
    }
    assert sum(map(len, before.values())) > 50


def test_an_old_database_keeps_conversations(version: Path, tmp_path: Path) -> None:
    root = make_copy(version, tmp_path / version.name).root
    records = open_records(f"sqlite:///{root / DATABASE}")
    conversations = Conversations(records)
    assert conversations.listed("local") == []
    first = conversations.add("local", [])
    conversations.add("local", [], parent_id=first.id)
    assert len(conversations.turns("local", first.conversation_id)) == 2
    records.close()


def rows_of(database: Path) -> dict[str, list[Any]]:
    """The rows of each table."""
    with closing(sqlite3.connect(database)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type='table'")
        return {
            name: connection.execute(f"SELECT * FROM {name}").fetchall()
            for (name,) in tables.fetchall()
        }


def test_keys_are_what_they_were(session: Session, restart: Restart) -> None:
    assert holds(json.loads(session.output("keys")), session.copy.expected["keyring"])
    keys = restart.copy.expected["keys"]
    promotion = {"version": 1}
    path = "/v1/store/models/verse/promote"
    statuses = {
        name: restart.server.client(key).post(path, json=promotion).status_code
        for name, key in {**keys, "nobody": "mb-nobody"}.items()
    }
    assert statuses == {"team-a": 403, "ops": 200, "former": 401, "nobody": 401}


def test_files_are_there_with_their_bytes(restart: Restart) -> None:
    new = {file["id"]: file for file in restart.after["files"]}
    old = {file["id"]: file for file in restart.before["files"]}
    assert holds(new, old)
    client = restart.server.client(restart.copy.expected["keys"]["team-a"])
    data = restart.copy.root / "data"
    for name in ("verses.jsonl", "reviews.jsonl", "sayings.jsonl"):
        (file,) = (id for id in old if old[id]["filename"] == name)
        content = client.get(f"/v1/files/{file}/content").content
        assert content == (data / name).read_bytes()


def test_jobs_that_ended_or_wait_are_what_they_were(restart: Restart) -> None:
    running = restart.before["running"].values()
    old = {
        path: job for path, job in restart.before["jobs"].items() if path not in running
    }
    assert holds(restart.after["jobs"], old)
    statuses = Counter(job["status"] for job in old.values())
    ended = ("succeeded", "completed", "failed", "cancelled")
    assert statuses == Counter([*ended, "paused"])


def test_events_of_jobs_are_there_in_their_order(restart: Restart) -> None:
    for what in ("events", "checkpoints"):
        assert restart.before[what].keys() == restart.after[what].keys()
        for path, old in restart.before[what].items():
            new = restart.after[what][path]
            assert holds(new[len(new) - len(old) :], old)
    assert sum(map(len, restart.before["events"].values())) > 20


def test_feedback_is_listed_and_exported(restart: Restart) -> None:
    assert holds(restart.after["feedback"], restart.before["feedback"])
    assert restart.before["feedback"]["counts"] == {"thumb": 1, "edit": 1, "vote": 1}
    assert restart.after["pairs"] == restart.before["pairs"]
    assert len(restart.after["pairs"].splitlines()) == 2


def test_usage_is_kept_and_added_to(restart: Restart) -> None:
    new, old = (used(usage["usage"]) for usage in (restart.after, restart.before))
    answered = len(restart.copy.expected["finished"]["texts"]) - len(restart.journal)
    assert old["shapes", "pictures"] == new["shapes", "pictures"] == 2
    assert new["verse", "requests"] == old["verse", "requests"] + answered
    assert all(new[key] >= old[key] for key in old)
    assert old["verse", "requests"] > 1
    for key in ("key", "limits"):
        assert holds(restart.after["usage"][key], restart.before["usage"][key])


def used(usage: Mapping[str, Any]) -> Counter[tuple[str, str]]:
    """What was used of each model in all."""
    total: Counter[tuple[str, str]] = Counter()
    for row in usage["data"]:
        for name in ("requests", "prompt_tokens", "completion_tokens", "pictures"):
            total[row["model"], name] += row[name]
    return total


# Its jobs that ran.


def test_the_batch_is_answered_whole_and_each_line_once(restart: Restart) -> None:
    batch = restart.after["jobs"][restart.before["running"]["batch"]]
    texts = restart.copy.expected["finished"]["texts"]
    counts = {"total": len(texts), "completed": len(texts), "failed": 0}
    assert batch["status"] == "completed"
    assert batch["request_counts"] == counts
    client = restart.server.client(restart.copy.expected["keys"]["team-a"])
    lines = client.get(f"/v1/files/{batch['output_file_id']}/content").text
    rows = [json.loads(line) for line in lines.splitlines()]
    answers = [
        (row["custom_id"], row["response"]["body"]["choices"][0]["text"])
        for row in rows
    ]
    assert answers == list(texts.items())
    assert 0 < len(restart.journal) < len(rows)
    assert set(restart.journal) <= set(lines.splitlines())


def test_the_tuning_job_ends_with_the_same_weights(
    restart: Restart, version: Path
) -> None:
    expected = restart.copy.expected["finished"]
    job = restart.after["jobs"][restart.before["running"]["job"]]
    assert (job["status"], job["error"]) == ("succeeded", None)
    assert job["fine_tuned_model"] == expected["model"]
    folder = restart.copy.root / "home" / "models" / expected["model"]
    stopped = next((version / "home" / "server" / "jobs").glob("ftjob-*/runs/*"))
    check_went_on(log_of(folder / "1"), log_of(stopped))
    assert not (folder / "2").exists()
    check_weights(folder / "1" / "model.safetensors", restart.copy, expected["weights"])


def test_the_tuning_job_says_each_step_once(restart: Restart) -> None:
    job = restart.before["running"]["job"]
    checkpoints = restart.after["checkpoints"][job]
    assert [item["step_number"] for item in checkpoints] == [LAST, HALF]
    steps = [
        event["data"]["step"]
        for event in restart.after["events"][job]
        if "train_loss" in event["data"]
    ]
    assert steps == list(range(LAST, 0, -5))


def test_models_answer_over_http(restart: Restart) -> None:
    client = restart.server.client(restart.copy.expected["keys"]["team-a"])
    finished = restart.copy.expected["finished"]
    models = [model["id"] for model in client.get("/v1/models").json()["data"]]
    assert {finished["model"], "verse", "helper", "mood", "shapes"} <= set(models)
    body = {"model": "verse", "prompt": "床前", "temperature": 0, "max_tokens": 24}
    answer = post_json(client, "/v1/completions", body)
    assert answer["choices"][0]["text"] == finished["texts"]["line-0"]
