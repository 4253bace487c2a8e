"""Prepared pictures: what goes in comes out; batches are a pure function of their
number; copies stay on one side; a second run finds all.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from miaobi.core.errors import BadInput, NotFound
from miaobi.data.image import augment
from miaobi.data.image import loaders as image_loaders
from miaobi.data.image import packing as picture_packing
from miaobi.data.image.prepared import Config, Pictures, prepare
from miaobi.data.image.shapes import buckets
from miaobi.nn.image import captions_of, from_planes


def photo(seed: int, width: int = 24, height: int = 24) -> Image.Image:
    draw = np.random.default_rng(seed)
    return Image.fromarray(draw.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """40 pictures of two classes."""
    for number in range(40):
        path = tmp_path / "photos" / ("fox", "hen")[number % 2] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        photo(number).save(path)
    return tmp_path / "photos"


def prepared(path: Path, **how: Any) -> Pictures:
    return prepare(Config(path=str(path), **how), progress=False)


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(first[key], second[key]) for key in first
    )


def test_every_picture_comes_out_as_it_went_in(folder: Path) -> None:
    data = prepared(folder, validation=0.1, test=0.2)
    assert data.spec.classes == ("fox", "hen")
    assert (
        data.spec.channels,
        data.spec.height,
        data.spec.width,
        data.spec.source_channels,
    ) == (3, 24, 24, 0)
    assert [data.count(split) for split in ("train", "validation", "test")] == [
        28,
        4,
        8,
    ]
    seen = []
    for split in ("train", "validation", "test"):
        for name, pixels, label in zip(
            data.names(split), data.pixels(split), data.labels(split), strict=True
        ):
            np.testing.assert_array_equal(
                pixels.transpose(1, 2, 0), np.asarray(Image.open(folder / name))
            )
            assert data.spec.classes[label] == name.split("/")[0]
            seen.append(name)
    assert len(set(seen)) == 40


def test_batches_hold_the_pixels_in_the_right_range(folder: Path) -> None:
    data = prepared(folder)
    whole = torch.cat([batch["pixels"] for batch in data.batches("train", 7)])
    labels = torch.cat([batch["label"] for batch in data.batches("train", 7)])
    np.testing.assert_allclose(
        (whole.numpy() + 1) * 127.5, data.pixels("train"), atol=1e-4
    )
    assert labels.tolist() == data.labels("train").tolist()
    assert whole.dtype == torch.float32
    assert -1 <= whole.min() < -0.9 < 0.9 < whole.max() <= 1


def test_an_epoch_shows_each_picture_once_in_another_order_each_time(
    folder: Path,
) -> None:
    data = prepared(folder, validation=0.1, test=0.0)
    count, orders = data.count("train"), []
    for epoch in range(3):
        stream = torch.cat(
            [
                data.batch("train", epoch * count // 4 + number, 4, 5)["pixels"]
                for number in range(count // 4)
            ]
        )
        keys = [row.numpy().tobytes() for row in stream]
        assert len(set(keys)) == count == 36
        orders.append(keys)
    assert orders[0] != orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2])


@pytest.mark.parametrize(
    "how",
    [{}, {"augment": ["flip", "shift", "colour"]}, {"buckets": 3, "image_size": 16}],
)
def test_batches_are_a_pure_function_of_their_number(
    folder: Path, how: dict[str, Any]
) -> None:
    """A run that resumes sees what it would have seen; batches may be asked for in any
    order, by a new process too.
    """
    data, again = prepared(folder, **how), prepared(folder, **how)
    for index in (11, 0, 999):
        assert same(data.batch("train", index, 8, 3), again.batch("train", index, 8, 3))
    assert not same(data.batch("train", 0, 8, 3), data.batch("train", 1, 8, 3))
    assert not same(data.batch("train", 0, 8, 3), data.batch("train", 0, 8, 4))
    wide = torch.cat([data.batch("train", number, 4, 3)["label"] for number in (0, 1)])
    if "buckets" not in how:
        assert torch.equal(wide, data.batch("train", 0, 8, 3)["label"]), (
            "the stream does not depend on the batch size"
        )


def test_a_second_run_reuses_the_first(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepared(folder)
    monkeypatch.setattr(
        picture_packing, "_prepare", lambda *_: pytest.fail("prepared again")
    )
    assert prepared(folder, augment=["flip"]).folder == first.folder
    moved = folder.rename(folder.with_name("elsewhere"))
    assert prepared(moved).folder == first.folder, "found by its content"


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: photo(99).save(folder / "fox" / "00.png"),
        lambda folder: (folder / "fox" / "00.png").unlink(),
        lambda folder: (folder / "fox" / "00.png").rename(folder / "hen" / "00.png"),
        lambda folder: photo(99).save(folder / "fox" / "new.png"),
    ],
)
def test_changed_content_is_prepared_anew(
    folder: Path, change: Callable[[Path], object]
) -> None:
    before = prepared(folder).fingerprint
    change(folder)
    assert prepared(folder).fingerprint != before


def test_settings_are_part_of_the_fingerprint(folder: Path) -> None:
    ways = [
        {},
        {"image_size": 16},
        {"channels": 1},
        {"binarise": "static"},
        {"image_size": 16, "fit": "pad"},
        {"validation": 0.2},
        {"max_pictures": 9},
        {"classes": ["hen"]},
    ]
    assert len({prepared(folder, **how).fingerprint for how in ways}) == len(ways)


def test_a_cut_off_preparation_leaves_nothing_half_done(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(
            picture_packing._Writer,
            "write_array",
            lambda *_: (_ for _ in ()).throw(KeyboardInterrupt),
        )
        with pytest.raises(KeyboardInterrupt):
            prepared(folder)
    root = Path(os.environ["MIAOBI_HOME"]) / "prepared"
    assert not [
        item
        for item in root.iterdir()
        if not item.name.startswith(".") and item.is_dir()
    ]
    assert prepared(folder).count("train") == 36
    assert not list(root.glob(".*.part"))


def test_what_a_killed_preparation_left_is_removed(folder: Path) -> None:
    data = prepared(folder)
    left = data.folder.with_name(f".{data.folder.name}.0123.part")
    data.folder.rename(left)
    assert prepared(folder).count("train") == 36
    assert not left.exists()


def test_two_processes_want_the_same(folder: Path) -> None:
    """The second waits for the first and uses what it prepared."""
    code = (
        "import sys; from miaobi.data.image.prepared import Config, prepare; "
        "print(prepare(Config(path=sys.argv[1]), progress=False).count('train'))"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    assert [process.communicate(timeout=60)[0].strip() for process in both] == [
        "36",
        "36",
    ]


def test_copies_stay_on_one_side(tmp_path: Path) -> None:
    """Each picture twice more, recompressed and scaled: no copy of a test picture is trained on."""
    for number in range(60):
        picture = photo(number, 64, 64)
        picture.save(tmp_path / f"{number:02}-a.png")
        picture.save(tmp_path / f"{number:02}-b.jpg", quality=60)
        picture.resize((50, 50)).save(tmp_path / f"{number:02}-c.png")
    grouped = prepared(tmp_path, image_size=32, validation=0.2, test=0.2)
    where = Counter(
        (name[:2], split)
        for split in ("train", "validation", "test")
        for name in grouped.names(split)
    )
    divided = len(where) - 60
    assert divided <= 1
    assert grouped.meta["near_duplicates"] >= 115
    assert grouped.count("test") >= 30
    dropped = prepared(
        tmp_path, image_size=32, near_duplicates="drop", validation=0.2, test=0.2
    )
    assert (
        sum(dropped.count(split) for split in ("train", "validation", "test"))
        == 180 - grouped.meta["near_duplicates"]
    )
    with_copies = prepared(
        tmp_path, image_size=32, near_duplicates="keep", validation=0.2, test=0.2
    )
    assert (
        len(
            {
                (name[:2], split)
                for split in ("train", "validation", "test")
                for name in with_copies.names(split)
            }
        )
        > 90
    ), "what grouping prevents"


def test_exact_copies_are_dropped_unless_near_duplicates_is_keep(folder: Path) -> None:
    (folder / "hen" / "copy.png").write_bytes((folder / "fox" / "00.png").read_bytes())
    data = prepared(folder)
    assert data.meta["duplicates"] == 1
    assert sum(data.count(split) for split in ("train", "validation", "test")) == 40
    assert (
        sum(
            prepared(folder, near_duplicates="keep").count(split)
            for split in ("train", "validation", "test")
        )
        == 41
    )


def test_fits(tmp_path: Path) -> None:
    """A picture of three bands, 24 × 8: crop keeps the middle one, pad puts white above
    and below, stretch keeps all three.
    """
    bands = np.repeat(np.array([[0, 100, 200]], dtype=np.uint8), 8, axis=1).repeat(
        8, axis=0
    )
    Image.fromarray(bands).save(tmp_path / "wide.png")
    Image.fromarray(bands.T).save(tmp_path / "high.png")
    by_fit = {
        fit: prepared(
            tmp_path,
            image_size=12,
            fit=fit,
            validation=0,
            test=0,
            near_duplicates="keep",
        ).pixels("train")[1, 0]
        for fit in ("crop", "pad", "stretch")
    }
    assert (abs(by_fit["crop"][:, 2:-2].astype(int) - 100) < 12).all()
    assert (by_fit["pad"][:4] == 255).all()
    assert (by_fit["pad"][-4:] == 255).all()
    assert by_fit["pad"][5:7].min() < 20
    np.testing.assert_allclose(by_fit["stretch"][6, [1, 6, 10]], [0, 100, 200], atol=16)


def test_sizes_that_differ_need_a_size(tmp_path: Path) -> None:
    photo(0, 24, 24).save(tmp_path / "a.png")
    photo(1, 32, 17).save(tmp_path / "b.png")
    with pytest.raises(
        BadInput, match=r"differ in size: a.png is 24×24, b.png is 32×17"
    ) as caught:
        prepared(tmp_path)
    assert "--data.image_size" in caught.value.remedy
    photo(1, 24, 24).save(tmp_path / "b.png")
    photo(2, 24, 24).convert("L").save(tmp_path / "c.png")
    assert prepared(tmp_path, validation=0, test=0).spec.channels == 3, (
        "one coloured picture makes them all three channels"
    )
    assert prepared(tmp_path, validation=0, test=0, channels=1).pixels(
        "train"
    ).shape == (
        3,
        1,
        24,
        24,
    )


def test_grey_pictures_saved_as_colour_are_grey(tmp_path: Path) -> None:
    for number in range(3):
        photo(number).convert("L").convert("RGB").save(tmp_path / f"{number}.png")
    data = prepared(tmp_path, validation=0, test=0)
    assert data.spec.channels == 1
    np.testing.assert_array_equal(
        data.pixels("train")[0, 0], np.asarray(photo(0).convert("L"))
    )


def test_odd_sizes_and_buckets(tmp_path: Path) -> None:
    for number in range(60):
        width, height = ((97, 41), (41, 97), (61, 61), (33, 35))[number % 4]
        photo(number, width, height).save(tmp_path / f"{number:02}.png")
    data = prepared(tmp_path, image_size=32, buckets=5, validation=0.2, test=0)
    shapes = {
        tuple(data.batch("train", index, 4, 0)["pixels"].shape[1:])
        for index in range(40)
    }
    assert shapes == {(3, 24, 40), (3, 40, 24), (3, 32, 32)}
    assert all(abs(shape[1] * shape[2] / 1024 - 1) < 0.25 for shape in shapes)
    assert (data.spec.height, data.spec.width) == (32, 32)
    assert (
        sum(len(batch["pixels"]) for batch in data.batches("train", 4))
        == data.count("train")
        == len(data.names("train"))
        == len(data.labels("train"))
    )
    with pytest.raises(BadInput, match="3 sizes"):
        data.pixels("train")
    with pytest.raises(BadInput, match="buckets needs image_size"):
        prepared(tmp_path, buckets=4)


@pytest.mark.parametrize("count", [2, 3, 7, 16])
def test_bucket_sizes(count: int) -> None:
    sizes = buckets(64, count)
    assert (64, 64) in sizes
    assert all(
        height % 8 == width % 8 == 0 and abs(height * width / 64**2 - 1) < 0.1
        for height, width in sizes
    )
    assert max(width / height for height, width in sizes) == pytest.approx(2, rel=0.2)


def test_static_binarisation(tmp_path: Path) -> None:
    """Every value is black or white once and for all, and white as often as its brightness says."""
    for number in range(40):
        Image.fromarray(np.full((32, 32), 40 + 4 * number, dtype=np.uint8)).save(
            tmp_path / f"{number:02}.png"
        )
    data = prepared(tmp_path, binarise="static", validation=0, test=0)
    pixels = data.pixels("train")
    assert set(np.unique(pixels)) == {0, 255}
    np.testing.assert_allclose(
        (pixels == 255).mean((1, 2, 3)), (40 + 4 * np.arange(40)) / 255, atol=0.07
    )
    assert (pixels == 255).mean() == pytest.approx(118 / 255, abs=0.01)
    np.testing.assert_array_equal(
        pixels,
        prepared(tmp_path, binarise="static", validation=0, test=0).pixels("train"),
    )


def test_captions_by_column(tmp_path: Path) -> None:
    rows = []
    for number in range(4):
        photo(number).save(tmp_path / f"{number}.png")
        rows.append(
            {
                "file_name": f"{number}.png",
                "zh": f"第{number}张",
                "text": f"number {number}",
            }
        )
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert prepared(tmp_path, validation=0, test=0).captions("train") == [
        f"number {number}" for number in range(4)
    ]
    data = prepared(tmp_path, validation=0, test=0, caption_column="zh")
    assert data.captions("train")[2] == "第2张"
    pictures = from_planes(torch.from_numpy(data.pixels("train").copy()))
    for batch in (data.batch("train", 0, 2, 5), next(data.batches("train", 3))):
        assert batch["caption"].dtype == torch.uint8
        distances = torch.cdist(batch["pixels"].flatten(1), pictures.flatten(1))
        numbers = distances.argmin(1).tolist()
        assert captions_of(batch) == [f"第{number}张" for number in numbers]
    assert data.records("train")[2]["text"] == "number 2"
    with pytest.raises(BadInput, match="no column 'en'"):
        prepared(tmp_path, caption_column="en", strict=True)
    with pytest.raises(BadInput, match="No picture of .* can be used"):
        prepared(tmp_path, caption_column="en")


def test_chosen_classes(folder: Path) -> None:
    data = prepared(folder, classes=["hen"])
    assert data.spec.classes == ("hen",)
    assert {name.split("/")[0] for name in data.names("train")} == {"hen"}
    with pytest.raises(BadInput, match="no class 'hne'") as caught:
        prepared(folder, classes=["hne"])
    assert "hen" in caught.value.remedy


def test_pairs_keep_together(tmp_path: Path) -> None:
    for number in range(30):
        for side, picture in (
            ("source", photo(number).convert("L")),
            ("target", photo(number)),
        ):
            (tmp_path / side).mkdir(exist_ok=True)
            picture.save(tmp_path / side / f"{number:02}.png")
    photo(77, 24, 12).save(tmp_path / "source" / "odd.png")
    photo(77).save(tmp_path / "target" / "odd.png")
    data = prepared(tmp_path, validation=0.1, test=0.1)
    assert (data.spec.channels, data.spec.source_channels) == (3, 1)
    assert data.meta["problems"]["count"] == 1
    assert "different shapes: 24×12 and 24×24" in data.meta["problems"]["first"][0]
    for pixels, source in zip(data.pixels("train"), data.sources("train"), strict=True):
        grey = np.asarray(Image.fromarray(pixels.transpose(1, 2, 0)).convert("L"))
        np.testing.assert_array_equal(source[0], grey)
    batch = prepared(
        tmp_path, validation=0.1, test=0.1, augment=["flip", "shift", "rotate", "crop"]
    ).batch("train", 0, 16, 0)
    luma = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    assert (
        (batch["pixels"] * luma).sum(1, keepdim=True) - batch["source"]
    ).abs().max() < 0.02, "both are moved alike"
    with pytest.raises(BadInput, match="no pairs"):
        prepared(tmp_path / "target", image_size=24).sources("train")


def harmed(path: Path) -> dict[str, str]:
    """A folder with one of each fault beside sound pictures: {file: what is said of it}."""
    held = io.BytesIO()
    photo(0).save(held, "PNG")
    frames = [photo(seed) for seed in (101, 102)]
    frames[0].save(path / "moving.gif", save_all=True, append_images=frames[1:])
    for name, content in (
        ("empty.png", b""),
        ("cut.png", held.getvalue()[:-40]),
        ("text.jpg", b"hello"),
    ):
        (path / name).write_bytes(content)
    Image.new("RGB", (1, 1)).save(path / "dot.png")
    Image.new("1", (20_000, 20_000)).save(path / "huge.png")
    return {
        "empty.png": "zero bytes",
        "cut.png": "cannot be decoded",
        "text.jpg": "not a picture",
        "dot.png": "1 × 1",
        "huge.png": "too large: ",
        "moving.gif": "2 frames or pages",
    }


def test_faults_are_reported_and_skipped(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = harmed(folder / "fox")
    data = prepare(Config(path=str(folder), image_size=16))
    problems = data.meta["problems"]
    assert problems["count"] == len(expected)
    for name, what in expected.items():
        assert any(
            f"/fox/{name}: " in problem and what in problem
            for problem in problems["first"]
        ), name
    assert sum(data.count(split) for split in ("train", "validation", "test")) == 41, (
        "the moving one is used, by its first frame"
    )
    assert "problems: 6" in capsys.readouterr().err
    with pytest.raises(BadInput, match=r"fox/(cut|dot|empty|huge|moving|text)\."):
        prepared(folder, image_size=16, strict=True)


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(
        BadInput,
        match=r"No picture of .* can be used. First problem: .*a\.png: it is empty",
    ):
        prepared(tmp_path)
    (tmp_path / "a.png").unlink()
    with pytest.raises(BadInput, match="holds no pictures"):
        prepared(tmp_path)


@pytest.mark.parametrize(
    ("how", "what"),
    [
        ({"validation": 0.6, "test": 0.5}, "nothing is left"),
        ({"image_size": 3}, "image_size is 3"),
        ({"image_size": 16, "buckets": 1}, "buckets is 1"),
    ],
)
def test_settings_that_cannot_be(folder: Path, how: dict[str, Any], what: str) -> None:
    with pytest.raises(BadInput, match=what):
        prepared(folder, **how)


def test_splits_that_are_not_there(folder: Path) -> None:
    data = prepared(folder, test=0)
    assert data.pixels("test").shape == (0, 3, 24, 24)
    assert list(data.batches("test", 4)) == []
    with pytest.raises(BadInput, match="test split is empty"):
        data.batch("test", 0, 4, 0)
    with pytest.raises(BadInput, match="no split 'val'"):
        data.count("val")
    with pytest.raises(NotFound, match="no prepared data"):
        Pictures(folder).count("train")


def test_what_a_bundle_carries(folder: Path, tmp_path: Path) -> None:
    prepared(folder).save(tmp_path)
    assert json.loads((tmp_path / "preprocessor_config.json").read_text()) == {
        "size": {"height": 24, "width": 24},
        "channels": 3,
        "source_channels": 0,
        "classes": ["fox", "hen"],
        "fit": "crop",
        "binarise": "no",
        "range": [-1, 1],
    }


@pytest.mark.parametrize("name", augment.AUGMENTATIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_augmentations(name: str, channels: int) -> None:
    pixels = (
        torch.from_numpy(
            np.stack(
                [
                    np.asarray(photo(seed, 24, 20)).transpose(2, 0, 1)
                    for seed in range(16)
                ]
            )[:, :channels]
        ).float()
        / 127.5
        - 1
    )

    def drawn(seed: int) -> torch.Tensor:
        return augment.apply([name], {"pixels": pixels}, np.random.default_rng(seed))[
            "pixels"
        ]

    augmented = drawn(0)
    assert augmented.shape == pixels.shape
    assert augmented.dtype == torch.float32
    assert torch.equal(augmented, drawn(0))
    assert not torch.equal(augmented, drawn(1))
    changed = (augmented != pixels).flatten(1).any(1)
    assert changed.float().mean() > (0.2 if name == "flip" else 0.8)
    assert -1 <= augmented.min()
    assert augmented.max() <= 1
    assert (augmented - pixels).abs().mean() < 0.6, "still the same picture"


def test_shift_moves_whole_pixels_and_rotation_turns_about_the_middle() -> None:
    dot = torch.full((64, 1, 17, 33), -1.0)
    dot[:, :, 8, 16] = 1
    moved = augment.shift(dot, np.random.default_rng(0))
    peaks = moved.flatten(1).argmax(1)
    assert (moved.flatten(1).sum(1) == dot.flatten(1).sum(1)).all(), (
        "nothing is blurred"
    )
    assert set((peaks // 33 - 8).tolist()) == set(range(-2, 3))
    assert set((peaks % 33 - 16).tolist()) == set(range(-4, 5))
    assert (
        augment.rotate(dot, np.random.default_rng(0)).flatten(1).argmax(1)
        == 8 * 33 + 16
    ).all()


def test_unknown_augmentations(folder: Path) -> None:
    with pytest.raises(NotFound, match="no augmentation 'flipp'") as caught:
        prepared(folder, augment=["flipp"])
    assert "flip" in caught.value.remedy


def test_digits(pack: Callable[[str], Path]) -> None:
    pack("digits")
    data = prepare(Config(pack="digits", validation=0.1, test=0.1))
    assert data.spec.classes == tuple("0123456789")
    assert (data.spec.channels, data.spec.height, data.spec.width) == (1, 28, 28)
    assert [data.count(split) for split in ("train", "validation", "test")] == [
        4000,
        500,
        500,
    ]
    assert (
        sum(
            np.bincount(data.labels(split), minlength=10)
            for split in ("train", "validation", "test")
        ).tolist()
        == [500] * 10
    )
    zeros = data.pixels("train")[data.labels("train") == 0].mean(0)[0]
    ones = data.pixels("train")[data.labels("train") == 1].mean(0)[0]
    assert zeros[14, 14] < 30 < 150 < ones[14, 14], (
        "a zero has a hole where a one has its stroke"
    )


def test_emoji(pack: Callable[[str], Path]) -> None:
    pack("emoji")
    emoji = list(image_loaders.read("emoji"))
    assert len(emoji) == 3786, "every picture has its names"
    assert all(picture.meta["zh"] and picture.meta["en"] for picture in emoji)
    assert any(
        picture.meta["en"].endswith("dark skin tone") and picture.meta["en_tags"]
        for picture in emoji
    )
    data = prepare(
        Config(pack="emoji", caption_column="zh", image_size=32, max_pictures=900)
    )
    swim = next(
        record
        for split in ("train", "validation", "test")
        for record in data.records(split)
        if record["name"] == "1f3ca"
    )
    assert (swim["caption"], swim["en"]) == ("游泳", "person swimming")
    assert "swimmer" in swim["en_tags"]


@pytest.mark.slow
def test_openmoji_pairs(pack: Callable[[str], Path]) -> None:
    pack("openmoji-pairs")
    data = prepare(Config(pack="openmoji-pairs", max_pictures=600))
    assert (data.spec.channels, data.spec.source_channels, data.spec.height) == (
        3,
        1,
        64,
    )
    colour, line = data.pixels("train"), data.sources("train")
    assert (colour[:, :, 0, 0] == 255).mean() > 0.99, "on white"
    dark = line[:, 0] < 60
    assert colour.mean(1)[dark].mean() < 110 < colour.mean(1)[~dark].mean(), (
        "the lines of the drawing are those of the picture"
    )


@pytest.mark.slow
def test_fashion(pack: Callable[[str], Path]) -> None:
    pack("fashion")
    data = prepare(Config(pack="fashion"))
    assert data.spec.classes[:2] == ("T-shirt/top", "Trouser")
    assert data.count("test") == 10_000, "the test split that comes with it"
    assert np.bincount(data.labels("test")).tolist() == [1000] * 10
    assert (
        data.count("train") + data.count("validation") + data.meta["left_out_of_train"]
        == 60_000 - data.meta["duplicates"]
    )
