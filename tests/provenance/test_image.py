"""Generated pictures leave with their facts inside, in each format, and are read back
by plain Pillow.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from miaobi.core.artifacts import Facts, Image, Text, Video
from miaobi.core.errors import Damaged, Unsupported
from miaobi.provenance import image as pictures
from miaobi.provenance.image import read_record
from miaobi.provenance.label import NOTICE, SOURCE_TYPE
from miaobi.provenance.publish import publish

FACTS = Facts(
    "画家",
    "2",
    "pictures",
    "abc123",
    7,
    {"prompt": "雪中的狐狸", "truncation": 0.5},
    "2026-11-21T00:00:00+00:00",
)


def painted(shade: int, channels: int = 3, size: tuple[int, int] = (20, 30)) -> Image:
    pixels = np.full((*size, channels), shade, np.uint8)
    pixels[:5, :5] = 255 - shade
    return Image(pixels, FACTS)


@pytest.mark.parametrize("ending", [".png", ".jpg", ".jpeg", ".webp", ".gif", ".PNG"])
@pytest.mark.parametrize("channels", [1, 3])
def test_each_format_carries_the_facts(
    ending: str, channels: int, tmp_path: Path
) -> None:
    path = publish(painted(90, channels), tmp_path / f"a{ending}")
    record = read_record(path)
    assert record["model"] == "画家"
    assert record["seed"] == 7
    assert record["parameters"]["prompt"] == "雪中的狐狸"
    assert record["notice"] == NOTICE
    with Pillow.open(path) as picture:
        assert picture.size == (30, 20)
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert np.abs(pixels[10:, 10:] - 90).max() <= 3
    if ending.lower() != ".gif":
        assert SOURCE_TYPE.encode() in path.read_bytes()


def test_png_is_exact_and_readable_by_others(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (9, 11, 3), dtype=np.uint8)
    path = publish(replace(painted(90), pixels=pixels), tmp_path / "a.png")
    with Pillow.open(path) as picture:
        picture.load()
        assert (np.asarray(picture) == pixels).all()
        record = json.loads(picture.info["miaobi"])
        assert record["parameters"]["prompt"] == "雪中的狐狸"
        assert SOURCE_TYPE in picture.info["XML:com.adobe.xmp"]


@pytest.mark.parametrize("ending", [".jpg", ".webp"])
def test_exif_is_as_the_standard_has_it(ending: str, tmp_path: Path) -> None:
    with Pillow.open(publish(painted(90), tmp_path / f"a{ending}")) as picture:
        exif = picture.getexif()
        assert exif[270].startswith("AI-generated")
        assert exif.get_ifd(0x8769)[0x9286].startswith(b"ASCII\0\0\0{")


def test_several_make_a_sheet_or_an_animation(tmp_path: Path) -> None:
    several = [
        replace(painted(shade), facts=replace(FACTS, seed=shade))
        for shade in (10, 80, 150)
    ]
    page = publish(several, tmp_path / "grid.png")
    with Pillow.open(page) as picture:
        assert picture.width > 200
    record = read_record(page)
    assert record["model"] == "画家"
    assert [item["seed"] for item in record["pictures"]] == [10, 80, 150]
    with Pillow.open(publish(several, tmp_path / "all.gif")) as picture:
        assert picture.n_frames == 3
        assert picture.size == (30, 20)
        assert picture.info["duration"] == 500


@pytest.mark.parametrize("ending", [".gif", ".webp"])
def test_a_video_is_an_animation(ending: str, tmp_path: Path) -> None:
    frames = np.stack([painted(shade).pixels for shade in (10, 60, 120, 200)])
    path = publish(Video(frames, 10, FACTS), tmp_path / f"a{ending}")
    assert read_record(path)["seed"] == 7
    with Pillow.open(path) as picture:
        assert picture.n_frames == 4
        picture.seek(2)
        picture.load()
        assert picture.info["duration"] == 100
        red, _, _ = picture.convert("RGB").getpixel((15, 15))
        assert abs(red - 120) <= 4
    with pytest.raises(Unsupported, match=r"\.png"):
        publish(Video(frames, 10, FACTS), tmp_path / "a.png")


def test_a_folder_is_numbered_and_never_overwritten(tmp_path: Path) -> None:
    folder = publish([painted(10), painted(20)], tmp_path / "out")
    publish(painted(30), folder)
    numbered = ["000.png", "001.png", "002.png"]
    names = sorted(item.name for item in folder.iterdir())
    assert names == [*numbered, "index.jsonl", "sheet-000-001.png"]
    assert read_record(folder / "sheet-000-001.png")["model"] == "画家"
    with Pillow.open(folder / "sheet-000-001.png") as shown:
        assert min(shown.size) > 100
    lines = (folder / "index.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["file"] for row in rows] == numbered
    assert {row["model"] for row in rows} == {"画家"}
    with Pillow.open(folder / "001.png") as picture:
        assert picture.getpixel((20, 15)) == (20, 20, 20)


def test_two_writers_share_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    pictures = [painted(10)] * 4
    with ThreadPoolExecutor(4) as threads:
        for _ in range(4):
            threads.submit(publish, pictures, folder)
    assert len(list(folder.glob("0*.png"))) == 16
    assert len(list(folder.glob("sheet-*.png"))) == 4
    assert len((folder / "index.jsonl").read_text().splitlines()) == 16


def test_a_named_file_is_replaced(tmp_path: Path) -> None:
    publish(painted(10), tmp_path / "a.png")
    publish(painted(60), tmp_path / "a.png")
    with Pillow.open(tmp_path / "a.png") as picture:
        assert picture.getpixel((20, 15)) == (60, 60, 60)


@pytest.mark.parametrize(
    ("name", "ending"), [("a.bmp", r"\.bmp"), ("a.txt", r"\.txt"), ("a.v1", r"\.v1")]
)
def test_unknown_endings_leave_nothing(name: str, ending: str, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=ending):
        publish(painted(10), tmp_path / name)
    with pytest.raises(Unsupported, match="Text"):
        publish(Text("x", FACTS), tmp_path / "a.png")
    with pytest.raises(Unsupported, match="Image"):
        publish([painted(10), Text("x", FACTS)], tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_too_large_for_the_format(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"16,383.*20,000"):
        publish(painted(10, 1, (1, 20_000)), tmp_path / "a.webp")
    assert publish(painted(10, 1, (1, 20_000)), tmp_path / "a.png").exists()
    facts = replace(FACTS, parameters={"prompt": "fox " * 20_000})
    verbose = replace(painted(10), facts=facts)
    with pytest.raises(Unsupported, match=r"facts take 80,\d+ bytes"):
        publish(verbose, tmp_path / "a.jpg")
    record = read_record(publish(verbose, tmp_path / "a.webp"))
    assert len(record["parameters"]["prompt"]) == 80_000


def test_a_writer_that_drops_the_metadata_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "_settings", lambda kind, facts: {})
    with pytest.raises(Damaged, match="reads back"):
        publish(painted(10), tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_pixels_among_the_parameters_are_recorded_by_their_hash(tmp_path: Path) -> None:
    facts = replace(FACTS, parameters={"image": np.zeros((4, 4, 3), np.uint8)})
    image = replace(painted(10), facts=facts)
    record = read_record(publish(image, tmp_path / "a.png"))
    assert record["parameters"]["image"].startswith("sha256:")


def test_foreign_pictures_have_no_facts(tmp_path: Path) -> None:
    Pillow.new("RGB", (4, 4)).save(tmp_path / "a.gif", comment=b"made by hand")
    Pillow.new("RGB", (4, 4)).save(tmp_path / "a.png")
    assert read_record(tmp_path / "a.gif") == read_record(tmp_path / "a.png") == {}
