"""Exports: what a model can become, one written by the real exporter, its file, and
who may have it.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from tests.engines.small import small_bundle
from tests.serve.jobs.test_fine_tuning import do

from miaobi.core.store import Store
from miaobi.models.weights import find
from miaobi.serve.admission import Admission
from miaobi.serve.app import create_app
from miaobi.serve.jobs.work.export import run
from miaobi.serve.opening import build_pool
from miaobi.serve.services import Services
from miaobi.serve.settings import Settings
from miaobi.verbs.export.offers import Offer, offers

KEYS = ("mb-the-first-key", "mb-the-second-key")


@pytest.fixture
def services(tmp_path: Path) -> Services:
    """Of a server with a small model in its store."""
    Store().add(small_bundle(tmp_path / "bundle"), "poet")
    settings = Settings(hosts=("testserver",), workers=0, studio=False, api_keys=KEYS)
    return Services(settings, build_pool(settings), Admission(settings))


@pytest.fixture
def client(services: Services) -> Iterator[TestClient]:
    with TestClient(create_app(services)) as opened:
        opened.headers["authorization"] = f"Bearer {KEYS[0]}"
        yield opened


def test_a_folder_becomes_a_zip_that_its_owner_downloads(
    client: TestClient, services: Services
) -> None:
    listed = client.get("/v1/exports/offers", params={"model": "poet"}).json()
    assert [offer["to"] for offer in listed["data"]] == ["gguf", "transformers"]
    job = client.post(
        "/v1/exports/jobs", json={"model": "poet", "to": "transformers"}
    ).json()
    assert job["model"] == "poet@1" and job["status"] == "queued"
    do(services, job["id"], run, "export")
    path = f"/v1/exports/jobs/{job['id']}"
    done = client.get(path).json()
    assert done["status"] == "succeeded" and done["filename"] == "poet-1.zip"
    content = client.get(f"/v1/files/{done['file']}/content").content
    assert len(content) == done["bytes"]
    names = zipfile.ZipFile(io.BytesIO(content)).namelist()
    assert "poet-1/model.safetensors" in names
    events = client.get(f"{path}/events", headers={"accept-language": "zh"}).json()
    assert "完成" in events["data"][0]["message"]

    other = {"authorization": f"Bearer {KEYS[1]}"}
    for address in (path, f"{path}/events", f"/v1/files/{done['file']}/content"):
        assert client.get(address, headers=other).status_code == 404


def test_what_it_cannot_become_is_refused_at_once(client: TestClient) -> None:
    answer = client.post("/v1/exports/jobs", json={"model": "poet", "to": "onnx"})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == "to" and "gguf, transformers" in error["message"]
    missing = client.post("/v1/exports/jobs", json={"model": "none"})
    assert missing.status_code == 404
    assert client.post("/v1/exports/jobs/x/pause").status_code == 404


def test_offers_are_the_families_own(tmp_path: Path) -> None:
    folder = small_bundle(tmp_path / "lstm", family="lstm")
    assert [offer.to for offer in offers(find(str(folder)))] == ["onnx"]
    folder = small_bundle(tmp_path / "gpt")
    assert Offer("transformers") in offers(find(str(folder)))
