"""Scores of prompts over HTTP, and the tokens they are made of, against the same model in
Python.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from tests.engines.small import CONTEXT, POEM, small_bundle, small_tokenizer

from miaobi.core.artifacts import TokenLogprob
from miaobi.core.engine import Weights
from miaobi.engines.load import open_engine
from miaobi.engines.model import Model
from miaobi.serve.admission import Admission
from miaobi.serve.app import create_app
from miaobi.serve.opening import open_scorer
from miaobi.serve.pool import Pool
from miaobi.serve.services import Services
from miaobi.serve.settings import Settings

TEXTS = ["春江潮水连海平", "a flower 𝄞 by the sea", "x"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    path = small_bundle(tmp_path_factory.mktemp("model") / "bundle", chat=True)
    return Weights("bundle", str(path), "small", family="gpt")


@pytest.fixture(scope="module", params=["native", "llamacpp"])
def model(weights: Weights, request: pytest.FixtureRequest) -> Model:
    """The small model, whose scores come from its own engine or from one beside it."""
    engine = open_engine(weights, request.param, 2, {})
    return Model(weights, request.param, engine, open_scorer(weights))


@pytest.fixture(scope="module")
def client(
    weights: Weights, model: Model, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TestClient]:
    """A server of the model, which closes it at the end."""
    settings = Settings(hosts=("testserver",), studio=False)
    pool = Pool(
        settings, lambda name: weights, lambda: ["small"], lambda weights: model
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIAOBI_HOME", str(tmp_path_factory.mktemp("home")))
        services = Services(settings, pool, Admission(settings))
        with TestClient(create_app(services)) as opened:
            yield opened


def complete(client: TestClient, **fields: Any) -> dict[str, Any]:
    answer = client.post("/v1/completions", json={"model": "small", **fields})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def tokenize(client: TestClient, **fields: Any) -> list[int]:
    ids: list[int] = client.post("/tokenize", json=fields).json()["tokens"]
    return ids


def as_bytes(token: str) -> bytes:
    """The bytes of a token as completions spell it."""
    if not token.startswith("bytes:"):
        return token.encode()
    return bytes(int(part, 16) for part in re.findall(r"\\x(..)", token))


def expected(model: Model, ids: list[int]) -> list[TokenLogprob]:
    return model.scorer().score(ids, 3)


@pytest.mark.parametrize("text", TEXTS)
def test_a_prompt_of_token_ids_is_scored(
    client: TestClient, model: Model, text: str
) -> None:
    ids = tokenize(client, prompt=text)
    body = complete(client, prompt=ids, echo=True, logprobs=3, max_tokens=0)
    choice = body["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == (text, "length")
    assert body["usage"] == {
        "prompt_tokens": len(ids),
        "completion_tokens": 0,
        "total_tokens": len(ids),
    }
    logprobs = choice["logprobs"]
    entries = expected(model, ids)
    assert b"".join(map(as_bytes, logprobs["tokens"])) == text.encode()
    assert logprobs["token_logprobs"][0] is None
    assert logprobs["top_logprobs"][0] is None
    assert logprobs["token_logprobs"][1:] == pytest.approx(
        [entry.logprob for entry in entries[1:]], abs=1e-5
    )
    for token, value, top in zip(
        logprobs["tokens"][1:],
        logprobs["token_logprobs"][1:],
        logprobs["top_logprobs"][1:],
        strict=True,
    ):
        assert top[token] == value
        assert len(top) in (3, 4)
    offsets = logprobs["text_offset"]
    assert len(offsets) == len(ids)
    assert offsets == sorted(offsets)
    assert offsets[-1] <= len(text)


def test_what_follows_is_scored_with_it(client: TestClient, model: Model) -> None:
    ids = tokenize(client, prompt=TEXTS[0])
    fields = {"prompt": [ids, ids[:3]], "echo": True, "logprobs": 1, "temperature": 0}
    body = complete(client, **fields, max_tokens=1)
    for choice, prompt in zip(body["choices"], [ids, ids[:3]], strict=True):
        logprobs = choice["logprobs"]
        assert len(logprobs["token_logprobs"]) == len(prompt) + 1
        assert logprobs["token_logprobs"][1:-1] == pytest.approx(
            [entry.logprob for entry in expected(model, prompt)[1:]], abs=1e-5
        )
    plain = complete(client, prompt=TEXTS[0], temperature=0, max_tokens=1, echo=True)
    assert plain["choices"][0]["text"] == body["choices"][0]["text"]


def test_a_stream_says_the_same(client: TestClient) -> None:
    fields = {"prompt": TEXTS, "echo": True, "logprobs": 2, "max_tokens": 0}
    whole = complete(client, **fields)["choices"]
    answer = client.post(
        "/v1/completions", json={"model": "small", **fields, "stream": True}
    )
    events = [
        json.loads(row[6:])
        for row in answer.text.splitlines()
        if row.startswith("data: {")
    ]
    for choice in whole:
        pieces = [
            piece
            for event in events
            for piece in event["choices"]
            if piece["index"] == choice["index"]
        ]
        assert "".join(piece["text"] for piece in pieces) == choice["text"]
        assert pieces[0]["logprobs"] == choice["logprobs"]
        assert pieces[-1]["finish_reason"] == "length"


def test_every_generated_token_has_an_entry_with_its_bytes(
    client: TestClient, model: Model
) -> None:
    if model.engine_name != "native":
        pytest.skip("llama.cpp reports nothing of tokens that are parts of a character")
    moon = tokenize(client, prompt="𝄞", add_special_tokens=False)
    assert len(moon) > 1
    bias = {str(token): 100.0 for token in moon[:1]}
    body = complete(client, prompt="x", logprobs=1, max_tokens=3, logit_bias=bias)
    logprobs = body["choices"][0]["logprobs"]
    assert len(logprobs["tokens"]) == body["usage"]["completion_tokens"] == 3
    assert [as_bytes(token) for token in logprobs["tokens"]] == ["𝄞".encode()[:1]] * 3
    said = [{"role": "user", "content": "x"}]
    chat = client.post(
        "/v1/chat/completions",
        json={
            "model": "small",
            "messages": said,
            "logprobs": True,
            "max_tokens": 3,
            "logit_bias": bias,
        },
    ).json()
    entries = chat["choices"][0]["logprobs"]["content"]
    assert [bytes(entry["bytes"]) for entry in entries] == ["𝄞".encode()[:1]] * 3


@pytest.mark.parametrize("text", [*TEXTS, "<|im_end|>", POEM])
def test_tokens_lead_back_to_their_text(client: TestClient, text: str) -> None:
    answer = client.post(
        "/tokenize", json={"prompt": text, "return_token_strs": True}
    ).json()
    assert answer["count"] == len(answer["tokens"]) == len(answer["token_strs"])
    assert answer["max_model_len"] == CONTEXT
    back = client.post("/detokenize", json={"tokens": answer["tokens"]}).json()
    assert back == {"prompt": text}


def test_a_conversation_is_tokenised_as_it_is_answered(client: TestClient) -> None:
    said = [{"role": "user", "content": "The moon"}]
    ids = tokenize(client, model="small", messages=said)
    answer = client.post(
        "/v1/chat/completions",
        json={"model": "small", "messages": said, "max_tokens": 1},
    ).json()
    assert answer["usage"]["prompt_tokens"] == len(ids)
    text = client.post("/detokenize", json={"tokens": ids}).json()["prompt"]
    assert text == "<|im_start|>user\nThe moon<|im_end|>\n<|im_start|>assistant\n"


def test_an_unknown_token_is_refused_by_its_number(client: TestClient) -> None:
    for path, fields in (
        ("/v1/completions", {"model": "small", "prompt": [10**6]}),
        ("/detokenize", {"tokens": [10**6]}),
    ):
        answer = client.post(path, json=fields)
        assert answer.status_code == 400
        assert "1000000" in answer.json()["error"]["message"]


def test_a_model_says_its_context_and_its_last_token(client: TestClient) -> None:
    assert client.get("/v1/models/small").json()["context_length"] == CONTEXT
    end = small_tokenizer().backend.id_to_token(small_tokenizer().end_id)
    assert client.get("/tokenizer_info").json()["eos_token"] == end
