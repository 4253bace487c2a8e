"""One picture: every way it can be saved comes out as the same pixels; every way it can
be broken is named, with a remedy.
"""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile

from miaobi.core.errors import BadInput
from miaobi.data.image.files import PIXEL_LIMIT, open_picture, read_picture
from miaobi.data.text.shapes import Unusable


def ramp(width: int = 24, height: int = 16) -> Image.Image:
    """Red grows to the right, green downwards; blue is the middle."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(
        np.stack([x, y, np.full_like(x, 128)], axis=-1).round().astype(np.uint8)
    )


def saved(picture: Image.Image, kind: str, **how: object) -> bytes:
    held = io.BytesIO()
    picture.save(held, kind, **how)
    return held.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds nothing: what a decompression bomb looks like
    at its start.
    """

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data))
            + name
            + data
            + struct.pack(">I", zlib.crc32(name + data))
        )

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("kind", "how", "off"),
    [
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("GIF", {}, 16),
        ("JPEG", {"quality": 98, "subsampling": 0}, 4),
        ("WEBP", {"quality": 95}, 24),
    ],
)
def test_every_format(
    tmp_path: Path, kind: str, how: dict[str, object], off: int
) -> None:
    (tmp_path / "x.bin").write_bytes(saved(ramp(), kind, **how))
    pixels = read_picture(tmp_path / "x.bin")
    assert pixels.dtype == np.uint8
    assert pixels.shape == (16, 24, 3)
    assert np.abs(pixels.astype(int) - np.asarray(ramp())).max() <= off


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int) -> None:
    """The stored pixels, turned as a viewer turns them, are the picture as it was taken."""
    turn = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = ramp() if turn is None else ramp().transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(
        read_picture(saved(stored, "PNG", exif=exif)), np.asarray(ramp())
    )


def test_damaged_exif_does_not_lose_the_picture() -> None:
    held = saved(
        ramp(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12" * 9
    )
    assert read_picture(held).shape == (16, 24, 3)


def test_transparency_lies_on_white() -> None:
    rgba = ramp().convert("RGBA")
    rgba.putalpha(Image.new("L", rgba.size, 0))
    assert (read_picture(saved(rgba, "PNG")) == 255).all()
    half = np.full((4, 4, 4), (200, 100, 0, 128), dtype=np.uint8)
    np.testing.assert_allclose(
        read_picture(saved(Image.fromarray(half), "PNG"))[0, 0], [227, 177, 127], atol=1
    )
    grey = np.full((4, 4, 2), (0, 51), dtype=np.uint8)
    np.testing.assert_allclose(
        read_picture(saved(Image.fromarray(grey, "LA"), "PNG"))[0, 0],
        [204, 204, 204],
        atol=1,
    )


def test_palettes_with_and_without_transparency() -> None:
    picture = Image.new("P", (4, 4), 1)
    picture.putpalette([255, 0, 0, 0, 0, 255])
    assert (read_picture(saved(picture, "PNG")) == [0, 0, 255]).all()
    assert (read_picture(saved(picture, "PNG", transparency=1)) == 255).all()
    assert (read_picture(saved(picture, "GIF", transparency=1)) == 255).all()


def test_cmyk() -> None:
    ink = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    red = read_picture(saved(ink, "JPEG", quality=98))[8, 8]
    assert red[0] > 200
    assert red[1:].max() < 60
    assert open_picture(saved(ink, "TIFF")).kind == "TIFF CMYK"


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_clipped(kind: str) -> None:
    deep = np.array([[0, 257], [32896, 65535]], dtype=np.uint16)
    np.testing.assert_array_equal(
        read_picture(saved(Image.fromarray(deep), kind))[..., 0], [[0, 1], [128, 255]]
    )
    dark = np.array([[0, 100], [200, 255]], dtype=np.uint16)
    assert read_picture(saved(Image.fromarray(dark), kind)).max() == 1, (
        "a dark picture of 16 bits stays dark"
    )


def test_floats_and_bits() -> None:
    floats = np.array([[0, 0.5], [0.25, 1]], dtype=np.float32)
    np.testing.assert_array_equal(
        read_picture(saved(Image.fromarray(floats), "TIFF"))[..., 0],
        [[0, 128], [64, 255]],
    )
    np.testing.assert_array_equal(
        read_picture(saved(Image.fromarray(floats * 255), "TIFF"))[..., 0],
        [[0, 128], [64, 255]],
    )
    np.testing.assert_array_equal(
        read_picture(saved(Image.fromarray(floats * 65535), "TIFF"))[..., 0],
        [[0, 128], [64, 255]],
    )
    np.testing.assert_array_equal(
        read_picture(saved(Image.fromarray(floats * 4 - 2), "TIFF"))[..., 0],
        [[0, 128], [64, 255]],
    )
    np.testing.assert_array_equal(
        read_picture(saved(Image.fromarray(floats > 0.3), "PNG"))[..., 0],
        [[0, 255], [0, 255]],
    )
    with pytest.raises(Unusable, match="no numbers"):
        open_picture(saved(Image.fromarray(floats * np.float32("nan")), "TIFF"))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    opened = open_picture(
        saved(frames[0], kind, save_all=True, append_images=frames[1:])
    )
    assert opened.note == "3 frames or pages: only the first is used."
    assert (
        np.abs(np.asarray(opened.pixels.convert("RGB"), dtype=int) - [255, 0, 0]).max()
        < 8
    )


def test_a_phone_s_two_pictures_in_one_jpeg() -> None:
    opened = open_picture(
        saved(
            ramp(), "MPO", save_all=True, append_images=[ramp().rotate(180)], quality=98
        )
    )
    assert opened.note == "", "the second is a preview or the other eye's"
    assert np.abs(np.asarray(opened.pixels, dtype=int) - np.asarray(ramp())).max() < 40


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "zero bytes"),
        (b"not a picture at all", "not a picture in a format"),
        (b"\x89PNG\r\n\x1a\n", "not a picture|damaged"),
        (saved(ramp(), "PNG")[:-30], "cannot be decoded"),
        (saved(ramp(), "JPEG")[:300], "cannot be decoded|damaged|not a picture"),
        (saved(ramp(), "WEBP")[:60], "cannot be decoded|damaged|not a picture"),
        (saved(ramp(), "BMP")[:200], "cannot be decoded"),
        (saved(Image.new("RGB", (1, 1)), "PNG"), "1 × 1 pixels"),
        (saved(Image.new("RGB", (300, 1)), "PNG"), "300 × 1 pixels"),
        (
            png_header(20_000, 20_000),
            "too large: 400 million pixels; at most 64 million are decoded",
        ),
        (png_header(9_000, 8_000), "too large: 9,000 × 8,000"),
        (b"%PDF-1.4 ...", "not a picture in a format"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'><rect", "not a sound SVG"),
    ],
)
def test_what_cannot_be_used_is_named_with_a_remedy(
    tmp_path: Path, content: bytes, what: str
) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=f"x.png: .*({what})") as caught:
        read_picture(path)
    assert caught.value.remedy


