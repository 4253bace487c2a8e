"""Near-duplicates: candidates are found exactly, copies are recognised, look-alikes are
not, and groups stay on one side of a split.
"""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from miaobi.data.image import near_duplicates
from miaobi.data.splitting import (
    DROPPED,
    TEST,
    TRAIN,
    VALIDATION,
    assign_groups,
    joined_groups,
)


@given(
    arrays.arrays(np.uint64, st.integers(2, 40), elements=st.integers(0, 2**64 - 1)),
    st.integers(0, 12),
    st.integers(0, 9),
)
def test_neighbours_are_all_pairs_within_the_distance(
    hashes: np.ndarray, flips: int, distance: int
) -> None:
    """Against the comparison of every pair; half of the hashes are copies with a few
    bits changed.
    """
    draw = np.random.default_rng(flips)
    masks = np.bitwise_or.reduce(
        np.uint64(1)
        << draw.integers(0, 64, (len(hashes), max(1, flips)), dtype=np.uint64),
        axis=1,
    )
    hashes = np.concatenate([hashes, hashes ^ masks])
    apart = np.bitwise_count(hashes[:, None] ^ hashes[None])
    expected = {
        (a, b)
        for a in range(len(hashes))
        for b in range(a + 1, len(hashes))
        if apart[a, b] <= distance
    }
    pairs = [
        (a, b)
        for first, second in near_duplicates.neighbours(hashes, distance)
        for a, b in zip(first.tolist(), second.tolist(), strict=True)
    ]
    assert set(pairs) == expected


def photo(seed: int, side: int = 96) -> Image.Image:
    """Smooth random colours, as different from each other as photographs are."""
    draw = np.random.default_rng(seed)
    return Image.fromarray(draw.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize(
        (side, side), Image.Resampling.BICUBIC
    )


def looks(*pictures: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    signatures = [
        near_duplicates.signature(np.asarray(picture.convert("RGB")).transpose(2, 0, 1))
        for picture in pictures
    ]
    return np.array([[bits] for bits, _ in signatures]), np.stack(
        [thumb[None] for _, thumb in signatures]
    )


def again(picture: Image.Image, quality: int) -> Image.Image:
    held = io.BytesIO()
    picture.save(held, "JPEG", quality=quality)
    return Image.open(held)


@pytest.mark.parametrize(
    "change",
    [
        lambda picture: again(picture, 40),
        lambda picture: picture.resize((60, 60), Image.Resampling.LANCZOS).resize(
            (96, 96)
        ),
        lambda picture: picture.point(lambda value: round(value * 0.85 + 10)),
        lambda picture: picture.convert("L").convert("RGB"),
    ],
    ids=["recompressed", "rescaled", "darker", "grey"],
)
def test_a_copy_is_recognised(change: object) -> None:
    originals = [photo(seed) for seed in range(60)]
    groups = near_duplicates.groups(
        *looks(*originals, *(change(picture) for picture in originals))
    )  # type: ignore[operator]
    together = (groups[60:] == np.arange(60)).mean()
    assert together >= 0.95
    assert len(np.unique(groups[:60])) == 60, "different pictures stay apart"


def test_a_pair_is_linked_by_either_of_its_pictures() -> None:
    a, b, c, d = (looks(photo(seed)) for seed in range(4))
    rows = [(a, c), (b, c), (d, d)]
    hashes = np.stack(
        [np.concatenate([first[0][0], second[0][0]]) for first, second in rows]
    )
    thumbs = np.stack(
        [np.concatenate([first[1][0], second[1][0]]) for first, second in rows]
    )
    assert near_duplicates.groups(hashes, thumbs).tolist() == [0, 0, 2]


def test_flat_pictures_are_not_all_one() -> None:
    flat = [Image.new("RGB", (32, 32), (level,) * 3) for level in (0, 90, 255)]
    assert near_duplicates.groups(*looks(*flat)).tolist() == [0, 1, 2]


@given(
    st.lists(st.integers(0, 8), min_size=1, max_size=120),
    st.floats(0, 0.4),
    st.floats(0, 0.4),
    st.integers(0, 5),
)
def test_no_group_is_divided(
    members: list[int], validation: float, test: float, seed: int
) -> None:
    groups = np.array(members)
    digests = np.random.default_rng(seed).integers(
        0, 2**64, len(groups), dtype=np.uint64
    )
    splits = assign_groups(
        digests, groups, np.full(len(groups), DROPPED, np.uint8), validation, test
    )
    assert all(len(set(splits[groups == group].tolist())) == 1 for group in members)
    assert (splits == TRAIN).any()
    assert not (splits == DROPPED).any()


def test_shares_are_met_and_do_not_depend_on_the_order() -> None:
    draw = np.random.default_rng(0)
    digests, groups, none = (
        draw.integers(0, 2**64, 2000, dtype=np.uint64),
        np.arange(2000),
        np.full(2000, DROPPED, np.uint8),
    )
    splits = assign_groups(digests, groups, none, 0.1, 0.2)
    assert [(splits == split).sum() for split in (TRAIN, VALIDATION, TEST)] == [
        1400,
        200,
        400,
    ]
    order = draw.permutation(2000)
    np.testing.assert_array_equal(
        assign_groups(digests[order], groups, none, 0.1, 0.2), splits[order]
    )


def test_the_source_s_test_split_stays_and_its_copies_leave_the_training() -> None:
    source_splits = np.array([TRAIN, TRAIN, DROPPED, TEST, DROPPED, DROPPED], np.uint8)
    splits = assign_groups(
        np.arange(6, dtype=np.uint64),
        np.array([0, 1, 2, 1, 4, 5]),
        source_splits,
        0.25,
        0.5,
    )
    assert splits[3] == TEST
    assert splits[1] == DROPPED
    assert (splits == TEST).sum() == 1, "the source has a test split; none is drawn"
    assert (splits == VALIDATION).sum() == 1


def test_two_groupings_become_the_finest_that_parts_neither() -> None:
    first, second = np.array([0, 0, 1, 2, 3, 4]), np.array([9, 8, 8, 7, 6, 6])
    assert joined_groups(first, second).tolist() == [0, 0, 0, 3, 4, 4]
