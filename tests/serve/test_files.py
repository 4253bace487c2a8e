"""/v1/files: arrives in pieces, whole or not at all, ours by name, the caller's alone."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from miaobi.core import storage
from miaobi.core.storage import Url
from miaobi.serve import files as files_of
from miaobi.serve.callers import Caller
from miaobi.serve.database import Records, open_records
from miaobi.serve.errors import ApiError
from miaobi.serve.files import ABANDONED_SECONDS, Files, plain_name
from miaobi.serve.guard import inside
from miaobi.serve.records import File, new_id, now
from miaobi.serve.services import Services

JSONL = (
    b'{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}\n'
    * 3
)


def send(
    client: TestClient, data: bytes = JSONL, name: str = "chats.jsonl", **fields: str
) -> Any:
    return client.post(
        "/v1/files",
        files={"file": (name, data)},
        data={"purpose": "fine-tune", **fields},
    )


def left(services: Services) -> list[str]:
    return sorted(path.name for path in (services.settings.folder / "files").iterdir())


def test_a_file_is_uploaded_listed_read_and_removed(
    client: TestClient, services: Services
) -> None:
    uploaded = send(client).json()
    assert (
        uploaded["object"] == "file"
        and uploaded["bytes"] == len(JSONL)
        and uploaded["filename"] == "chats.jsonl"
        and uploaded["status"] == "processed"
    )
    other = send(client, b"anything\0", "note.bin", purpose="user_data").json()
    assert [item["id"] for item in client.get("/v1/files").json()["data"]] == [
        other["id"],
        uploaded["id"],
    ]
    assert [
        item["id"]
        for item in client.get("/v1/files", params={"purpose": "fine-tune"}).json()[
            "data"
        ]
    ] == [uploaded["id"]]
    assert client.get(f"/v1/files/{uploaded['id']}").json() == uploaded
    answer = client.get(f"/v1/files/{uploaded['id']}/content")
    assert (
        answer.content == JSONL
        and "attachment" in answer.headers["content-disposition"]
        and answer.headers["x-content-type-options"] == "nosniff"
    )
    assert (
        services.files.find(uploaded["id"], "local").sha256
        == hashlib.sha256(JSONL).hexdigest()
    )
    assert client.delete(f"/v1/files/{uploaded['id']}").json() == {
        "id": uploaded["id"],
        "object": "file",
        "deleted": True,
    }
    assert client.get(f"/v1/files/{uploaded['id']}").status_code == 404 and left(
        services
    ) == [other["id"]]


def test_pages(client: TestClient) -> None:
    ids = [send(client).json()["id"] for _ in range(3)]
    first = client.get("/v1/files", params={"limit": 2}).json()
    assert [item["id"] for item in first["data"]] == sorted(ids, reverse=True)[
        :2
    ] and first["has_more"]
    rest = client.get(
        "/v1/files", params={"limit": 2, "after": first["last_id"]}
    ).json()
    assert [item["id"] for item in rest["data"]] == sorted(ids, reverse=True)[
        2:
    ] and not rest["has_more"]
    assert [
        item["id"]
        for item in client.get("/v1/files", params={"order": "asc"}).json()["data"]
    ] == sorted(ids)


@pytest.mark.parametrize(
    ("data", "phrase"),
    [
        (b"", "empty"),
        (b"\n\n", "no line"),
        (b'{"a": 1}\n{"a": \n', "Line 2"),
        (b"[1]\n", "Line 1"),
        (b'{"a": NaN}\n', "Line 1"),
        (b'{"a": "\xff"}\n', "UTF-8"),
        (b"[" * 100_000 + b"\n", "Line 1"),
        (b'{"a": ' * 100_000 + b"\n", "Line 1"),
    ],
)
def test_bad_json_is_named_by_its_position(
    client: TestClient, services: Services, data: bytes, phrase: str
) -> None:
    answer = send(client, data)
    assert answer.status_code == 400 and phrase in answer.json()["error"]["message"]
    assert left(services) == [] and client.get("/v1/files").json()["data"] == []


@pytest.mark.parametrize(
    ("fields", "phrase"),
    [
        ({"purpose": "fine-tun"}, "Did you mean fine-tune?"),
        ({"purpos": "batch"}, "Did you mean purpose?"),
        (
            {"expires_after[anchor]": "created_at", "expires_after[seconds]": "10"},
            "3600",
        ),
        (
            {"expires_after[anchor]": "now", "expires_after[seconds]": "3600"},
            "created_at",
        ),
        ({"purpose": "x" * 5000}, "4096"),
    ],
)
def test_fields_that_cannot_be_used_are_named(
    client: TestClient, services: Services, fields: dict[str, str], phrase: str
) -> None:
    answer = send(client, **fields)
    assert (
        answer.status_code == 400
        and phrase in answer.json()["error"]["message"]
        and left(services) == []
    )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--x",
        b"--x\r\n\r\n",
        b"nonsense",
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nhalf a fi',
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nwhole\r\n--x--\r\n',
    ],
)
def test_a_body_that_is_cut_short_or_no_form_leaves_nothing(
    client: TestClient, services: Services, body: bytes
) -> None:
    answer = client.post(
        "/v1/files",
        content=body,
        headers={"content-type": "multipart/form-data; boundary=x"},
    )
    assert answer.status_code in (400, 415) and left(services) == []


def test_names_are_labels_only(client: TestClient) -> None:
    uploaded = send(client, name="../../etc/pass\r\nSet-Cookie: a=b.jsonl").json()
    assert (
        "/" not in uploaded["filename"]
        and "\n" not in uploaded["filename"]
        and "\r" not in uploaded["filename"]
    )
    assert "set-cookie" not in client.get(f"/v1/files/{uploaded['id']}/content").headers
    assert (
        plain_name("C:\\a\\b.txt") == "b.txt"
        and plain_name("../..") == ".."
        and plain_name("") == "file"
        and plain_name("\x1b[2J") == "[2J"
    )


@pytest.mark.parametrize(
    "id",
    [
        "%2e%2e",
        "%2e%2e%2frecords.sqlite",
        "%2e%2e%2f%2e%2e%2frecords.sqlite",
        "file-" + "0" * 28,
        "file-" + "0" * 27,
        "file-\u0660" * 3,
        ".part",
    ],
)
def test_ids_that_are_not_ours_lead_nowhere(client: TestClient, id: str) -> None:
    for answer in (
        client.get(f"/v1/files/{id}"),
        client.get(f"/v1/files/{id}/content"),
        client.delete(f"/v1/files/{id}"),
    ):
        assert answer.status_code == 404


def test_a_link_in_the_folder_is_not_followed(
    client: TestClient, services: Services, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("secret")
    uploaded = send(client).json()["id"]
    path = services.settings.folder / "files" / uploaded
    path.unlink()
    path.symlink_to(tmp_path / "secret")
    answer = client.get(f"/v1/files/{uploaded}/content")
    assert answer.status_code == 404 and "secret" not in answer.text


def test_files_belong_to_their_key(app: FastAPI) -> None:
    with (
        TestClient(app),
        TestClient(inside(app, Caller("key-a"))) as one,
        TestClient(inside(app, Caller("key-b"))) as two,
    ):
        uploaded = send(one).json()["id"]
        assert one.get(f"/v1/files/{uploaded}").status_code == 200
        assert two.get("/v1/files").json()["data"] == []
        for answer in (
            two.get(f"/v1/files/{uploaded}"),
            two.get(f"/v1/files/{uploaded}/content"),
            two.delete(f"/v1/files/{uploaded}"),
        ):
            assert answer.status_code == 404
        assert one.get(f"/v1/files/{uploaded}").status_code == 200


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    records = open_records(f"sqlite:///{tmp_path / 'r.sqlite'}")
    yield records
    records.close()


@pytest.fixture
def files(records: Records, tmp_path: Path) -> Files:
    (tmp_path / "files").mkdir()
    return Files(records, tmp_path / "files", 1000)


def keep(files: Files, data: bytes = b"data", expires: int | None = None) -> File:
    with files.upload() as upload:
        upload.write(data)
        return upload.keep("a", "name", "user_data", expires)


def test_too_large_a_file_is_refused_where_the_limit_is_passed(files: Files) -> None:
    with pytest.raises(ApiError) as caught, files.upload() as upload:
        for _ in range(11):
            upload.write(b"x" * 100)
    assert caught.value.status == 413 and list(files.folder.iterdir()) == []


def test_what_expired_is_gone(files: Files) -> None:
    gone = keep(files, expires=now())
    stored = keep(files, expires=now() + 1000)
    with pytest.raises(ApiError):
        files.find(gone.id, "a")
    assert [item.id for item in files.listed("a")] == [stored.id]
    files.sweep()
    assert [path.name for path in files.folder.iterdir()] == [stored.id]


def test_a_sweep_removes_what_killed_servers_left_and_nothing_else(
    files: Files,
) -> None:
    stored = keep(files)
    lost = keep(files)
    (files.folder / lost.id).unlink()
    (files.folder / new_id("file")).write_bytes(b"bytes without a record")
    (files.folder / f".{new_id('file')}.part").write_bytes(
        b"a draft that nobody writes"
    )
    (files.folder / "README").write_bytes(b"not ours")
    with files.upload() as upload:
        upload.write(b"still arriving")
        files.sweep()
        arrived = upload.keep("a", "name", "user_data")
    assert sorted(path.name for path in files.folder.iterdir()) == sorted(
        ["README", stored.id, arrived.id]
    )
    assert {item.id for item in files.listed("a")} == {stored.id, arrived.id}


def test_a_disk_that_is_not_mounted_costs_no_record(
    records: Records, tmp_path: Path
) -> None:
    (tmp_path / "files").mkdir()
    stored = keep(Files(records, tmp_path / "files", 1000))
    (tmp_path / "files").rename(tmp_path / "away")
    files = Files(records, tmp_path / "files", 1000)
    files.sweep()
    assert files.find(stored.id, "a")


# Elsewhere: the bytes at a URL, the records and what is arriving here.


@pytest.fixture
def elsewhere(
    records: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Files:
    monkeypatch.setenv("MIAOBI_HOME", str(tmp_path / "home"))
    where = Url(f"memory://{uuid.uuid4().hex}/server/files")
    return Files(records, tmp_path / "arriving", 1000, where)


def test_bytes_elsewhere_are_kept_read_and_deleted(elsewhere: Files) -> None:
    file = keep(elsewhere, b"some bytes")
    assert list(elsewhere.folder.iterdir()) == []
    assert storage.names(elsewhere.where) == [file.id]
    assert elsewhere.path(file.id).read_bytes() == b"some bytes"
    elsewhere.delete(file.id, "a")
    assert storage.names(elsewhere.where) == []
    with pytest.raises(ApiError):
        elsewhere.path(file.id)


def test_another_server_reads_what_lies_elsewhere(
    elsewhere: Files, records: Records, tmp_path: Path
) -> None:
    file = keep(elsewhere, b"some bytes")
    other = Files(records, tmp_path / "other", 1000, elsewhere.where)
    assert other.path(file.id).read_bytes() == b"some bytes"
    assert other.find(file.id, "a").bytes == 10


def test_what_was_made_elsewhere_is_made_once(elsewhere: Files, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"results")
    id = new_id("file")
    for _ in range(2):
        elsewhere.put(source, id, "a", "results.csv", "fine-tune-results")
    assert elsewhere.path(id).read_bytes() == b"results"
    assert [file.id for file in elsewhere.listed("a")] == [id]


def test_a_sweep_elsewhere_spares_what_another_server_may_still_record(
    elsewhere: Files, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, lost = keep(elsewhere), keep(elsewhere)
    storage.delete(elsewhere.where / lost.id)
    unrecorded = new_id("file")
    storage.write(elsewhere.where / unrecorded, b"its record is about to come")
    files = Files(records, elsewhere.folder, 1000, elsewhere.where)
    files.sweep()
    assert storage.names(files.where) == sorted([kept.id, unrecorded])
    assert [item.id for item in files.listed("a")] == [kept.id]
    monkeypatch.setattr(storage, "age", lambda file: ABANDONED_SECONDS + 1)
    files.sweep()
    assert storage.names(files.where) == [kept.id]


def test_nothing_stays_elsewhere_without_a_record(
    elsewhere: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        elsewhere.records, "session", Mock(side_effect=ApiError(500, ""))
    )
    with pytest.raises(ApiError):
        keep(elsewhere)
    assert storage.names(elsewhere.where) == []
    assert list(elsewhere.folder.iterdir()) == []


@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
def test_a_full_disk_leaves_no_file(
    files: Files, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/secret/path")

    with monkeypatch.context() as patch:
        patch.setattr(files_of.os, call, full)
        with pytest.raises(ApiError) as caught:
            keep(files)
    assert caught.value.status == 507 and "/" not in caught.value.message.replace(
        "/v1/files/ID", ""
    )
    assert list(files.folder.iterdir()) == [] and files.listed("a") == []
    assert files.find(keep(files).id, "a")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")
def test_on_a_disk_that_is_really_full(records: Records, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)],
        capture_output=True,
    ).returncode:
        pytest.skip("mount -t tmpfs is not allowed here")
    try:
        (disk / "files").mkdir()
        files = Files(records, disk / "files", 1 << 20)
        with pytest.raises(ApiError) as caught:
            keep(files, b"x" * 100_000)
        assert caught.value.status == 507 and list(files.folder.iterdir()) == []
        assert files.find(keep(files, b"x" * 1000).id, "a").bytes == 1000
    finally:
        subprocess.run(["umount", str(disk)], check=True)
