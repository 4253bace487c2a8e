"""/v1/models through the application."""

from fastapi import FastAPI
from fastapi.testclient import TestClient


def test_models_are_listed_and_an_unknown_one_is_refused_by_name(app: FastAPI) -> None:
    with TestClient(app) as client:
        assert [item["id"] for item in client.get("/v1/models").json()["data"]] == [
            "echo",
            "grey",
        ]
        answer = client.get("/v1/models/none")
    assert answer.status_code == 404 and "none" in answer.json()["error"]["message"]
