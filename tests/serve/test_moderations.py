"""/v1/moderations with the official client over a socket."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from openai import OpenAI
from PIL import Image as Pillow
from tests.engines.moderation.test_texts import Classifier
from tests.serve.conftest import toy_pool
from tests.serve.live import live

from miaobi.core.errors import NotFound
from miaobi.serve.admission import Admission
from miaobi.serve.app import create_app
from miaobi.serve.routes import moderations
from miaobi.serve.services import Services
from miaobi.serve.settings import Limits, Settings


def served(**engines: Any) -> Services:
    settings = Settings(limits=Limits(texts=4, pixels=64 * 64))
    return Services(settings, toy_pool(settings, **engines), Admission(settings))


@pytest.fixture
def client() -> Iterator[OpenAI]:
    with (
        live(create_app(served())) as url,
        OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as opened,
    ):
        yield opened


def data_url(side: int = 8) -> str:
    buffer = io.BytesIO()
    Pillow.fromarray(np.zeros((side, side, 3), np.uint8)).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def part(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def test_texts_by_rules(client: OpenAI) -> None:
    answer = client.moderations.create(
        input=["I want to kill myself", "如何洗钱", "What a fine day"],
        model="omni-moderation-latest",
    )
    first, second, third = answer.results
    assert answer.id.startswith("modr-") and answer.model == "miaobi-moderation"
    assert (
        first.flagged
        and first.categories.self_harm_intent
        and first.categories.self_harm
        and not first.categories.hate
    )
    assert (
        first.category_scores.self_harm_intent == 0.9
        and first.category_applied_input_types.violence == ["text"]
    )
    assert (
        second.flagged
        and second.categories.illicit
        and second.miaobi["by_rule"] == ["illicit"]
    )
    assert not third.flagged and third.category_scores.sexual == 0
    assert (
        answer.miaobi["judged_by"] == ["rules"]
        and "text_safety.yaml" in answer.miaobi["note"]
    )
    assert (
        client.moderations.create(input="What a fine day").results[0].flagged is False
    )


def test_texts_by_a_classifier_too() -> None:
    classifier = Classifier(json.dumps({"labels": [], "scores": {"hate": 0.25}}))
    with (
        live(create_app(served(**{"text-safety": classifier}))) as url,
        OpenAI(base_url=f"{url}/v1", api_key="none") as client,
    ):
        answer = client.moderations.create(input=["plain", "wicked"])
        plain, wicked = answer.results
    assert (
        plain.flagged,
        wicked.flagged,
        wicked.categories.hate,
        wicked.category_scores.hate,
    ) == (False, True, True, 0.97)
    assert (
        answer.miaobi == {"judged_by": ["rules", "text-safety"]}
        and wicked.miaobi["by_rule"] == []
    )


@pytest.mark.parametrize(("probability", "flagged"), [(0.61, True), (0.2, False)])
def test_pictures_and_texts_together(
    client: OpenAI, monkeypatch: pytest.MonkeyPatch, probability: float, flagged: bool
) -> None:
    monkeypatch.setattr(moderations, "unsafe_probability", lambda pixels: probability)
    answer = client.moderations.create(
        input=[{"type": "text", "text": "look"}, part(data_url())]
    )  # type: ignore[list-item]
    (result,) = answer.results
    assert (
        result.flagged,
        result.categories.sexual,
        result.category_scores.sexual,
    ) == (flagged, flagged, probability)
    assert result.category_applied_input_types.sexual == [
        "text",
        "image",
    ] and result.category_applied_input_types.violence == ["text"]
    alone = client.moderations.create(input=[part(data_url())])  # type: ignore[list-item]
    assert alone.results[
        0
    ].category_applied_input_types.violence == [] and alone.miaobi == {
        "judged_by": ["opennsfw"]
    }


def test_the_packaged_model_sees_nothing_in_a_black_picture(
    client: OpenAI, pack: Any
) -> None:
    pack("opennsfw")
    result = client.moderations.create(input=[part(data_url(64))]).results[0]  # type: ignore[list-item]
    assert 0 <= result.category_scores.sexual < 0.5 and not result.flagged


def test_without_the_packaged_model(
    client: OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(pixels: np.ndarray) -> float:
        raise NotFound("/root/secret")

    monkeypatch.setattr(moderations, "unsafe_probability", absent)
    with pytest.raises(openai.InternalServerError, match="opennsfw") as caught:
        client.moderations.create(input=[part(data_url())])  # type: ignore[list-item]
    assert caught.value.status_code == 503 and "secret" not in caught.value.message


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest",
        "https://127.0.0.1\\@evil/a.png",
        "file:///etc/passwd",
        "data:text/html;base64,AAAA",
        "data:image/png,x",
        "data:image/png;base64,???",
        "data:image/svg+xml;base64," + base64.b64encode(b"<svg/>").decode(),
        "",
        data_url(65),
    ],
)
def test_no_address_is_fetched_and_no_picture_trusted(client: OpenAI, url: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.moderations.create(input=[part(url)])  # type: ignore[list-item]
    assert "image_url" in caught.value.message


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"input": ["a"] * 5}, 400, "at most 4"),
        ({"input": "a", "modle": "x"}, 400, "modle"),
        ({"input": "a", "model": "other"}, 404, "other"),
        ({}, 400, "input"),
        ({"input": []}, 400, "input"),
        ({"input": [1]}, 400, "input"),
        ({"input": ["a", 1]}, 400, "input.1"),
        ({"input": "a" * 100_001}, 400, "input"),
        ({"input": [{"type": "text"}]}, 400, "0.text"),
        ({"input": 5}, 400, "a list of texts"),
        ({"input": [{"type": "audio"}]}, 400, "image_url"),
        ({"input": [part("data:image/png;base64,AAAA")] * 17}, 400, "at most 16"),
        ({"input": ["a", {"type": "text", "text": "b"}]}, 400, "input"),
    ],
)
def test_bad_input_is_refused_by_name(
    body: dict[str, Any], status: int, said: str
) -> None:
    with live(create_app(served())) as url:
        answer = httpx.post(f"{url}/v1/moderations", json=body)
        broken = httpx.post(
            f"{url}/v1/moderations",
            content=b'{"input": "\\ud800"}',
            headers={"content-type": "application/json"},
        )
    assert answer.status_code == status and said in answer.json()["error"]["message"], (
        answer.text
    )
    assert broken.status_code in (200, 400)
