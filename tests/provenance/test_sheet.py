"""Contact sheets: every picture whole and in order, labels that fit, visible sizes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miaobi.provenance import sheet as sheets
from miaobi.provenance.sheet import ENLARGED, GROUND, WIDEST, animation, sheet


def plain(count: int, size: int = 28) -> np.ndarray:
    """Return pictures of one shade each, all different and far from the ground's."""
    shades = np.linspace(10, 160, count, dtype=np.uint8)
    return np.broadcast_to(shades[:, None, None, None], (count, size, size, 1)).copy()


class Box(NamedTuple):
    """Where a picture is on a sheet."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def size(self) -> tuple[int, int]:
        return self.bottom - self.top, self.right - self.left


def box(page: np.ndarray, shade: int) -> Box:
    """Return where a shade is, which must fill a whole rectangle."""
    y, x = np.nonzero((page == shade).all(axis=2))
    area = Box(
        top=int(y.min()),
        bottom=int(y.max()) + 1,
        left=int(x.min()),
        right=int(x.max()) + 1,
    )
    pixels = page[area.top : area.bottom, area.left : area.right]
    assert (pixels == shade).all(), "a whole rectangle"
    return area


def boxes_of(page: np.ndarray, pictures: np.ndarray) -> list[Box]:
    return [box(page, int(picture[0, 0, 0])) for picture in pictures]


def test_pictures_are_enlarged_by_whole_pixels_in_reading_order() -> None:
    page = sheet(plain(6), columns=3)
    boxes = boxes_of(page, plain(6))
    side = 28 * (ENLARGED // 28)
    assert {area.size for area in boxes} == {(side, side)}
    assert boxes == sorted(boxes, key=lambda area: (area.top, area.left))


def test_margins_and_gaps_are_even() -> None:
    page = sheet(plain(6), columns=3)
    first, second, third, fourth, *_ = boxes_of(page, plain(6))
    assert first.left == fourth.left == page.shape[1] - third.right
    gap = second.left - first.right
    assert gap == fourth.top - first.bottom == first.top
    assert tuple(page[0, 0]) == GROUND


def test_a_pattern_keeps_its_pixels() -> None:
    generator = np.random.default_rng(0)
    pattern = generator.integers(0, 150, (5, 7, 3), dtype=np.uint8)
    page = sheet([pattern], scale=3)
    enlarged = pattern.repeat(3, axis=0).repeat(3, axis=1)
    height, width = enlarged.shape[:2]
    assert (page[8:, 8:][:height, :width] == enlarged).all()


def test_grey_colour_alpha_and_sizes_mix() -> None:
    grey = np.full((40, 20), 30, np.uint8)
    colour = np.full((20, 40, 3), 60, np.uint8)
    half = np.zeros((10, 10, 4), np.uint8)
    half[..., 3] = 128
    page = sheet([grey, colour, half], columns=3, scale=1)
    assert box(page, 30).size == (40, 20)
    assert box(page, 60).size == (20, 40)
    assert box(page, 127).size == (10, 10), "half black on white"


def test_large_pictures_are_reduced_to_a_sheet_that_can_be_opened() -> None:
    page = sheet(np.zeros((9, 1500, 3000, 3), np.uint8))
    assert WIDEST - 64 < page.shape[1] < WIDEST + 64
    assert page.shape[0] < page.shape[1]


def test_labels_lie_beside_the_pictures() -> None:
    bare = sheet(plain(6), columns=3)
    full = sheet(
        plain(6),
        rows_labels=["a row", "另一行"],
        columns_labels=["−3", "0", "3"],
        captions=["0.01"] * 6,
    )
    assert full.shape[0] > bare.shape[0]
    assert full.shape[1] > bare.shape[1]
    boxes_of(full, plain(6))  # whole rectangles: no letter lies on a picture


@pytest.mark.parametrize(
    "labels",
    [{"rows_labels": ["one"]}, {"columns_labels": ["a", "b"]}, {"captions": ["x"]}],
)
def test_labels_that_do_not_match_are_refused(labels: dict[str, list[str]]) -> None:
    with pytest.raises(ValueError, match="belong to 6 pictures in 3 columns"):
        sheet(plain(6), columns=3, **labels)


def test_nothing_and_wrong_types_are_refused() -> None:
    with pytest.raises(ValueError, match="0 pictures"):
        sheet([])
    with pytest.raises(ValueError, match="uint8"):
        sheet(np.zeros((1, 4, 4, 3), np.float32))


def test_chinese_is_drawn_where_the_system_has_the_letters() -> None:
    if "CJK" not in str(getattr(sheets._font(), "path", "")):
        pytest.skip("no Noto CJK here")
    pages = set[bytes]()
    for letter in "春江潮水":
        page = sheet(plain(1), captions=[letter])
        pages.add(page.tobytes())
    assert len(pages) == 4, "letters, not boxes"


def test_without_such_a_font_it_still_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheets, "FOLDERS", ())
    sheets._font.cache_clear()
    try:
        first = sheet(plain(1), captions=["seed 3 春"])
        second = sheet(plain(1), captions=["seed 4 春"])
    finally:
        sheets._font.cache_clear()
    assert (first != second).any()


@given(st.text(max_size=60), st.integers(20, 200))
@settings(max_examples=60)
def test_any_caption_fits(text: str, width: int) -> None:
    lines = sheets._wrap(text, width)
    assert 1 <= len(lines) <= 2
    assert all(sheets._font().getlength(line) <= width for line in lines)


def test_an_animation_is_a_sheet_at_each_moment() -> None:
    frames = np.stack([plain(4), plain(4)[::-1]])
    moving = animation(frames, columns=2)
    assert len(moving) == 2
    assert (moving[0] == sheet(frames[0], 2)).all()
    assert (moving[1] == sheet(frames[1], 2)).all()


def test_each_moment_of_an_animation_has_its_own_title() -> None:
    frames = np.stack([plain(4), plain(4)])
    moving = animation(frames, columns=2)
    titled = animation(frames, columns=2, titles=["0", "+0.25"])
    assert titled.shape[1] > moving.shape[1]
    assert (titled[0][:20] != titled[1][:20]).any()
