"""Find copies of images: equal bytes, equal pixels, or nearly equal to the eye.

A copy is always near the one that stays itself: groups are found as connected components and then cut into
stars, so a chain of small steps does not make copies of images that have nothing in common. Rows are taken
by rising key: the groups depend neither on the order of tables nor on who made them.

Source: Norouzi et al. 2012, "Fast Search in Hamming Space with Multi-Index Hashing" (neighbors share parts
of their hashes).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from diptych.core.checks import Bools
from diptych.core.errors import ArrayError
from diptych.data.near_copies.fingerprints import FINGERPRINTS, WINDOWS, column_bytes, hashes_of
from diptych.data.near_copies.kernels import join_neighbors, join_rows, resembling, root_of

Rows = NDArray[np.int64]
Words64 = NDArray[np.uint64]

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
    """Who is a copy of whom.

    Attributes:
        representative: (N,) int64, the row that stays for each row: itself, if it stays.
        equal: (N,) bool, whether a copy has the bytes or the pixels of the row that stays.
    """

    representative: Rows
    equal: Bools

    @property
    def copies(self) -> Bools:
        """(N,) bool, the rows that go."""
        gone: Bools = self.representative != np.arange(len(self.representative))
        return gone


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

    Returns:
        The groups.
    """
    table = _together(fingerprints)
    order = _rows_by_key(keys, len(table))
    table = table.take(pa.array(order)) if keys is not None else table
    first = _first_equal(table)
    representative = first
    if settings.near:
        kept = np.flatnonzero((first == np.arange(len(first))) & _column_is_valid(table, "hashes"))
        hashes, thumbnails = hashes_of(table)[kept], column_bytes(table, "thumbnail")[kept]
        leaders = _neighbors(hashes, thumbnails, settings)
        near = np.arange(len(first))
        near[kept] = kept[leaders]
        representative = near[first]
    equal = (representative == first) & (first != np.arange(len(first)))
    result, flags = np.empty_like(first), np.empty_like(equal)
    result[order], flags[order] = order[representative], equal
    return Groups(result, flags)


def in_both(
    training: Iterable[pa.Table], evaluation: pa.Table, *, settings: DedupSettings = DEFAULT_SETTINGS
) -> tuple[Bools, Bools]:
    """Find the images of an evaluation set that are also in a training set.

    Args:
        training: tables of `FINGERPRINTS`, one after the other in memory; together N rows.
        evaluation: `FINGERPRINTS` of the M images that are held against them.
        settings: what counts as a copy.

    Returns:
        (N,) bool and (M,) bool: who has a copy on the other side.
    """
    there = np.zeros(len(evaluation), np.bool_)
    here = [np.zeros(0, np.bool_)]
    for table in training:
        both = pa.concat_tables([evaluation.select(FINGERPRINTS.names), table.select(FINGERPRINTS.names)])
        found = _crossing(both, len(evaluation), settings)
        there |= found[: len(evaluation)]
        here.append(found[len(evaluation) :])
    return np.concatenate(here), there


def _together(tables: Iterable[pa.Table]) -> pa.Table:
    parts = [table.select(FINGERPRINTS.names) for table in tables]
    return pa.concat_tables(parts).combine_chunks() if parts else FINGERPRINTS.empty_table()


def _column_is_valid(table: pa.Table, name: str) -> Bools:
    valid: Bools = pc.is_valid(table.column(name)).to_numpy()
    return valid


def _first_equal(table: pa.Table) -> Rows:
    """Return for each row the first one with its bytes or its pixels."""
    parents = np.arange(len(table))
    for name in ("sha256", "pixels"):
        rows = np.flatnonzero(_column_is_valid(table, name))
        digests = column_bytes(table, name)[rows]
        # 128 bits of a cryptographic digest: no two files share them by chance.
        halves = np.ascontiguousarray(digests[:, :16]).view(np.uint64)
        order = np.lexsort((rows, halves[:, 1], halves[:, 0]))
        same = (halves[order[1:]] == halves[order[:-1]]).all(axis=1)
        for place in np.flatnonzero(same):
            join_rows(parents, int(rows[order[place]]), int(rows[order[place + 1]]))
    return np.array([root_of(parents, row) for row in range(len(parents))], np.int64)


