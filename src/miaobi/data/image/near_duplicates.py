"""Pictures that a person would call the same: saved again, scaled, a little brighter.
They must not be on both sides of a split.

Two pictures count as near-duplicates when their perceptual hashes differ in at most
DISTANCE of 64 bits and their thumbnails, normalised for brightness and contrast,
correlate by at least SIMILAR. The hash (the signs of the lowest frequencies of a
32 × 32 cosine transform against their median; Zauner 2010, "Implementation and
Benchmarking of Perceptual Image Hash Functions") finds candidates quickly; the
thumbnails rule out those that merely share an outline, as handwritten ones do.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from miaobi.data.image.shapes import with_channels

SIDE = 32
"""Pixels of a side before the cosine transform."""
FREQUENCIES = 8
THUMB = 16
"""Pixels of a thumbnail's side."""
BITS = 64
DISTANCE = 6
SIMILAR = 0.99
PAIRS = 1 << 22
"""Pairs compared at once."""
SMALLEST_NORM = 1e-6
LAST_BAND = np.uint64(1 << 63)
"""No band of a hash has this value."""

Pairs = tuple[np.ndarray, np.ndarray]
"""Numbers of the first and of the second of each pair, int64 [pairs] each."""


def signature(pixels: np.ndarray) -> tuple[np.uint64, np.ndarray]:
    """Return (hash, thumbnail uint8 [THUMB, THUMB]) of a picture uint8 [C, H, W]."""
    from PIL import Image

    grey = with_channels(pixels, 1)[0]
    is_large = min(grey.shape) >= SIDE
    small = Image.fromarray(grey).resize(
        (SIDE, SIDE),
        Image.Resampling.BOX if is_large else Image.Resampling.BILINEAR,
    )
    values = np.asarray(small)
    spectrum = (_COSINES @ values.astype(np.float32) @ _COSINES.T).ravel()
    bits = spectrum > np.median(spectrum[1:])
    bits[0] = False  # the brightness
    digest = np.packbits(bits).view(">u8").astype(np.uint64)[0]
    factor = SIDE // THUMB
    blocks = values.reshape(THUMB, factor, THUMB, factor)
    return digest, blocks.mean((1, 3)).astype(np.uint8)


_COSINES = np.cos(
    np.pi / SIDE * (np.arange(SIDE) + 0.5) * np.arange(FREQUENCIES)[:, None]
).astype(np.float32)
"""The lowest rows of the discrete cosine transform II, [FREQUENCIES, SIDE]."""


def groups(hashes: np.ndarray, thumbs: np.ndarray) -> np.ndarray:
    """Return the number of each item's group, int64 [N]: the lowest number among those
    it is linked with, directly or through others.

    Items are linked where any of their pictures are near-duplicates.

    Args:
        hashes: uint64 [N, K], for the K pictures of an item (2 for a pair)
        thumbs: uint8 [N, K, THUMB, THUMB]
    """
    count, pictures = hashes.shape
    parents = np.arange(count)
    normalised = _normalised(thumbs.reshape(hashes.size, -1))
    for first, second in neighbours(hashes.ravel()):
        correlation = np.einsum("ij,ij->i", normalised[first], normalised[second])
        same = correlation >= SIMILAR
        items = (first[same] // pictures).tolist()
        others = (second[same] // pictures).tolist()
        for item, other in zip(items, others, strict=True):
            _join(parents, item, other)
    return np.array([_root(parents, item) for item in range(count)], dtype=np.int64)


def _normalised(thumbs: np.ndarray) -> np.ndarray:
    """Thumbnails with mean 0 and norm 1, float32 [pictures, THUMB²]."""
    centred = thumbs.astype(np.float32)
    centred -= centred.mean(1, keepdims=True)
    norms = np.linalg.norm(centred, axis=1, keepdims=True)
    centred /= np.maximum(norms, SMALLEST_NORM)
    return centred


def _join(parents: np.ndarray, item: int, other: int) -> None:
    """Put two items into one group (union-find); the lowest number is its root."""
    low, high = sorted((_root(parents, item), _root(parents, other)))
    parents[high] = low


def _root(parents: np.ndarray, item: int) -> int:
    while parents[item] != item:
        parents[item] = parents[parents[item]]
        item = int(parents[item])
    return item


def neighbours(hashes: np.ndarray, distance: int = DISTANCE) -> list[Pairs]:
    """Return all pairs (first < second) whose hashes differ in at most `distance` bits,
    in pieces; a pair may come more than once.

    Hashes that differ in d bits are equal in one of d + 1 bands at least, so only those
    that share a band are compared.
    """
    edges = np.linspace(0, BITS, distance + 2).astype(int)
    pieces = list[Pairs]()
    for low, high in itertools.pairwise(edges):
        mask = np.uint64((1 << int(high - low)) - 1)
        band = (hashes >> np.uint64(low)) & mask
        for members in _equal(band):
            step = max(1, PAIRS // len(members))
            for start in range(0, len(members) - 1, step):
                first, second = _close(hashes, members, start, start + step, distance)
                if len(first):
                    pieces.append((first, second))
    return pieces


def _equal(band: np.ndarray) -> Iterator[np.ndarray]:
    """The numbers of the hashes that are equal in a band, int64 [members], for each of
    its values.
    """
    order = np.argsort(band, kind="stable")
    changes = np.diff(band[order], prepend=LAST_BAND, append=LAST_BAND)
    edges = np.flatnonzero(changes)
    for first, last in itertools.pairwise(edges):
        yield order[first:last]


def _close(
    hashes: np.ndarray, members: np.ndarray, start: int, stop: int, distance: int
) -> Pairs:
    """Pairs of a band's members, each of members[start:stop] with all that follow it."""
    firsts = members[start:stop]
    seconds = members[start + 1 :]
    differing = np.bitwise_count(hashes[firsts][:, None] ^ hashes[seconds][None])
    follows = np.arange(len(firsts))[:, None] <= np.arange(len(seconds))
    row, column = np.nonzero((differing <= distance) & follows)
    return firsts[row], seconds[column]
