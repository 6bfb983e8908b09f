"""Find copies of images: equal bytes, equal pixels, or nearly equal to the eye.

A copy is always near the one that stays itself: groups are found as connected components and then cut into
stars, so a chain of small steps does not make copies of images that have nothing in common. Rows are taken
by rising key: the groups depend neither on the order of tables nor on who made them.

Source: Norouzi et al. 2012, "Fast Search in Hamming Space with Multi-Index Hashing" (neighbors share parts
of their hashes).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from diptych.core.checks import Bools
from diptych.core.errors import ArrayError
from diptych.data.near_copies.fingerprints import FINGERPRINTS, column_bytes, hashes_of
from diptych.data.near_copies.kernels import join_neighbors, join_rows, resembling

Rows = NDArray[np.int64]
Words64 = NDArray[np.uint64]

DIGESTS = ("sha256", "pixels")
HASH_PARTS = 8
"""A 64-bit hash is eight bytes; a table's key is one, two or three of them, so that buckets stay small."""
ONE_PART, TWO_PARTS = 1 << 17, 1 << 24
"""Up to so many hashes keys of one byte (8 tables; all pairs within 7 bits are found), of two (28; 6), else
of three (56; 5). Most pairs beyond are found too: a pair has eleven chances."""


@dataclass(frozen=True, slots=True)
class DedupSettings:
    """What counts as a copy.

    Attributes:
        near: find images that are nearly equal, besides those of equal bytes or pixels.
        max_bits: most bits of 64 in which the perceptual hashes of an image and its copy differ.
        min_similarity: least share of a thumbnail's variance that the other one explains, in (0, 1]. Raise it
            where all images are of one kind (products on white): different ones look alike there.
        min_chroma: least cosine between the colors of two thumbnails, unless one image is gray.
        shingle_words: words of a caption that are looked at together.
        min_caption_similarity: least estimated Jaccard similarity of two captions' shingles, in (0, 1].
        blocked_images: file of hashes, one a line, of images that must not stay; or empty.
        blocked_bits: most bits of 64 in which an image differs from a blocked perceptual hash.
    """

    near: bool = True
    max_bits: int = 10
    min_similarity: float = 0.9
    min_chroma: float = 0.8
    shingle_words: int = 2
    min_caption_similarity: float = 0.8
    blocked_images: str = ""
    blocked_bits: int = 4

    @property
    def limits(self) -> tuple[int, float, float]:
        """What the kernels need to compare two images."""
        return self.max_bits, self.min_similarity, self.min_chroma


DEFAULT_SETTINGS = DedupSettings()


@dataclass(frozen=True, slots=True)
class Groups:
    """Which row is a copy of which.

    Attributes:
        representative: (N,) int64, the row that stays for each row: itself, if it stays.
        equal: (N,) bool, whether a copy has the bytes or the pixels of the row that stays.
    """

    representative: Rows
    equal: Bools


def duplicate_groups(
    fingerprints: Iterable[pa.Table],
    *,
    settings: DedupSettings = DEFAULT_SETTINGS,
    keys: pa.Array | pa.ChunkedArray | None = None,
) -> Groups:
    """Group images by what they show; about 900 bytes of memory a row.

    Args:
        fingerprints: tables of `FINGERPRINTS`, together N rows; unreadable images are copies of nothing.
        settings: what counts as a copy.
        keys: (N,) unique names. The image with the lowest key stays, in whatever order the tables come.
            Without keys the first row stays.
    """
    table = _together(fingerprints)
    order: Rows = np.arange(len(table))
    if keys is not None:
        if len(keys) != len(table):
            raise ArrayError("every row needs a key", found=f"{len(keys)} keys", expected=f"{len(table)}")
        order = pc.sort_indices(keys).to_numpy().astype(np.int64)
        table = table.take(pa.array(order))
    first = _first_equal(table)
    representative = first
    if settings.near:
        kept = np.flatnonzero(first == np.arange(len(first)))
        hashes, thumbnails = hashes_of(table)[kept], column_bytes(table, "thumbnail")[kept]
        roots = _joined(hashes, thumbnails, np.arange(len(kept)), settings)
        near = np.arange(len(first))
        near[kept] = kept[_stars(roots, hashes, thumbnails, settings)]
        representative = near[first]
    equal = (representative == first) & (first != np.arange(len(first)))
    result, flags = np.empty_like(first), np.empty_like(equal)
    result[order], flags[order] = order[representative], equal
    return Groups(result, flags)


