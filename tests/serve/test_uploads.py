"""/v1/uploads with OpenAI's own client: a file in parts is the file, or nothing."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import update
from tests.serve.conftest import toy_pool
from tests.serve.live import live

from miaobi.serve import keyring, keys
from miaobi.serve.admission import Admission
from miaobi.serve.app import create_app
from miaobi.serve.parts import KEPT_SECONDS
from miaobi.serve.records import File, UploadInParts, now
from miaobi.serve.services import Services
from miaobi.serve.settings import Limits, Settings

DATA = bytes(range(256)) * 20


@pytest.fixture
def services() -> Services:
    limits = Limits(upload_bytes=10_000)
    settings = Settings(hosts=("testserver",), workers=0, limits=limits)
    return Services(settings, toy_pool(settings), Admission(settings))


@pytest.fixture
def client(app: FastAPI) -> Iterator[openai.OpenAI]:
    with (
        live(app) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


def started(client: openai.OpenAI, **fields: Any) -> Any:
    announced: dict[str, Any] = {
        "bytes": len(DATA),
        "filename": "all/bytes.bin",
        "mime_type": "application/octet-stream",
        "purpose": "user_data",
        **fields,
    }
    return client.uploads.create(**announced)


def sent(client: openai.OpenAI, upload: Any, data: bytes) -> str:
    return client.uploads.parts.create(upload.id, data=data).id


def left(services: Services) -> list[str]:
    folder = services.settings.folder / "files"
    return sorted(path.name for path in folder.iterdir())


def test_the_parts_make_the_file_in_the_order_named(
    client: openai.OpenAI, services: Services
) -> None:
    upload = started(client)
    assert upload.status == "pending" and upload.filename == "bytes.bin"
    last = sent(client, upload, DATA[3000:])
    first = sent(client, upload, DATA[:3000])
    assert client.files.list().data == [], "a part is no file"
    with pytest.raises(openai.NotFoundError):
        client.files.content(first.replace("part_", "file-"))
    done = client.uploads.complete(
        upload.id, part_ids=[first, last], md5=hashlib.md5(DATA).hexdigest()
    )
    assert done.status == "completed" and done.file
    assert client.files.content(done.file.id).read() == DATA
    assert client.files.retrieve(done.file.id) == done.file
    assert left(services) == [done.file.id]
    with pytest.raises(openai.BadRequestError, match="completed"):
        sent(client, upload, b"more")


def test_the_clients_own_helper(client: openai.OpenAI, tmp_path: Path) -> None:
    (tmp_path / "all.bin").write_bytes(DATA)
    done = client.uploads.upload_file_chunked(
        file=tmp_path / "all.bin",
        mime_type="application/octet-stream",
        purpose="user_data",
        part_size=1000,
    )
    assert done.file and client.files.content(done.file.id).read() == DATA


def test_a_cancelled_upload_leaves_nothing(
    client: openai.OpenAI, services: Services
) -> None:
    upload = started(client)
    part = sent(client, upload, DATA)
    assert client.uploads.cancel(upload.id).status == "cancelled"
    assert left(services) == []
    calls: list[Callable[[], object]] = [
        lambda: client.uploads.cancel(upload.id),
        lambda: sent(client, upload, b"x"),
        lambda: client.uploads.complete(upload.id, part_ids=[part]),
    ]
    for call in calls:
        with pytest.raises(openai.BadRequestError, match="cancelled"):
            call()


def test_what_does_not_fit_together_is_no_file(
    client: openai.OpenAI, services: Services
) -> None:
    upload = started(client)
    other = started(client)
    half, rest = sent(client, upload, DATA[:3000]), sent(client, upload, DATA[3000:])
    foreign = sent(client, other, DATA[3000:])
    for part_ids, message in (
        ([half], "announced"),
        ([half, half], "announced"),
        ([half, foreign], "no part of this upload"),
        ([half, "part_0"], "no part of this upload"),
        ([half, "file-../x"], "no part of this upload"),
    ):
        with pytest.raises(openai.BadRequestError, match=message):
            client.uploads.complete(upload.id, part_ids=part_ids)
    with pytest.raises(openai.BadRequestError, match="MD5"):
        client.uploads.complete(upload.id, part_ids=[half, rest], md5="0" * 32)
    with pytest.raises(openai.BadRequestError, match="announced"):
        sent(client, upload, b"one too many")
    with pytest.raises(openai.APIStatusError, match="10,000"):
        started(client, bytes=10_001)
    assert len(left(services)) == 3, "the parts, and nothing else"
    assert client.files.list().data == []


def test_a_file_for_tuning_is_looked_through(client: openai.OpenAI) -> None:
    data = b'{"no": "messages"\n'
    upload = started(client, purpose="fine-tune", bytes=len(data))
    part = sent(client, upload, data)
    with pytest.raises(openai.BadRequestError, match="Line 1"):
        client.uploads.complete(upload.id, part_ids=[part])
    assert client.files.list().data == []


def test_an_upload_expires_with_its_parts(
    client: openai.OpenAI, services: Services
) -> None:
    upload = started(client)
    part = sent(client, upload, DATA)
    with services.records.session() as session:
        session.execute(update(UploadInParts).values(expires=now() - 1))
        session.execute(update(File).values(expires=now() - 1))
    with pytest.raises(openai.BadRequestError, match="expired"):
        client.uploads.complete(upload.id, part_ids=[part])
    services.files.sweep()
    services.uploads.sweep()
    assert left(services) == []
    with pytest.raises(openai.BadRequestError, match="expired"):
        client.uploads.cancel(upload.id)
    with services.records.session() as session:
        session.execute(update(UploadInParts).values(expires=now() - KEPT_SECONDS - 1))
    services.uploads.sweep()
    with pytest.raises(openai.NotFoundError):
        client.uploads.cancel(upload.id)


def test_the_file_expires_as_it_was_announced(client: openai.OpenAI) -> None:
    expires: Any = {"anchor": "created_at", "seconds": 3600}
    for fields, lasting in (({"expires_after": expires}, 3600), ({}, None)):
        upload = started(client, **fields)
        part = sent(client, upload, DATA)
        file = client.uploads.complete(upload.id, part_ids=[part]).file
        assert file
        if lasting is None:
            assert file.expires_at is None
        else:
            assert abs((file.expires_at or 0) - now() - lasting) < 60


def test_another_key_sees_and_changes_nothing(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "FRESH", 0.0)
    with TestClient(create_app(services)) as http:
        mine, other = (
            {"authorization": f"Bearer {keyring.create(name).key}"}
            for name in ("mine", "other")
        )
        announced = {
            "bytes": 3,
            "filename": "x",
            "mime_type": "a/b",
            "purpose": "user_data",
        }
        upload = http.post("/v1/uploads", json=announced, headers=mine).json()
        path = f"/v1/uploads/{upload['id']}"
        form = {"data": ("data", io.BytesIO(b"abc"))}
        part = http.post(f"{path}/parts", files=form, headers=mine).json()
        whole = {"part_ids": [part["id"]]}
        form = {"data": ("data", io.BytesIO(b"abc"))}
        assert http.post(f"{path}/parts", files=form, headers=other).status_code == 404
        for call, body in (("complete", whole), ("cancel", None)):
            answer = http.post(f"{path}/{call}", json=body, headers=other)
            assert answer.status_code == 404
        done = http.post(f"{path}/complete", json=whole, headers=mine).json()
        assert done["file"]["bytes"] == 3


def test_a_form_that_is_no_part_is_refused(client: openai.OpenAI) -> None:
    upload = started(client)
    with pytest.raises(openai.APIStatusError) as caught:
        client.post(f"/uploads/{upload.id}/parts", body={"data": "x"}, cast_to=object)
    assert caught.value.status_code == 415
    assert "data" in caught.value.message