def _neighbors(hashes: Words64, thumbnails: NDArray[np.uint8], settings: DedupSettings) -> Rows:
    parents = np.arange(len(hashes))
    _join_tables(hashes, thumbnails, np.zeros(0, np.uint8), parents, settings)

    def alike(one: int, others: Rows) -> Bools:
        found: Bools = resembling(one, others, hashes, thumbnails, settings.limits)
        return found

    return _stars(parents, alike)


def _crossing(table: pa.Table, boundary: int, settings: DedupSettings) -> Bools:
    """Tell which rows of either side of a boundary have a copy on the other."""
    sides = (np.arange(len(table)) >= boundary).astype(np.uint8)
    found = np.zeros(len(table), np.bool_)
    for name in ("sha256", "pixels"):
        digests = column_bytes(table, name)
        valid = _column_is_valid(table, name)
        halves = np.ascontiguousarray(digests[:, :16]).view(np.uint64)
        mixed = halves[:, 0]
        found |= valid & np.where(sides == 0, np.isin(mixed, mixed[(sides == 1) & valid]), False)
        found |= valid & np.where(sides == 1, np.isin(mixed, mixed[(sides == 0) & valid]), False)
    if settings.near:
        parents = np.arange(len(table))
        _join_tables(hashes_of(table), column_bytes(table, "thumbnail"), sides, parents, settings)
        roots = np.array([root_of(parents, row) for row in range(len(parents))], np.int64)
        found |= np.bincount(roots, minlength=len(roots))[roots] > 1  # all joins cross the boundary
    return found


def _join_tables(
    hashes: Words64,
    thumbnails: NDArray[np.uint8],
    sides: NDArray[np.uint8],
    parents: Rows,
    settings: DedupSettings,
) -> None:
    """Join near rows through every table of keys; images without structure are near to none."""
    entries = np.flatnonzero(hashes.reshape(-1))
    if not len(entries):
        return
    values = hashes.reshape(-1)[entries]
    parts = 1 if len(entries) <= ONE_PART else 2 if len(entries) <= TWO_PARTS else 3
    for chosen in combinations(range(HASH_PARTS), parts):
        mask = np.uint64(sum(0xFF << (8 * part) for part in chosen))
        rows, keys = _buckets(values & mask, entries)
        join_neighbors(rows, keys, hashes, np.ascontiguousarray(thumbnails), sides, parents, settings.limits)


assert len(WINDOWS) * HASH_PARTS == FINGERPRINTS.field("hashes").type.byte_width


def _rows_by_key(keys: pa.Array | pa.ChunkedArray | None, size: int) -> Rows:
    """Return the rows by rising key."""
    if keys is None:
        return np.arange(size)
    if len(keys) != size:
        raise ArrayError("every row needs a key", found=f"{len(keys)} keys", expected=f"{size}")
    order: Rows = pc.sort_indices(keys).to_numpy().astype(np.int64)
    return order


def _buckets(keys: Words64, entries: Rows) -> tuple[Rows, Words64]:
    """Sort entries by key; those of one key stay in their order, and keys that stand alone are left out."""
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    twice = np.zeros(len(keys), np.bool_)
    same = keys[1:] == keys[:-1]
    twice[1:] |= same
    twice[:-1] |= same
    return entries[order][twice], keys[twice]


def _stars(parents: Rows, alike: Callable[[int, Rows], Bools]) -> Rows:
    """Cut components into stars: the first row leads all that it resembles, then the first of those left."""
    roots = np.array([root_of(parents, row) for row in range(len(parents))], np.int64)
    representative = np.arange(len(parents))
    order = np.argsort(roots, kind="stable")
    starts = np.flatnonzero(np.diff(roots[order], prepend=-1))
    sizes = np.diff(starts, append=len(order))
    for start, size in zip(starts[sizes > 1], sizes[sizes > 1], strict=True):
        members = order[start : start + size]
        while len(members) > 1:
            leader, members = members[0], members[1:]
            near = alike(int(leader), members)
            representative[members[near]] = leader
            members = members[~near]
    return representative
