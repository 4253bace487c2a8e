"""/v1/rerank by a reranker that was tuned here, and by the packaged encoder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from tests.serve.test_embeddings import served
from tests.tune import encoders
from tests.tune.tuned import tuned_task

from miaobi.core.store import Store
from miaobi.serve.app import create_app
from miaobi.tune.tasks import tasks

ROWS = [
    {"query": "red ?", "positive": ["red cat"], "negative": ["blue dog"]},
    {"query": "blue ?", "positive": ["blue dog"], "negative": ["red cat"]},
]
DOCUMENTS = ["the blue dog", "the red cat", "a green room"]


def add_reranker(folder: Path, home: Path) -> Any:
    """Put a tuned reranker into the store. Return its learner."""
    task = tasks.get("reranker")
    path, learner = tuned_task(
        folder / "tuned",
        encoders.base(folder / "base", "bert"),
        "reranker",
        encoders.examples(task, task.Config(), ROWS),
        head={},
        method="full",
    )
    Store().add(path, "ranker")
    return learner


def test_a_tuned_reranker(tmp_path: Path) -> None:
    services = served(tmp_path / "home")
    learner = add_reranker(tmp_path, tmp_path / "home")
    question = {"query": "red ?", "passages": DOCUMENTS}
    expected = learner.answer(question)
    with TestClient(create_app(services)) as client:
        body = {"model": "ranker", "query": "red ?", "documents": DOCUMENTS}
        for path in ("/v1/rerank", "/v2/rerank", "/rerank"):
            answer = client.post(path, json=body).json()
            assert [row["index"] for row in answer["results"]] == expected["order"]
        scores = {row["index"]: row["relevance_score"] for row in answer["results"]}
        assert [scores[index] for index in range(3)] == pytest.approx(
            expected["scores"], abs=1e-5
        )
        texts = [row["document"]["text"] for row in answer["results"]]
        assert texts == [DOCUMENTS[index] for index in expected["order"]]
        assert answer["usage"]["total_tokens"] > 0
        short = {**body, "top_n": 1, "return_documents": False}
        short["documents"] = [{"text": text} for text in DOCUMENTS]
        (only,) = client.post("/v1/rerank", json=short).json()["results"]
        assert only == {
            "index": expected["order"][0],
            "relevance_score": pytest.approx(max(expected["scores"]), abs=1e-5),
        }


def test_the_packaged_encoder_ranks_by_cosine(
    tmp_path: Path, pack: Callable[[str], Path]
) -> None:
    pack("e5-small")
    documents = ["今天天气很好。", "Refunds are made within 7 days.", "退款需要七天。"]
    body = {"model": "e5-small", "query": "怎么退款", "documents": documents}
    with TestClient(create_app(served(tmp_path / "home"))) as client:
        results = client.post("/v1/rerank", json=body).json()["results"]
        assert [row["index"] for row in results] == [2, 1, 0]
        vectors = [
            client.post(
                "/v1/embeddings",
                json={"model": "e5-small", "input": text, "input_type": kind},
            ).json()["data"][0]["embedding"]
            for text, kind in (("怎么退款", "query"), (documents[2], "passage"))
        ]
    cosine = sum(a * b for a, b in zip(*vectors, strict=True))
    assert results[0]["relevance_score"] == pytest.approx(cosine, abs=1e-5)


@pytest.mark.parametrize(
    ("fields", "status", "phrase"),
    [
        ({"query": " "}, 400, "query is empty"),
        ({"documents": []}, 400, "documents is empty"),
        ({"documents": ["a", ""]}, 400, "Document 1 is empty"),
        ({"documents": ["a"] * 2049}, 400, "2049 is more than"),
        ({"top_n": 0}, 400, "top_n"),
        ({"model": "nobody"}, 404, "nobody"),
        ({"model": "smollm2"}, 400, "does not rank documents"),
    ],
)
def test_what_is_refused(
    tmp_path: Path,
    smollm2: Path,
    fields: dict[str, Any],
    status: int,
    phrase: str,
) -> None:
    services = served(tmp_path / "home")
    body = {"model": "e5-small", "query": "a", "documents": ["b"], **fields}
    with TestClient(create_app(services)) as client:
        answer = client.post("/v1/rerank", json=body)
    assert answer.status_code == status
    assert phrase in answer.json()["error"]["message"]