def test_a_huge_picture_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20,000 × 20,000, really: 1.2 GB of pixels in a file of a few hundred kilobytes."""
    rows = zlib.compressobj(1)
    row = b"\0" + bytes(20_000)
    packed = b"".join(rows.compress(row) for _ in range(20_000)) + rows.flush()
    start = png_header(20_000, 20_000)[:33]
    (tmp_path / "bomb.png").write_bytes(
        start
        + struct.pack(">I", len(packed))
        + b"IDAT"
        + packed
        + struct.pack(">I", zlib.crc32(b"IDAT" + packed))
    )
    monkeypatch.setattr(
        ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded")
    )
    with pytest.raises(BadInput, match="too large"):
        read_picture(tmp_path / "bomb.png")
    assert 20_000**2 > PIXEL_LIMIT


def test_missing_files_and_folders(tmp_path: Path) -> None:
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(BadInput, match="cannot be read"):
            read_picture(path)


@given(
    st.binary(max_size=200),
    st.integers(0, 400),
    st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"]),
)
def test_damage_never_escapes_as_another_error(
    noise: bytes, at: int, kind: str
) -> None:
    held = saved(ramp(), kind)
    at = min(at, len(held))
    with contextlib.suppress(BadInput):
        assert read_picture(held[:at] + noise + held[at + len(noise) :]).shape[2] == 3


def test_arrays() -> None:
    grey = np.arange(16, dtype=np.uint8).reshape(4, 4)
    for same in (grey, grey[..., None], np.repeat(grey[..., None], 3, axis=2)):
        np.testing.assert_array_equal(read_picture(same)[..., 1], grey)
    clear = np.zeros((4, 4, 4), dtype=np.uint8)
    assert (read_picture(clear) == 255).all()
    for wrong in (
        grey.astype(np.float32),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((0, 4), np.uint8),
    ):
        with pytest.raises(BadInput):
            read_picture(wrong, "mine")


def test_a_drawing() -> None:
    pytest.importorskip("resvg_py")
    drawing = (
        b"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 72 36'><rect "
        b"width='36' height='36' fill='#ff0000'/></svg>"
    )
    pixels = read_picture(drawing)
    assert pixels.shape == (32, 64, 3)
    assert (pixels[:, :31] == [255, 0, 0]).all()
    assert (pixels[:, 33:] == 255).all()
    assert open_picture(drawing, 200).pixels.size == (200, 100)
