"""/v1/audio/speech and /v1/audio/voices with OpenAI's own client over a real socket."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from tests.conftest import SHARED
from tests.serve.live import live

from miaobi.data.audio import media
from miaobi.provenance.audio import read_record
from miaobi.serve.admission import Admission
from miaobi.serve.app import create_app
from miaobi.serve.audio.speaking import UNIT
from miaobi.serve.opening import build_pool
from miaobi.serve.services import Services
from miaobi.serve.settings import Limits, Settings

TEXT = "Good morning to you all. 今天天气很好，我们去公园吧。"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, pack: Callable[[str], Path]) -> Path:
    pack("kokoro")
    home = tmp_path_factory.mktemp("home")
    (home / "packs").symlink_to(SHARED / "packs")
    return home


@pytest.fixture(autouse=True)
def at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIAOBI_HOME", str(home))


@pytest.fixture(scope="module")
def services(home: Path) -> Iterator[Services]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIAOBI_HOME", str(home))
        settings = Settings(
            models=("kokoro", "tts-1=kokoro"),
            workers=0,
            studio=False,
            limits=Limits(speech_characters=500),
        )
        yield Services(settings, build_pool(settings), Admission(settings))


@pytest.fixture(scope="module")
def client(services: Services) -> Iterator[openai.OpenAI]:
    with (
        live(create_app(services)) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


def post(client: openai.OpenAI, **body: Any) -> httpx.Response:
    url = f"{client.base_url}audio/speech"
    return httpx.post(url, json={"model": "kokoro", **body}, timeout=120)


@pytest.mark.parametrize(
    ("form", "kind", "codec"),
    [
        (None, "audio/mpeg", "mp3"),
        ("opus", "audio/ogg", "opus"),
        ("aac", "audio/aac", "aac"),
        ("flac", "audio/flac", "flac"),
        ("wav", "audio/wav", "pcm_s16le"),
    ],
)
def test_the_body_is_what_was_asked_for(
    client: openai.OpenAI, form: Any, kind: str, codec: str
) -> None:
    """mp3 unless asked otherwise; the file says who spoke, and is whole."""
    answer = client.audio.speech.create(
        model="tts-1",
        voice="zf_xiaoxiao",
        input="你好。Good day.",
        response_format=form or openai.omit,
    )
    assert answer.response.headers["content-type"] == kind
    file = answer.read()
    assert media.probe(file).codec.startswith(codec)
    assert 1 < media.read(file).seconds < 4
    facts = read_record(file)
    assert facts["parameters"]["voice"] == "zf_xiaoxiao"
    assert facts["request_id"] == answer.response.headers["x-request-id"]


def test_pcm_is_24_khz_mono(client: openai.OpenAI) -> None:
    answer = client.audio.speech.create(
        model="kokoro", voice="af_heart", input="Hello.", response_format="pcm"
    )
    assert answer.response.headers["content-type"] == "audio/pcm"
    samples = np.frombuffer(answer.read(), "<i2")
    wav = client.audio.speech.create(
        model="kokoro", voice="af_heart", input="Hello.", response_format="wav"
    )
    sound = media.read(wav.read())
    assert sound.rate == 24_000
    assert len(samples) == len(sound.samples)
    assert np.abs(samples / 32767 - sound.samples).max() < 1e-3


def test_sound_comes_while_it_is_made(client: openai.OpenAI) -> None:
    """As many pieces as sentences, and the whole is a file."""
    with client.audio.speech.with_streaming_response.create(
        model="kokoro", voice="af_heart", input=TEXT
    ) as answer:
        assert "content-length" not in answer.headers
        pieces = list(answer.iter_bytes())
    assert len(pieces) > 1
    assert media.read(b"".join(pieces)).seconds > 3


def test_events(client: openai.OpenAI) -> None:
    answer = post(client, input=TEXT, stream_format="sse", response_format="wav")
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line]
    assert [event["type"] for event in events[:2]] == ["speech.audio.delta"] * 2
    done = events[-1]
    assert done["type"] == "speech.audio.done"
    assert done["miaobi"]["parameters"]["voice"] == "zf_xiaoxiao"
    file = b"".join(base64.b64decode(event["audio"]) for event in events[:-1])
    seconds = done["usage"]["seconds"]
    assert media.read(file).seconds == pytest.approx(seconds, abs=0.01)


@pytest.mark.parametrize(
    ("voice", "recorded"),
    [
        ("heart", "heart"),
        ({"id": "am_puck"}, "am_puck"),
        ({"af_heart": 0.75, "af_sky": 0.25}, "af_heart:0.75+af_sky:0.25"),
        ("af_heart(2)+af_sky(1)", "af_heart(2)+af_sky(1)"),
    ],
)
def test_who_reads(client: openai.OpenAI, voice: Any, recorded: str) -> None:
    answer = client.audio.speech.create(model="kokoro", voice=voice, input="Yes.")
    assert read_record(answer.read())["parameters"]["voice"] == recorded


@pytest.mark.parametrize(
    ("body", "status", "param", "said"),
    [
        ({"voice": "af_hart"}, 400, "voice", "af_heart"),
        ({"voice": {"id": "nobody"}}, 400, "voice", "nobody"),
        ({"voice": {"af_heart": -1}}, 400, "voice", ""),
        ({"input": ""}, 400, "input", "nothing to read"),
        ({"input": "😀"}, 400, "input", "nothing to read"),
        ({"input": "Привет"}, 400, "input", "cannot be read aloud"),
        ({"input": "a" * 501}, 400, "input", "more than the 500"),
        ({"speed": 9}, 400, "speed", "4"),
        ({"speed": 0}, 400, "speed", "0.25"),
        ({"instructions": "Whisper."}, 400, "instructions", "no instructions"),
        ({"response_format": "ogg"}, 400, "response_format", "mp3"),
        ({"stream_format": "ws"}, 400, "stream_format", "sse"),
        ({"pitch": 2}, 400, "pitch", ""),
        ({"model": "nobody"}, 404, "model", "nobody"),
    ],
)
@pytest.mark.parametrize("form", ["mp3", "wav"])
def test_what_is_refused(
    client: openai.OpenAI,
    body: dict[str, Any],
    status: int,
    param: str,
    said: str,
    form: str,
) -> None:
    """In OpenAI's shape and by the field's name, whether the answer would be streamed
    or not.
    """
    sent = {"input": "Hello.", "response_format": form, **body}
    answer = post(client, **sent)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert said in error["message"]
    assert error["param"].startswith(param)


def test_an_empty_instruction_asks_for_nothing(client: openai.OpenAI) -> None:
    assert post(client, input="Yes.", instructions="").status_code == 200


def used(client: openai.OpenAI) -> float:
    rows = httpx.get(f"{client.base_url}usage").json()["data"]
    return sum(row.get(UNIT, 0) for row in rows)


def test_usage_is_in_seconds(client: openai.OpenAI) -> None:
    before = used(client)
    answer = post(client, input="Yes.", response_format="wav")
    made = media.read(answer.content).seconds
    assert used(client) - before == pytest.approx(made)


def test_voices(client: openai.OpenAI) -> None:
    url = f"{client.base_url}audio/voices"
    listed = httpx.get(url, params={"model": "kokoro"}).json()
    names = [voice["id"] for voice in listed["data"]]
    assert len(names) == 54
    assert {"af_heart", "zf_xiaoxiao", "bm_george"} <= set(names)
    assert listed["voices"] == listed["data"]
    everything = httpx.get(url).json()["data"]
    assert {voice["model"] for voice in everything} == {"kokoro", "tts-1"}
    assert httpx.get(url, params={"model": "nobody"}).status_code == 404


def test_the_model_says_that_it_makes_sound(client: openai.OpenAI) -> None:
    facts = {model.id: model.model_dump() for model in client.models.list()}
    assert facts["kokoro"]["modality"] == "audio"
    assert facts["kokoro"]["chats"] is False
    with pytest.raises(openai.BadRequestError, match="audio"):
        client.chat.completions.create(
            model="kokoro", messages=[{"role": "user", "content": "Hello."}]
        )
