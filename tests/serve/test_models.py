"""/v1/models through the application."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from tests.serve.conftest import Echo
from tests.serve.live import live, wait_until

from miaobi.core import bundle
from miaobi.core.store import Store
from miaobi.engines.model import Model
from miaobi.serve import keyring, keys
from miaobi.serve.admission import Admission
from miaobi.serve.app import create_app
from miaobi.serve.names import Names
from miaobi.serve.pool import Pool
from miaobi.serve.services import Services
from miaobi.serve.settings import Settings


def test_models_are_listed_and_an_unknown_one_is_refused_by_name(app: FastAPI) -> None:
    with TestClient(app) as client:
        assert [item["id"] for item in client.get("/v1/models").json()["data"]] == [
            "echo",
            "grey",
        ]
        answer = client.get("/v1/models/none")
    assert answer.status_code == 404 and "none" in answer.json()["error"]["message"]


@pytest.fixture
def echoes() -> list[Echo]:
    """The engines that were opened."""
    return []


@pytest.fixture
def stored(tmp_path: Path, echoes: list[Echo]) -> Iterator[str]:
    """The URL of a server of a real store with two versions of one model, "poet"."""
    for number in (1, 2):
        folder = bundle.write(
            tmp_path / f"poet{number}",
            bundle.Manifest("toy", "text"),
            lambda draft: None,
        )
        Store().add(folder, "poet")
    settings = Settings(studio=False, workers=0)
    names = Names(settings)

    def opened(weights: object) -> Model:
        echoes.append(Echo())
        return Model(weights, "toy", echoes[-1])  # type: ignore[arg-type]

    pool = Pool(settings, names.find, names.names, opened, facts=names.facts)
    with live(create_app(Services(settings, pool, Admission(settings)))) as url:
        yield url


def test_a_model_is_deleted_and_closed(stored: str, echoes: list[Echo]) -> None:
    with openai.OpenAI(base_url=f"{stored}/v1", api_key="none") as client:
        client.responses.create(model="poet", input="one")
        Store().promote("poet@2")
        with pytest.raises(openai.ConflictError, match="in production"):
            client.models.delete("poet@2")
        deleted = client.models.delete("poet@1")
        assert deleted.deleted and deleted.id == "poet@1"
        assert [version.number for version in Store().versions("poet")] == [2]
        assert client.models.delete("poet").deleted
        assert Store().versions("poet") == []
        wait_until(lambda: [echo.closed for echo in echoes] == [True])
        assert "poet" not in [model.id for model in client.models.list()]
        for call in (client.models.delete, client.models.retrieve):
            with pytest.raises(openai.NotFoundError):
                call("poet")
        with pytest.raises(openai.NotFoundError):
            client.responses.create(model="poet", input="one")


def test_what_the_server_was_started_for_stays(tmp_path: Path) -> None:
    folder = bundle.write(
        tmp_path / "poet", bundle.Manifest("toy", "text"), lambda draft: None
    )
    Store().add(folder, "poet")
    settings = Settings(
        studio=False, workers=0, models=("poet",), hosts=("testserver",)
    )
    names = Names(settings)
    pool = Pool(settings, names.find, names.names, Model, facts=names.facts)  # type: ignore[arg-type]
    app = create_app(Services(settings, pool, Admission(settings)))
    with TestClient(app) as client:
        answer = client.delete("/v1/models/poet", headers={"accept-language": "zh"})
        assert answer.status_code == 409
        assert "--model poet" in answer.json()["error"]["message"]
        assert "正在提供服务" in answer.json()["error"]["message"]
    assert Store().versions("poet")


def test_only_what_was_made_here_is_deleted(app: FastAPI) -> None:
    with TestClient(app) as client:
        answer = client.delete("/v1/models/echo")
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "not_in_store"


def test_only_an_operator_deletes(stored: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "FRESH", 0.0)
    team = keyring.create("team")
    keyring.create("boss", operator=True)
    with (
        openai.OpenAI(base_url=f"{stored}/v1", api_key=team.key) as client,
        pytest.raises(openai.PermissionDeniedError),
    ):
        client.models.delete("poet")
    assert len(Store().versions("poet")) == 2