def in_both(
    training: Iterable[pa.Table], evaluation: pa.Table, *, settings: DedupSettings = DEFAULT_SETTINGS
) -> tuple[Bools, Bools]:
    """Tell which of N training images, in tables of `FINGERPRINTS` read one by one, are in an evaluation set.

    Returns:
        (N,) bool and (M,) bool, for the M images of the evaluation: which have a copy on the other side.
    """
    there = np.zeros(len(evaluation), np.bool_)
    here = [np.zeros(0, np.bool_)]
    for part in training:
        table = _together([evaluation, part])
        sides = (np.arange(len(table)) >= len(evaluation)).astype(np.int64)
        groups = [_digest_numbers(table, name) for name in DIGESTS]
        if settings.near:
            groups.append(_joined(hashes_of(table), column_bytes(table, "thumbnail"), sides, settings))
        found = np.zeros(len(table), np.bool_)
        for numbers in groups:
            left, right = (np.isin(numbers, numbers[sides == side]) for side in (0, 1))
            found |= left & right & (numbers >= 0)
        there |= found[: len(evaluation)]
        here.append(found[len(evaluation) :])
    return np.concatenate(here), there


def _together(tables: Iterable[pa.Table]) -> pa.Table:
    parts = [table.select(FINGERPRINTS.names) for table in tables]
    return pa.concat_tables(parts).combine_chunks() if parts else FINGERPRINTS.empty_table()


def _digest_numbers(table: pa.Table, name: str) -> Rows:
    """Return (N,) numbers, equal where the digests are; -1 where there is none."""
    numbers: Rows = table.column(name).combine_chunks().dictionary_encode().indices.fill_null(-1).to_numpy()
    return numbers.astype(np.int64)


def _first_equal(table: pa.Table) -> Rows:
    """Return for each row the first one with its bytes or its pixels."""
    parents = np.arange(len(table))
    for name in DIGESTS:
        numbers = _digest_numbers(table, name)
        rows = np.flatnonzero(numbers >= 0)
        first = np.empty(len(table), np.int64)
        first[numbers[rows[::-1]]] = rows[::-1]  # of several the last assignment stays: the lowest row's
        for row, leader in zip(rows, first[numbers[rows]], strict=True):
            if row != leader:
                join_rows(parents, int(row), int(leader))
    return _roots(parents)


def _joined(hashes: Words64, thumbnails: NDArray[np.uint8], sides: Rows, settings: DedupSettings) -> Rows:
    """Join near rows of different sides through every table of keys; return the first row of each group.

    Images without structure, whose hashes are zero, are near to none.
    """
    parents = np.arange(len(hashes))
    entries = np.flatnonzero(hashes)
    values = hashes.reshape(-1)[entries]
    parts = 1 if len(entries) <= ONE_PART else 2 if len(entries) <= TWO_PARTS else 3
    for chosen in combinations(range(HASH_PARTS), parts):
        keys = values & np.uint64(sum(0xFF << (8 * part) for part in chosen))
        order = np.argsort(keys, kind="stable")
        rows, keys = entries[order], keys[order]
        join_neighbors(rows, keys, hashes, np.ascontiguousarray(thumbnails), sides, parents, settings.limits)
    return _roots(parents)


def _roots(parents: Rows) -> Rows:
    while not np.array_equal(above := parents[parents], parents):
        parents = above
    return parents


def _stars(roots: Rows, hashes: Words64, thumbnails: NDArray[np.uint8], settings: DedupSettings) -> Rows:
    """Cut components into stars: the first row leads all that it resembles, then the first of those left."""
    representative = np.arange(len(roots))
    order = np.argsort(roots, kind="stable")
    starts = np.flatnonzero(np.diff(roots[order], prepend=-1))
    sizes = np.diff(starts, append=len(order))
    for start, size in zip(starts[sizes > 1], sizes[sizes > 1], strict=True):
        members = order[start : start + size]
        while len(members) > 1:
            leader, members = members[0], members[1:]
            near = resembling(leader, members, hashes, thumbnails, settings.limits)
            representative[members[near]] = leader
            members = members[~near]
    return representative
