"""Feedback: kept for its key, counted, exported as a set that preference tuning reads."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from tests.serve.conftest import Echo, toy_pool

from miaobi.serve.admission import Admission
from miaobi.serve.app import create_app
from miaobi.serve.services import Services
from miaobi.serve.settings import Settings

QUESTION = [{"role": "user", "content": "Where is my parcel?"}]
TALK = [{"role": "system", "content": "Be brief."}, *QUESTION]
THUMB = {
    "kind": "thumb",
    "model": "echo",
    "messages": QUESTION,
    "chosen": "On its way.",
    "label": True,
}
EDIT = {
    "kind": "edit",
    "model": "echo",
    "messages": TALK,
    "chosen": "On its way 🚚",
    "rejected": "Dunno",
}
VOTE = {
    "kind": "vote",
    "model": "echo",
    "other": "slow",
    "messages": QUESTION,
    "chosen": "On its way.",
    "rejected": "Wait.",
    "label": True,
}
ALIKE: dict[str, Any] = {**VOTE, "label": None}


def test_feedback_is_stored_counted_exported_and_deleted(app: FastAPI) -> None:
    with TestClient(app) as client:
        for fields in (THUMB, {**THUMB, "label": False}, EDIT, VOTE, ALIKE):
            assert client.post("/v1/feedback", json=fields).status_code == 200
        listed = client.get("/v1/feedback", params={"limit": 3}).json()
        assert (
            listed["counts"] == {"thumb": 2, "edit": 1, "vote": 2}
            and listed["has_more"]
            and len(listed["data"]) == 3
        )
        rest = client.get("/v1/feedback", params={"after": listed["last_id"]}).json()[
            "data"
        ]
        assert len({item["id"] for item in [*listed["data"], *rest]}) == 5
        pairs = client.get("/v1/feedback/export")
        assert pairs.headers["content-type"] == "application/jsonl"
        assert sorted(map(json.loads, pairs.text.splitlines()), key=str) == sorted(
            [
                {"prompt": TALK, "chosen": "On its way 🚚", "rejected": "Dunno"},
                {
                    "prompt": "Where is my parcel?",
                    "chosen": "On its way.",
                    "rejected": "Wait.",
                },
            ],
            key=str,
        )
        thumbs = [
            json.loads(line)
            for line in client.get(
                "/v1/feedback/export", params={"shape": "thumbs"}
            ).text.splitlines()
        ]
        assert (
            sorted(item["label"] for item in thumbs) == [False, True]
            and thumbs[0]["completion"] == "On its way."
        )
        gone = listed["data"][0]["id"]
        assert client.delete(f"/v1/feedback/{gone}").json()["deleted"]
        assert client.delete(f"/v1/feedback/{gone}").status_code == 404


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({**THUMB, "label": None}, "label"),
        ({**EDIT, "rejected": None}, "rejected"),
        ({**VOTE, "other": None}, "other"),
        ({**THUMB, "kind": "star"}, "kind"),
        ({**THUMB, "path": "/etc"}, "path"),
        ({**THUMB, "messages": []}, "messages"),
        ({**THUMB, "chosen": ""}, "chosen"),
    ],
)
def test_half_feedback_is_refused_by_name(
    app: FastAPI, fields: dict[str, Any], named: str
) -> None:
    with TestClient(app) as client:
        answer = client.post("/v1/feedback", json=fields)
    assert answer.status_code == 400 and named in answer.json()["error"]["message"]


def test_a_key_sees_its_own_only() -> None:
    settings = Settings(api_keys=("mb-one", "mb-two"), hosts=("testserver",))
    with TestClient(
        create_app(
            Services(settings, toy_pool(settings, echo=Echo()), Admission(settings))
        )
    ) as client:
        one, two = ({"authorization": f"Bearer {key}"} for key in settings.api_keys)
        vote_id = client.post("/v1/feedback", json=VOTE, headers=one).json()["id"]
        assert (
            client.get("/v1/feedback", headers=two).json()["data"] == []
            and client.get("/v1/feedback/export", headers=two).text == ""
        )
        assert client.delete(f"/v1/feedback/{vote_id}", headers=two).status_code == 404
        assert client.get("/v1/feedback", headers=one).json()["counts"] == {"vote": 1}
