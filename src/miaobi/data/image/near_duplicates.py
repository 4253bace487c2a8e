"""Pictures that a person would call the same: saved again, scaled, a little brighter.
They must not stand on both sides of a split.

Two pictures count as near-duplicates when their perceptual hashes differ in at most
DISTANCE of 64 bits and their thumbnails, freed of brightness and contrast, correlate by
at least SIMILAR. The hash (the signs of the lowest frequencies of a 32 × 32 cosine
transform against their median; Zauner 2010, "Implementation and Benchmarking of
Perceptual Image Hash Functions") finds candidates quickly; the thumbnails rule out
those that merely share an outline, as handwritten ones do.
"""

from __future__ import annotations

import itertools

import numpy as np

from miaobi.data.image.shapes import with_channels

SIDE, LOW = 32, 8
DISTANCE = 6
SIMILAR = 0.99
THUMB = 16
ROWS = 1 << 22
"""Pairs compared at once."""


def signature(pixels: np.ndarray) -> tuple[np.uint64, np.ndarray]:
    """(hash, thumbnail uint8 [THUMB, THUMB]) of a picture uint8 [C, H, W]."""
    from PIL import Image

    grey = with_channels(pixels, 1)[0]
    picture = Image.fromarray(grey)
    small = np.asarray(
        picture.resize(
            (SIDE, SIDE),
            Image.Resampling.BOX
            if min(grey.shape) >= SIDE
            else Image.Resampling.BILINEAR,
        )
    )
    low = _COSINES @ small.astype(np.float32) @ _COSINES.T
    bits = low.ravel() > np.median(low.ravel()[1:])
    bits[0] = False  # the brightness
    return np.packbits(bits).view(">u8").astype(np.uint64)[0], small.reshape(
        THUMB, 2, THUMB, 2
    ).mean((1, 3)).astype(np.uint8)


_COSINES = np.cos(
    np.pi / SIDE * (np.arange(SIDE) + 0.5) * np.arange(LOW)[:, None]
).astype(np.float32)
"""The lowest rows of the discrete cosine transform II, [LOW, SIDE]."""


def groups(hashes: np.ndarray, thumbs: np.ndarray) -> np.ndarray:
    """Number of each item's group, int64 [N]: the lowest number among those it is
    linked with, directly or through others.

    hashes: uint64 [N, K]; thumbs: uint8 [N, K, THUMB, THUMB]: the K pictures of an item
        (2 for a pair). Items are linked where any of their pictures are
        near-duplicates.
    """
    parent, looks = np.arange(len(hashes)), hashes.shape[1]
    flat = thumbs.reshape(hashes.size, -1).astype(np.float32)
    flat -= flat.mean(1, keepdims=True)
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    for first, second in neighbours(hashes.ravel()):
        same = np.einsum("ij,ij->i", flat[first], flat[second]) >= SIMILAR
        for a, b in zip(
            (first[same] // looks).tolist(),
            (second[same] // looks).tolist(),
            strict=True,
        ):
            low, high = sorted((_root(parent, a), _root(parent, b)))
            parent[high] = low
    return np.array(
        [_root(parent, place) for place in range(len(parent))], dtype=np.int64
    )


def _root(parent: np.ndarray, place: int) -> int:
    while parent[place] != place:
        parent[place] = parent[parent[place]]
        place = int(parent[place])
    return place


def neighbours(
    hashes: np.ndarray, distance: int = DISTANCE
) -> list[tuple[np.ndarray, np.ndarray]]:
    """All pairs (first < second) whose hashes differ in at most `distance` bits, in
    pieces; a pair may come more than once.

    Hashes that differ in d bits are equal in one of d + 1 bands at least, so only those
    that share a band are compared.
    """
    edges = np.linspace(0, 64, distance + 2).astype(int)
    found = []
    for low, high in itertools.pairwise(edges):
        band = (hashes >> np.uint64(low)) & np.uint64((1 << int(high - low)) - 1)
        order = np.argsort(band, kind="stable")
        starts = np.flatnonzero(
            np.diff(band[order], prepend=np.uint64(1 << 63), append=np.uint64(1 << 63))
        )
        for start, stop in itertools.pairwise(starts):
            members = order[start:stop]
            rows = max(1, ROWS // len(members))
            for at in range(0, len(members) - 1, rows):
                found += _close(hashes, members, at, at + rows, distance)
    return found


def _close(
    hashes: np.ndarray, members: np.ndarray, start: int, stop: int, distance: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs of a band's members, each of members[start:stop] with all that follow it."""
    mine, others = members[start:stop], members[start + 1 :]
    apart = np.bitwise_count(hashes[mine][:, None] ^ hashes[others][None])
    row, column = np.nonzero(
        (apart <= distance) & (np.arange(len(mine))[:, None] <= np.arange(len(others)))
    )
    return [(mine[row], others[column])] if len(row) else []
