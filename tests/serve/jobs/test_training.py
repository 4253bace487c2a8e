"""Training jobs: what may be asked, a text and a picture model trained here from a
file, and one that was killed on the way.
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image
from tests.serve.jobs.test_fine_tuning import do
from tests.serve.live import wait_until

from miaobi.core import bundle, storage
from miaobi.core.config import Option
from miaobi.core.recipes import RecipeFolder
from miaobi.core.recipes import recipes as packaged
from miaobi.core.store import NAME, Store
from miaobi.families import families
from miaobi.serve.admission import Admission
from miaobi.serve.app import create_app
from miaobi.serve.callers import Caller
from miaobi.serve.guard import inside
from miaobi.serve.jobs.training import allowed_settings, recipes, trained_name
from miaobi.serve.jobs.work import training as work
from miaobi.serve.services import Services
from miaobi.serve.settings import Settings
from miaobi.verbs.train import recipe_options

TEXT = (
    "".join(
        f"the {colour} {animal} sees the {other} {animal}\n"
        for colour in ("red", "blue", "grey")
        for animal in ("cat", "dog", "fox", "owl")
        for other in ("old", "young", "small")
    )
    * 8
)
SMALL = {
    "train.max_steps": 6,
    "train.batch_size": 4,
    "train.validate_every": 3,
    "train.sample_every": 3,
    "train.checkpoint_every": 3,
    "train.log_every": 2,
    "model.num_layers": 1,
    "model.hidden_size": 16,
    "data.context_length": 16,
    "sample.max_new_tokens": 8,
}


def upload(
    client: TestClient,
    name: str = "lines.txt",
    data: bytes = TEXT.encode(),
    purpose: str = "user_data",
) -> str:
    return str(
        client.post(
            "/v1/files", files={"file": (name, data)}, data={"purpose": purpose}
        ).json()["id"]
    )


def create(client: TestClient, **fields: Any) -> dict[str, Any]:
    answer = client.post("/v1/training/jobs", json={"recipe": "my-corpus", **fields})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def pictures() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(48):
            picture = io.BytesIO()
            Image.new(
                "RGB",
                (16, 16),
                (255, number * 5, 0) if number % 2 else (0, number * 5, 255),
            ).save(picture, "PNG")
            archive.writestr(
                f"mine/{'red' if number % 2 else 'blue'}/{number}.png",
                picture.getvalue(),
            )
    return buffer.getvalue()


def test_recipes_are_listed_with_their_data(client: TestClient) -> None:
    by_id = {
        item["id"]: item for item in client.get("/v1/training/recipes").json()["data"]
    }
    assert (
        by_id["poet"]["data"] == "chinese-poetry"
        and by_id["poet"]["modality"] == "text"
        and by_id["poet"]["description"].startswith("A poet:")
    )
    assert (
        by_id["my-pictures"]["data"] is None
        and by_id["my-pictures"]["modality"] == "image"
        and "review-sentiment" not in by_id
    )


def test_every_setting_on_the_list_is_a_recipes_and_none_is_a_path() -> None:
    every: list[Option] = []
    for name in families.names():
        every += recipe_options(families.get(name))
    by_key = {option.key: option for option in every}
    by_key |= {option.former_key: option for option in every if option.former_key}
    allowed = allowed_settings()
    assert allowed.keys() <= by_key.keys()
    assert not {
        key
        for key in allowed
        if "path" in key
        or "pack" in key
        or key in ("name", "train.device", "train.trackers")
    }
    for option in every:  # one key has the same bounds in every family
        if option.key in allowed and option.key != "data.tokenizer":
            same = replace(allowed[option.key], help=option.help)
            assert option.schema() == same.schema(), option.key


@pytest.mark.parametrize(
    ("fields", "phrase"),
    [
        ({"recipe": "poett"}, "poet"),
        ({"recipe": "../../etc/passwd"}, "passwd"),
        ({"recipe": "my-corpus"}, "no data of its own"),
        ({"training_file": "file-none"}, "file-none"),
        ({"recipe": "poet", "suffix": "../x"}, "suffix"),
        ({"recipe": "poet", "seed": -1}, "seed"),
        ({"recipe": "poet", "miaobi": {"data.path": "/etc/passwd"}}, "data.path"),
        ({"recipe": "poet", "miaobi": {"train.trackers": ["wandb"]}}, "train.trackers"),
        ({"recipe": "poet", "miaobi": {"train.max_steps": 0}}, "train.max_steps"),
        ({"recipe": "poet", "model": "x"}, "model"),
    ],
)
def test_bad_fields_are_named(
    client: TestClient, fields: dict[str, Any], phrase: str
) -> None:
    answer = client.post("/v1/training/jobs", json={"recipe": "my-corpus", **fields})
    assert (
        answer.status_code in (400, 404) and phrase in answer.json()["error"]["message"]
    )
    assert client.get("/v1/training/jobs").json()["data"] == []


@pytest.mark.parametrize(
    ("recipe", "name", "purpose", "phrase"),
    [
        ("my-corpus", "x.pkl", "user_data", "ends in .txt"),
        ("my-corpus", "x.zip", "user_data", "ends in .txt"),
        ("my-pictures", "x.txt", "user_data", "ends in .zip"),
        ("my-corpus", "x.txt", "batch", "purpose"),
    ],
)
def test_files_that_cannot_be_trained_on(
    client: TestClient, recipe: str, name: str, purpose: str, phrase: str
) -> None:
    data = (
        b'{"custom_id": "1", "method": "POST", "url": "/v1/embeddings", "body": {}}\n'
    )
    answer = client.post(
        "/v1/training/jobs",
        json={"recipe": recipe, "training_file": upload(client, name, data, purpose)},
    )
    assert answer.status_code == 400 and phrase in answer.json()["error"]["message"]


def test_jobs_belong_to_their_key_and_to_their_kind(app: FastAPI) -> None:
    with (
        TestClient(app),
        TestClient(inside(app, Caller("key-a"))) as one,
        TestClient(inside(app, Caller("key-b"))) as two,
    ):
        new_job = create(one, training_file=upload(one))["id"]
        assert two.get("/v1/training/jobs").json()["data"] == []
        for call, path in (
            (two.get, ""),
            (two.post, "/cancel"),
            (two.post, "/pause"),
            (two.post, "/resume"),
            (two.get, "/events"),
            (two.get, "/checkpoints"),
        ):
            assert call(f"/v1/training/jobs/{new_job}{path}").status_code == 404
        assert (
            one.get(f"/v1/fine_tuning/jobs/{new_job}").status_code == 404
            and one.get(f"/v1/training/jobs/{new_job}").json()["status"] == "queued"
        )
        assert (
            two.post(
                "/v1/training/jobs",
                json={"recipe": "my-corpus", "training_file": upload(one)},
            ).status_code
            == 404
        )


@pytest.mark.parametrize(
    ("recipe", "suffix"), [("poet", None), ("poet", "mine"), ("a" * 64, "b" * 30)]
)
def test_a_trained_models_name_is_one_that_the_store_takes(
    recipe: str, suffix: str | None
) -> None:
    name = trained_name(recipe, suffix, "trainjob-" + "0123456789abcdef" * 2)
    assert NAME.fullmatch(name) and name.endswith("89abcdef")
    assert all(
        NAME.fullmatch(trained_name(one, None, "trainjob-0123456789abcdef"))
        for one in recipes()
    )


@pytest.fixture
def here(
    client: TestClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """Jobs done in this process, in their folder as in one of their own."""

    def done(
        new_job: dict[str, Any], what: Any = work.run, kind: str = "training"
    ) -> Any:
        folder = services.settings.folder / "jobs" / new_job["id"]
        folder.mkdir(parents=True, exist_ok=True)
        monkeypatch.chdir(folder)
        return do(services, new_job["id"], what, kind)

    return done


def test_a_text_model_is_trained_on_an_uploaded_file(
    client: TestClient, here: Any
) -> None:
    new_job = create(
        client,
        training_file=upload(client),
        suffix="mine",
        seed=5,
        miaobi=SMALL,
        metadata={"for": "me"},
    )
    here(new_job)
    path = f"/v1/training/jobs/{new_job['id']}"
    done = client.get(path).json()
    assert (
        done["status"] == "succeeded"
        and done["trained_model"] == new_job["miaobi"]["will_be_called"]
        and done["trained_model"].startswith("my-corpus-mine-")
    )
    events = client.get(f"{path}/events", params={"limit": 100}).json()["data"]
    assert {
        event["data"]["step"] for event in events if "train_loss" in event["data"]
    } == {2, 4, 6} and any("valid_loss" in event["data"] for event in events)
    assert any(
        event["message"].startswith("AI-generated / 由AI生成: sample/0")
        for event in events
    )
    checkpoint = client.get(f"{path}/checkpoints").json()["data"][0]
    assert checkpoint["object"] == "training.job.checkpoint" and checkpoint[
        "trained_model_checkpoint"
    ].startswith(done["trained_model"])
    manifest = bundle.read(Store().resolve(done["trained_model"]).path)
    assert (
        manifest.recipe["data"]["path"] == "data.txt"
        and manifest.recipe["train"]["seed"] == 5
    )


def test_pictures_come_as_an_archive_and_their_samples_are_files(
    client: TestClient, here: Any
) -> None:
    settled = {
        "train.max_steps": 2,
        "train.batch_size": 4,
        "train.sample_every": 1,
        "train.checkpoint_every": 1,
        "model.width": 4,
        "data.image_size": 16,
        "sample.pictures": 4,
    }
    new_job = create(
        client,
        recipe="my-pictures",
        training_file=upload(client, "photos.zip", pictures()),
        miaobi={**settled, "model.conditional": True},
    )
    here(new_job)
    done = client.get(f"/v1/training/jobs/{new_job['id']}").json()
    assert done["status"] == "succeeded", done["error"]
    assert (
        bundle.read(Store().resolve(done["trained_model"]).path).recipe["model"][
            "conditional"
        ]
        is True
    )
    events = client.get(
        f"/v1/training/jobs/{new_job['id']}/events", params={"limit": 100}
    ).json()["data"]
    sheets = [event["data"] for event in events if "file" in event["data"]]
    assert {sheet["step"] for sheet in sheets} == {1, 2}
    sheet = Image.open(
        io.BytesIO(client.get(f"/v1/files/{sheets[0]['file']}/content").content)
    )
    assert sheet.format == "PNG" and sheet.width > 16
    assert {file["purpose"] for file in client.get("/v1/files").json()["data"]} == {
        "user_data",
        "training-samples",
        "fine-tune-results",
    }


def test_one_that_was_stopped_goes_on_and_records_nothing_twice(
    client: TestClient, services: Services, here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from miaobi.train import checkpoint

    new_job = create(client, training_file=upload(client), miaobi=SMALL)
    write = checkpoint.write

    def write_and_die(*args: Any, **named: Any) -> Any:
        write(*args, **named)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint, "write", write_and_die)
        here(new_job)
    services.jobs.give_back(new_job["id"], "me", died="killed")
    here(new_job)
    steps = [
        event.data["step"]
        for event in services.jobs.events(new_job["id"], ("metrics",))
        if "train_loss" in event.data
    ]
    assert (
        steps == [2, 4, 6]
        and len(
            list((services.settings.folder / "jobs" / new_job["id"] / "runs").glob("*"))
        )
        == 1
    )
    assert (
        client.get(f"/v1/training/jobs/{new_job['id']}").json()["status"] == "succeeded"
    )


def test_an_estimate(client: TestClient, services: Services, here: Any) -> None:
    job = create(client, training_file=upload(client), miaobi=SMALL)
    estimate = services.jobs.add(
        "training_estimate",
        "local",
        services.jobs.find(job["id"], "training", "local").request,
        "trainestimate-1",
    )
    services.jobs.cancel(job["id"])
    outcome = here({"id": estimate.id}, work.estimate, "training_estimate")
    assert (
        outcome.result["memory_bytes"] > 0
        and outcome.result["settings"]["max_steps"] == 6
    )
    answer = client.post("/v1/training/estimates", json={"recipe": "poet"})
    assert (
        answer.status_code == 503
        and "runs no jobs" in answer.json()["error"]["message"]
    )


def test_a_setting_that_the_family_lacks_fails_the_job_without_a_path(
    client: TestClient, here: Any
) -> None:
    new_job = create(client, training_file=upload(client), miaobi={"model.width": 8})
    with pytest.raises(Exception, match="model.width") as caught:
        here(new_job)
    assert "/" not in json.dumps(str(caught.value))


@pytest.mark.timeout(240)
def test_one_in_a_process_of_its_own_is_paused_goes_on_and_answers() -> None:
    from miaobi.serve.opening import build_pool

    settings = Settings(hosts=("testserver",), studio=False, streams=2)
    with TestClient(
        create_app(Services(settings, build_pool(settings), Admission(settings)))
    ) as client:
        file = upload(client)
        options = client.post(
            "/v1/training/estimates",
            json={"recipe": "my-corpus", "training_file": file, "miaobi": SMALL},
        )
        assert options.status_code == 200 and options.json()["memory_bytes"] > 0, (
            options.text
        )
        new_job = create(
            client,
            training_file=file,
            miaobi={
                **SMALL,
                "train.max_steps": 400,
                "train.batch_size": 64,
                "model.hidden_size": 64,
                "train.patience": 0,
                "train.checkpoint_every": 20,
                "train.sample_every": 200,
                "train.validate_every": 100,
            },
        )
        path = f"/v1/training/jobs/{new_job['id']}"
        wait_until(lambda: client.get(f"{path}/checkpoints").json()["data"], 100)
        for move, status in (("pause", "paused"), ("resume", "queued")):
            answer = client.post(f"{path}/{move}")
            assert answer.status_code == 200 and answer.json()["status"] == status, (
                answer.text
            )
        wait_until(
            lambda: client.get(path).json()["status"] not in ("queued", "running"), 100
        )
        job = client.get(path).json()
        assert job["status"] == "succeeded", job["error"]
        assert job["trained_model"] in [
            model["id"] for model in client.get("/v1/models").json()["data"]
        ]
        said = client.post(
            "/v1/completions",
            json={"model": job["trained_model"], "prompt": "the red ", "max_tokens": 8},
        )
        assert said.status_code == 200 and said.json()["choices"][0]["text"]


def test_recipes_of_other_packages_are_offered(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = "# Tones.\nname: tones\nfamily: beeps\ndata: {pack: beeps}\n"
    (tmp_path / "tones.yaml").write_text(own)
    (tmp_path / "poet.yaml").write_text("name: poet\nfamily: beeps\n")
    (tmp_path / "tuned.yaml").write_text("base: smollm2\n")
    folder = RecipeFolder(tmp_path, "beep", (".notes",))
    monkeypatch.setattr(f"{__name__}.beep", folder, raising=False)
    entry = EntryPoint("beep", f"{__name__}:beep", packaged.group)
    monkeypatch.setitem(packaged._entries, "beep", entry)
    recipes.cache_clear()
    try:
        listed = client.get("/v1/training/recipes").json()["data"]
        by_id = {one["id"]: one for one in listed}
        assert by_id["tones"]["modality"] == "beep"
        assert by_id["tones"]["description"] == "Tones."
        assert by_id["poet"]["family"] == "gpt"
        assert [one["id"] for one in listed][-1] == "tones"
        file = upload(client, "a.txt")
        answer = client.post(
            "/v1/training/jobs", json={"recipe": "tones", "training_file": file}
        )
        assert "ends in .notes" in answer.json()["error"]["message"]
    finally:
        recipes.cache_clear()


@pytest.mark.timeout(240)
def test_uploads_and_models_may_lie_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process of the job reads the upload there, and puts its model and files there."""
    from miaobi.serve.opening import build_pool

    # To fsspec, `local` is a file system as any other.
    monkeypatch.setenv("MIAOBI_STORAGE", f"local://{tmp_path}/shared")
    settings = Settings(hosts=("testserver",), studio=False, streams=2)
    services = Services(settings, build_pool(settings), Admission(settings))
    with TestClient(create_app(services)) as client:
        job = create(client, training_file=upload(client), miaobi=SMALL)
        path = f"/v1/training/jobs/{job['id']}"
        wait_until(
            lambda: client.get(path).json()["status"] not in ("queued", "running"), 200
        )
        job = client.get(path).json()
        assert job["status"] == "succeeded", job["error"]
        [results] = job["result_files"]
        content = client.get(f"/v1/files/{results}/content")
        assert content.text.startswith("step,train_loss")
        completion = client.post(
            "/v1/completions",
            json={"model": job["trained_model"], "prompt": "the ", "max_tokens": 4},
        )
        assert completion.status_code == 200, completion.text
    shared = tmp_path / "shared"
    assert (shared / "models" / job["trained_model"] / "1" / storage.MARKER).exists()
    assert (shared / "server" / "files" / results).exists()
    assert not (tmp_path / "home" / "models").exists()
