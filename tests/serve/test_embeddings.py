"""/v1/embeddings with OpenAI's own client over a real socket: the packaged encoder, and
one that was tuned here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from fastapi.testclient import TestClient
from tests.conftest import SHARED
from tests.serve.live import live
from tests.tune import encoders
from tests.tune.tuned import tuned_task

from miaobi.core.store import Store
from miaobi.serve.admission import Admission
from miaobi.serve.app import create_app
from miaobi.serve.opening import build_pool
from miaobi.serve.services import Services
from miaobi.serve.settings import Settings
from miaobi.tune.tasks import tasks

PAIRS = [
    {"text": "good room", "positive": "nice food"},
    {"text": "awful staff", "positive": "bad price"},
]


def served(home: Path) -> Services:
    home.mkdir(exist_ok=True)
    for name in ("packs", "converted"):
        if not (home / name).exists():
            (home / name).symlink_to(SHARED / name)
    settings = Settings(workers=0, studio=False, hosts=("testserver",))
    return Services(settings, build_pool(settings), Admission(settings))


@pytest.fixture
def client(tmp_path: Path, pack: Callable[[str], Path]) -> Iterator[openai.OpenAI]:
    pack("use-multilingual")
    with (
        live(create_app(served(tmp_path / "home"))) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


def tokenized(client: openai.OpenAI, text: str) -> list[int]:
    address = str(client.base_url).replace("/v1/", "/tokenize")
    body = {"model": "use-multilingual", "prompt": text, "add_special_tokens": False}
    ids: list[int] = httpx.post(address, json=body, timeout=60).json()["tokens"]
    return ids


def test_the_packaged_encoder(client: openai.OpenAI) -> None:
    texts = [
        "How do I get my money back?",
        "Wie bekomme ich mein Geld zurück?",
        "The weather is fine.",
        "今天天气很好。",
    ]
    answer = client.embeddings.create(
        model="use-multilingual", input=texts, encoding_format="float"
    )
    vectors = np.array([item.embedding for item in answer.data])
    assert [item.index for item in answer.data] == [0, 1, 2, 3] and vectors.shape == (
        4,
        512,
    )
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(4), abs=1e-5)
    likeness = vectors @ vectors.T
    assert likeness[0, 1] > 0.6 > likeness[0, 2] and likeness[2, 3] > 0.6
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 20 and (
        answer.model,
        answer.object,
    ) == ("use-multilingual", "list")
    ids = [tokenized(client, text) for text in texts]
    of_ids = client.embeddings.create(
        model="use-multilingual", input=ids, encoding_format="float"
    )
    assert np.array([item.embedding for item in of_ids.data]) == pytest.approx(
        vectors, abs=1e-6
    )
    packed = client.embeddings.create(
        model="use-multilingual", input=texts, encoding_format="base64"
    )
    assert isinstance(packed.data[0].embedding, str)
    import base64

    assert np.frombuffer(
        base64.b64decode(packed.data[0].embedding), "<f4"
    ) == pytest.approx(vectors[0], abs=1e-6)
    default = client.embeddings.create(model="use-multilingual", input=texts[0])
    assert default.data[0].embedding == pytest.approx(vectors[0], abs=1e-6), (
        "the client asks for base64 by itself"
    )
    assert (
        client.embeddings.create(
            model="use-multilingual", input="x", dimensions=512
        ).usage.prompt_tokens
        > 0
    )
    for wrong, named in (
        ({"dimensions": 64}, "dimensions"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": [1, "a"]}, "input"),
        ({"input": [10**7]}, "10000000"),
        ({"input": ["a"] * 2049}, "input"),
    ):
        fields: Any = {"model": "use-multilingual", "input": "x", **wrong}
        with pytest.raises(openai.BadRequestError, match=named):
            client.embeddings.create(**fields)
    with pytest.raises(openai.BadRequestError, match="embedding, not text"):
        client.chat.completions.create(
            model="use-multilingual", messages=[{"role": "user", "content": "x"}]
        )


def test_queries_and_passages_of_e5(
    tmp_path: Path, pack: Callable[[str], Path]
) -> None:
    pack("e5-small")
    with TestClient(create_app(served(tmp_path / "home"))) as client:

        def embed(text: str, **fields: str) -> list[float]:
            body = {"model": "e5-small", "input": text, **fields}
            answer = client.post("/v1/embeddings", json=body)
            assert answer.status_code == 200, answer.text
            vector: list[float] = answer.json()["data"][0]["embedding"]
            return vector

        assert len(embed("退款")) == 384
        assert embed("退款") == embed("passage: 退款") != embed("query: 退款")
        assert embed("退款", input_type="query") == embed("query: 退款")
        body = {"model": "e5-small", "input": "x", "input_type": "document"}
        wrong = client.post("/v1/embeddings", json=body)
        assert wrong.status_code == 400
        assert wrong.json()["error"]["param"] == "input_type"


def test_an_encoder_that_was_tuned_here(tmp_path: Path) -> None:
    task = tasks.get("embedding")
    origin = encoders.base(tmp_path / "base", "bert")
    folder, learner = tuned_task(
        tmp_path / "tuned",
        origin,
        "embedding",
        encoders.examples(task, task.Config(), PAIRS),
        head={},
        method="full",
    )
    services = served(tmp_path / "home")
    Store().add(folder, "matcher")
    with TestClient(create_app(services)) as client:
        answer = client.post(
            "/v1/embeddings",
            json={"model": "matcher", "input": ["good food", "awful price"]},
        ).json()
        assert [item["embedding"] for item in answer["data"]] == [
            pytest.approx(learner.answer({"text": text}), abs=1e-5)
            for text in ("good food", "awful price")
        ]
        long = client.post(
            "/v1/embeddings",
            json={"model": "matcher", "input": ["good", "good " * 5000]},
        )
        assert long.status_code == 400 and "Text 1" in long.json()["error"]["message"]
