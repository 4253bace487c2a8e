"""Fine-tuning jobs: what may be asked, their life over HTTP, what their process tells
and leaves; a real one, in a process of its own.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint

from miaobi.core import bundle
from miaobi.core.errors import BadInput
from miaobi.core.files import home
from miaobi.core.store import NAME, Store
from miaobi.serve.admission import Admission
from miaobi.serve.app import create_app
from miaobi.serve.callers import Caller
from miaobi.serve.files import Files
from miaobi.serve.guard import inside
from miaobi.serve.jobs import Lost
from miaobi.serve.jobs.tuning import TASKS, allowed_settings, tuned_name
from miaobi.serve.jobs.work import fine_tuning as work
from miaobi.serve.jobs.work.making import metrics_at
from miaobi.serve.jobs.work.task import Outcome, Task
from miaobi.serve.services import Services
from miaobi.serve.settings import Settings
from miaobi.verbs.train import Plan

CHATS = b"".join(
    json.dumps(
        {
            "messages": [
                {"role": "user", "content": f"What is {number}?"},
                {"role": "assistant", "content": f"It is {number}."},
            ]
        }
    ).encode()
    + b"\n"
    for number in range(40)
)


def upload(client: TestClient, data: bytes = CHATS, purpose: str = "fine-tune") -> str:
    return str(
        client.post(
            "/v1/files",
            files={"file": ("chats.jsonl", data)},
            data={"purpose": purpose},
        ).json()["id"]
    )


def create(client: TestClient, **fields: Any) -> dict[str, Any]:
    answer = client.post(
        "/v1/fine_tuning/jobs",
        json={"model": "echo", "training_file": upload(client), **fields},
    )
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_a_life_over_http(client: TestClient) -> None:
    new_job = create(
        client,
        suffix="support",
        seed=3,
        metadata={"for": "me"},
        method={
            "type": "supervised",
            "supervised": {"hyperparameters": {"n_epochs": 2}},
        },
    )
    FineTuningJob.model_validate(new_job)
    assert (
        new_job["status"] == "queued"
        and new_job["seed"] == 3
        and new_job["hyperparameters"]["n_epochs"] == 2
        and new_job["fine_tuned_model"] is None
    )
    path = f"/v1/fine_tuning/jobs/{new_job['id']}"
    assert client.get(path).json() == new_job and [
        item["id"] for item in client.get("/v1/fine_tuning/jobs").json()["data"]
    ] == [new_job["id"]]
    assert (
        client.post(f"{path}/pause").json()["status"] == "paused"
        and client.post(f"{path}/resume").json()["status"] == "queued"
    )
    assert (
        client.post(f"{path}/cancel").json()["status"] == "cancelled"
        and client.post(f"{path}/cancel").status_code == 200
    )
    assert (
        client.post(f"{path}/resume").status_code
        == client.post(f"{path}/pause").status_code
        == 409
    )
    events_page = client.get(f"{path}/events").json()
    assert [event["message"] for event in events_page["data"]] == [
        "Cancelled.",
        "Waiting to go on.",
        "Paused.",
        "Accepted; waiting for its turn.",
    ]
    first = client.get(f"{path}/events", params={"limit": 3}).json()
    assert (
        first["has_more"]
        and client.get(f"{path}/events", params={"after": first["last_id"]}).json()[
            "data"
        ]
        == events_page["data"][3:]
    )
    FineTuningJobEvent.model_validate(events_page["data"][0])
    streamed = client.get(f"{path}/events", params={"stream": "true"}).text.split(
        "\n\n"
    )
    assert [json.loads(row[6:])["message"] for row in streamed[:4]] == [
        event["message"] for event in reversed(events_page["data"])
    ] and streamed[4] == "data: [DONE]"


@pytest.mark.parametrize(
    ("fields", "phrase"),
    [
        ({"model": "nobody"}, "nobody"),
        ({"model": "/etc/passwd"}, "passwd"),
        ({"model": "grey"}, "makes image"),
        ({"training_file": "file-none"}, "file-none"),
        ({"validation_file": "file-none"}, "file-none"),
        ({"suffix": "../x"}, "suffix"),
        ({"suffix": "a\r\nb"}, "suffix"),
        ({"seed": -1}, "seed"),
        ({"method": {"type": "reinforcement"}}, "type"),
        ({"hyperparameters": {"n_epochs": 0}}, "n_epochs"),
        ({"hyperparameters": {"epochs": 1}}, "epochs"),
        ({"integrations": [{"type": "wandb"}]}, "integrations"),
        ({"miaobi": {"data.path": "/etc/passwd"}}, "data.path"),
        ({"miaobi": {"train.max_step": 1}}, "Did you mean train.max_steps"),
        ({"miaobi": {"train.max_steps": "1"}}, "train.max_steps"),
        ({"miaobi": {"tune.method": "lora; rm -rf /"}}, "tune.method"),
        ({"extra": 1}, "extra"),
        ({"metadata": {"a": "x" * 600}}, "metadata"),
    ],
)
def test_bad_fields_are_named(
    client: TestClient, fields: dict[str, Any], phrase: str
) -> None:
    answer = client.post(
        "/v1/fine_tuning/jobs",
        json={"model": "echo", "training_file": upload(client), **fields},
    )
    assert (
        answer.status_code in (400, 404) and phrase in answer.json()["error"]["message"]
    )
    assert client.get("/v1/fine_tuning/jobs").json()["data"] == []


def test_every_setting_on_the_list_is_one_that_the_tuner_knows() -> None:
    from miaobi.tune.tasks import tasks
    from miaobi.verbs.finetune.settings import options_of

    every = [option for name in TASKS for option in options_of(tasks.get(name))]
    by_key = {option.key: option for option in every}
    by_key |= {option.former_key: option for option in every if option.former_key}
    allowed = allowed_settings()
    assert allowed.keys() <= by_key.keys()
    assert not {
        key
        for key in allowed
        if "path" in key or "pack" in key or key in ("name", "base", "train.device")
    }
    for option in every:  # one key has the same bounds in every task
        if option.key in allowed and option.key != "task":
            same = replace(allowed[option.key], help=option.help)
            assert option.schema() == same.schema(), option.key


@pytest.mark.parametrize(
    ("key", "value", "bound"),
    [
        ("train.max_steps", 0, "at least 1"),
        ("train.learning_rate", 0, "above 0"),
        ("train.warmup", 1.01, "at most 1"),
        ("tune.lora_rank", 0, "at least 1"),
        ("tune.lora_dropout", 1, "below 1"),
        ("data.validation", 1.0, "below 1"),
        ("head.beta", 0.0, "above 0"),
        ("report.answers", -1, "at least 0"),
        ("train.accumulation", 0, "at least 1"),
        ("train.max_steps", True, "int"),
        ("data.strict", 1, "bool"),
        ("tune.method", "lorra", "Did you mean lora"),
    ],
)
def test_a_setting_out_of_bounds_is_named_with_its_bound(
    client: TestClient, key: str, value: Any, bound: str
) -> None:
    fields = {"model": "echo", "training_file": upload(client), "miaobi": {key: value}}
    answer = client.post("/v1/fine_tuning/jobs", json=fields)
    message = answer.json()["error"]["message"]
    assert answer.status_code == 400
    assert key in message or key == "train.accumulation"
    assert str(value) in message
    assert bound in message


def test_the_description_has_the_bounds_of_the_configs(app: FastAPI) -> None:
    schemas = app.openapi()["components"]["schemas"]
    creates = [item for name, item in schemas.items() if name.endswith("Create")]
    tuning = next(item for item in creates if "model" in item["properties"])
    settings = tuning["properties"]["miaobi"]["anyOf"][0]["properties"]
    assert settings["train.max_steps"]["minimum"] == 1
    assert settings["train.learning_rate"]["exclusiveMinimum"] == 0
    assert settings["data.validation"]["exclusiveMaximum"] == 1
    assert settings["data.too_long"]["enum"] == ["truncate", "split", "drop"]
    assert settings["train.max_steps"]["description"]


def test_files_for_other_purposes_are_not_tuned_on(client: TestClient) -> None:
    answer = client.post(
        "/v1/fine_tuning/jobs",
        json={"model": "echo", "training_file": upload(client, purpose="user_data")},
    )
    assert answer.status_code == 400 and "purpose" in answer.json()["error"]["message"]


def test_jobs_belong_to_their_key(app: FastAPI) -> None:
    with (
        TestClient(app),
        TestClient(inside(app, Caller("key-a"))) as one,
        TestClient(inside(app, Caller("key-b"))) as two,
    ):
        new_job = create(one)["id"]
        assert two.get("/v1/fine_tuning/jobs").json()["data"] == []
        for call, path in (
            (two.get, ""),
            (two.post, "/cancel"),
            (two.post, "/pause"),
            (two.post, "/resume"),
            (two.get, "/events"),
            (two.get, "/checkpoints"),
        ):
            assert call(f"/v1/fine_tuning/jobs/{new_job}{path}").status_code == 404
        assert one.get(f"/v1/fine_tuning/jobs/{new_job}").json()["status"] == "queued"


@pytest.mark.parametrize(
    ("model", "suffix"),
    [
        ("smollm2", None),
        ("smollm2", "support"),
        ("a" * 64, "b" * 30),
        ("smollm2-ft-support-1a2b3c4d@2", "more"),
    ],
)
def test_a_tuned_models_name_is_one_that_the_store_takes(
    model: str, suffix: str | None
) -> None:
    name = tuned_name(model, suffix, "ftjob-" + "0123456789abcdef" * 2)
    assert (
        NAME.fullmatch(name) and name.endswith("89abcdef") and name.count("-ft-") == 1
    )


# The work, with a tuner that writes what the real one writes.


class Tuner:
    """Stands for miaobi.verbs.finetune: three steps, a checkpoint, a model; stops after
    `stops_at` steps.
    """

    def __init__(self) -> None:
        self.stops_at = 0
        self.calls = list[dict[str, Any]]()

    def _go(self, run: Path, name: str) -> None:
        (run / "checkpoints").mkdir(parents=True, exist_ok=True)
        (run / "config.yaml").write_text("name: x\ntrain:\n  max_steps: 3\n")
        rows = [
            {
                "step": step,
                "loss": 3.0 - step,
                "seen": 100 * step,
                "seconds": 1.0,
                "learning_rate": 1e-3,
            }
            for step in (1, 2, 3)
        ]
        for row in rows[: self.stops_at or 3]:
            with (run / "log.jsonl").open("a") as file:
                file.write(
                    json.dumps(row)
                    + "\n"
                    + json.dumps({"step": row["step"], "validation": 2.5})
                    + "\n"
                )
        for step in (1, 2):
            folder = run / "checkpoints" / f"step-{step:08d}"
            folder.mkdir(exist_ok=True)
        if self.stops_at:
            raise KeyboardInterrupt
        with (run / "log.jsonl").open("a") as file:
            file.write(json.dumps({"step": 3, "sample": "What is 1? It is 1."}) + "\n")
        bundle.write(
            run / "bundle",
            bundle.Manifest("toy", "text", metrics={"test_loss": 0.5}),
            lambda draft: None,
        )
        Store().add(run / "bundle", name)

    def finetune(
        self,
        *,
        base: str,
        data: Path,
        name: str,
        settings: dict[str, Any],
        runs: Path,
        quiet: bool,
    ) -> None:
        self.calls.append(
            {"base": base, "data": Path(data).read_text(), "settings": settings}
        )
        self.name = name
        self._go(runs / "x-1", name)

    def resume(self, run: Path, *, runs: Path, quiet: bool) -> None:
        self.calls.append({"resumed": run.name})
        (run / "log.jsonl").unlink()
        self._go(run, self.name)

    def plan(
        self, *, base: str, data: Path, settings: dict[str, Any], runs: Path
    ) -> Plan:
        self.calls.append({"planned": settings})
        from miaobi.train.estimate import Estimate

        return Plan(
            {"train": {"learning_rate": 1e-3, "max_steps": 3}},
            Estimate(12.0, 10**9, 10**6, 1000, 2 * 10**9, 10**9, 10),
        )


@pytest.fixture
def tuner(monkeypatch: pytest.MonkeyPatch) -> Tuner:
    tuner = Tuner()
    monkeypatch.setattr(work, "finetune", tuner)
    return tuner


def do(
    services: Services, id: str, what: Any = work.run, kind: str = "fine_tuning"
) -> Outcome:
    job = services.jobs.claim("me", (kind,))
    assert job is not None and job.id == id
    folder = services.settings.folder / "jobs" / id
    folder.mkdir(parents=True, exist_ok=True)
    outcome: Outcome = what(
        Task(
            job,
            "me",
            services.jobs,
            Files(services.records, services.settings.folder / "files", 1 << 20),
            services.settings,
            folder,
        )
    )
    services.jobs.end(id, "me", outcome.status, outcome.message, outcome.result)
    return outcome


def test_a_job_that_ends_leaves_a_model_metrics_and_a_file_of_results(
    client: TestClient, services: Services, tuner: Tuner
) -> None:
    new_job = create(
        client,
        suffix="x",
        seed=5,
        hyperparameters={
            "n_epochs": 3,
            "batch_size": 4,
            "learning_rate_multiplier": 2.0,
        },
        miaobi={"tune.lora_rank": 2},
    )
    do(services, new_job["id"])
    path = f"/v1/fine_tuning/jobs/{new_job['id']}"
    done = client.get(path).json()
    assert (
        done["status"] == "succeeded"
        and done["fine_tuned_model"] == new_job["miaobi"]["will_be_called"]
        and Store().resolve(done["fine_tuned_model"])
    )
    assert done["trained_tokens"] == 300 and done["miaobi"]["metrics"] == {
        "test_loss": 0.5
    }
    assert tuner.calls[-1]["settings"] == {
        "train.trackers": [],
        "train.seed": 5,
        "train.batch_size": 4,
        "train.microbatches": 1,
        "train.max_steps": 24,
        "train.learning_rate": 2e-3,
        "tune.lora_rank": 2,
    }
    assert tuner.calls[-1]["data"].encode() == CHATS
    events = client.get(f"{path}/events", params={"limit": 100}).json()["data"]
    assert [
        event["data"]["train_loss"]
        for event in reversed(events)
        if "train_loss" in event["data"]
    ] == [2.0, 1.0, 0.0]
    assert any("AI-generated / 由AI生成" in event["message"] for event in events)
    checkpoints = client.get(f"{path}/checkpoints").json()["data"]
    for checkpoint in checkpoints:
        FineTuningJobCheckpoint.model_validate(checkpoint)
    assert [item["step_number"] for item in checkpoints] == [2, 1]
    table = client.get(f"/v1/files/{done['result_files'][0]}/content").text.splitlines()
    assert (
        table[0] == "step,train_loss,valid_loss,learning_rate,seen,seconds"
        and table[1].startswith("1,2.0,2.5,0.001,100")
        and len(table) == 4
    )


def test_a_checkpoint_has_the_metrics_of_its_own_step(
    client: TestClient, services: Services, tuner: Tuner
) -> None:
    """The run is over before the server looks at it: each checkpoint still gets what
    the log said up to its step.
    """
    id = create(client)["id"]
    do(services, id)
    path = f"/v1/fine_tuning/jobs/{id}/checkpoints"
    checkpoints = client.get(path).json()["data"]
    assert [item["metrics"] for item in checkpoints] == [
        {"step": 2, "train_loss": 1.0, "valid_loss": 2.5},
        {"step": 1, "train_loss": 2.0, "valid_loss": 2.5},
    ]


def test_metrics_between_two_rows_of_the_log() -> None:
    rows = [
        {"step": 5, "loss": 3.0},
        {"step": 5, "validation": 4.0},
        {"step": 5, "sample": "a"},
        {"step": 10, "loss": 2.0},
        {"step": 15, "loss": 1.0},
    ]
    assert metrics_at(4, rows) == {}
    assert metrics_at(12, rows) == {"step": 10, "train_loss": 2.0, "valid_loss": 4.0}


def test_one_that_was_stopped_goes_on_and_records_nothing_twice(
    client: TestClient, services: Services, tuner: Tuner
) -> None:
    new_job = create(client)
    tuner.stops_at = 2
    with pytest.raises(KeyboardInterrupt):
        do(services, new_job["id"])
    services.jobs.give_back(new_job["id"], "me", died="killed")
    tuner.stops_at = 0
    do(services, new_job["id"])
    assert tuner.calls[-1] == {"resumed": "x-1"}
    steps = [
        event.data["step"]
        for event in services.jobs.events(new_job["id"], ("metrics",))
        if "train_loss" in event.data
    ]
    assert (
        steps == [1, 2, 3]
        and len(services.jobs.events(new_job["id"], ("checkpoint",))) == 2
    )


def test_one_that_was_killed_after_its_last_step_makes_no_second_model(
    client: TestClient,
    services: Services,
    tuner: Tuner,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    new_job = create(client)
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(
            services.jobs, "end", lambda *_: (_ for _ in ()).throw(MemoryError())
        )
        do(services, new_job["id"])
    services.jobs.give_back(new_job["id"], "me", died="killed")
    do(services, new_job["id"])
    done = client.get(f"/v1/fine_tuning/jobs/{new_job['id']}").json()
    assert (
        len(tuner.calls) == 1 and len(Store().versions(done["fine_tuned_model"])) == 1
    )
    assert (
        len(
            client.get("/v1/files", params={"purpose": "fine-tune-results"}).json()[
                "data"
            ]
        )
        == 1
    )


def test_one_that_was_cancelled_at_the_last_moment_leaves_no_model(
    client: TestClient,
    services: Services,
    tuner: Tuner,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    new_job = create(client)
    go = tuner._go
    monkeypatch.setattr(
        tuner,
        "_go",
        lambda run, name: (go(run, name), services.jobs.cancel(new_job["id"])),
    )
    with pytest.raises(Lost):
        do(services, new_job["id"])
    assert (
        Store().names() == []
        and client.get(f"/v1/fine_tuning/jobs/{new_job['id']}").json()["status"]
        == "cancelled"
    )


def test_preferences_in_openais_shape(
    client: TestClient, services: Services, tuner: Tuner
) -> None:
    row = {
        "input": {"messages": [{"role": "user", "content": "Hi"}]},
        "preferred_output": [{"role": "assistant", "content": "Hello!"}],
        "non_preferred_output": [{"role": "assistant", "content": "No."}],
    }
    file = upload(client, json.dumps(row).encode() + b"\n")
    new_job = create(
        client,
        training_file=file,
        method={"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.2}}},
    )
    do(services, new_job["id"])
    assert json.loads(tuner.calls[0]["data"]) == {
        "prompt": row["input"]["messages"],
        "chosen": row["preferred_output"],
        "rejected": row["non_preferred_output"],
    }
    assert (
        tuner.calls[0]["settings"].items()
        >= {"task": "preference", "head.loss": "dpo", "head.beta": 0.2}.items()
    )


def test_a_training_file_that_was_removed_fails_the_job(
    client: TestClient, services: Services, tuner: Tuner
) -> None:
    new_job = create(client)
    client.delete(f"/v1/files/{new_job['training_file']}")
    with pytest.raises(Exception, match="no file"):
        do(services, new_job["id"])


def test_an_estimate(client: TestClient, services: Services, tuner: Tuner) -> None:
    new_job = services.jobs.add(
        "estimate",
        "local",
        {**services.jobs.find(create(client)["id"], "fine_tuning", "local").request},
        "ftestimate-1",
    )
    outcome = do(services, new_job.id, work.estimate, "estimate")
    assert (
        outcome.result["seconds"] == 12.0
        and "12 s" in outcome.result["message"]
        and outcome.result["memory_bytes"] == 10**9
    )
    answer = client.post(
        "/v1/fine_tuning/estimates",
        json={"model": "echo", "training_file": upload(client)},
    )
    assert (
        answer.status_code == 503
        and "runs no jobs" in answer.json()["error"]["message"]
    )


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_real_model_is_tuned_in_a_process_of_its_own_and_answers_under_its_name(
    tmp_path: Path, smollm2: Path
) -> None:
    from miaobi.serve.opening import build_pool

    home().mkdir()
    (home() / "packs").symlink_to(smollm2.parents[3])
    settings = Settings(hosts=("testserver",), studio=False, streams=2)
    with TestClient(
        create_app(Services(settings, build_pool(settings), Admission(settings)))
    ) as client:
        settled = {
            "train.max_steps": 2,
            "train.batch_size": 2,
            "train.accumulation": 1,
            "report.limit": 2,
            "report.forgetting": False,
            "report.memorisation": False,
        }
        file = upload(client)
        keys = client.post(
            "/v1/fine_tuning/estimates",
            json={"model": "smollm2", "training_file": file, "miaobi": settled},
        )
        assert keys.status_code == 200 and keys.json()["memory_bytes"] > 1e8, keys.text
        new_job = create(
            client, model="smollm2", training_file=file, suffix="test", miaobi=settled
        )
        until = time.monotonic() + 800
        while (job := client.get(f"/v1/fine_tuning/jobs/{new_job['id']}").json())[
            "status"
        ] in ("queued", "running") and time.monotonic() < until:
            time.sleep(1)
        assert job["status"] == "succeeded", job["error"]
        assert job["fine_tuned_model"] in [
            model["id"] for model in client.get("/v1/models").json()["data"]
        ]
        said = client.post(
            "/v1/chat/completions",
            json={
                "model": job["fine_tuned_model"],
                "messages": [{"role": "user", "content": "What is 3?"}],
                "max_tokens": 8,
            },
        )
        assert (
            said.status_code == 200 and said.json()["choices"][0]["message"]["content"]
        )


def test_bad_data_is_reported_by_its_position(
    client: TestClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the tuner refuses, the job's error repeats, without the server's paths
    (test_worker.py).
    """
    new_job = create(client)

    def refuse(**_: Any) -> None:
        raise BadInput("line 3 has no answer.", "Mend it.")

    monkeypatch.setattr(work.finetune, "finetune", refuse)
    with pytest.raises(BadInput):
        do(services, new_job["id"])
