"""Near copies in an index: which images show the same, and which of them is the best to keep.

Rows that lie near each other name the candidates; what decides are fingerprints of the images themselves, as
in a curation: rows of one model alone take two photos of a sunset for copies. The best copy has the most
pixels, then the most bytes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pyarrow as pa

from diptych.core import checks
from diptych.core.checks import Bools, Ints
from diptych.core.records import Counts
from diptych.data.captions import plain
from diptych.data.near_copies.fingerprints import fingerprint_partition
from diptych.data.near_copies.groups import DEFAULT_SETTINGS, DedupSettings, duplicate_groups
from diptych.search.index import Index
from diptych.search.items import Item
from diptych.search.query import read_images
from diptych.search.scan import approximate, bound
from diptych.search.segments import Segment

MIN_COSINE = 0.9  # from which on two images are looked at
QUERIES = 256  # rows that are compared with all others at a time
IMAGES = 64  # decoded between two fingerprints


@dataclass(frozen=True, slots=True)
class Copies:
    """An image at several places, or images that show the same; `best` is the one to keep.

    Attributes:
        near: the others that look the same; equal files are places of one item.
    """

    best: Item
    near: tuple[Item, ...]

    @property
    def count(self) -> int:
        """How many files or rows there are."""
        return sum(len(item.places) for item in (self.best, *self.near))


def duplicates(
    index: Index, *, settings: DedupSettings = DEFAULT_SETTINGS, min_cosine: float = MIN_COSINE
) -> tuple[list[Copies], Counts]:
    """Find the copies in an index, the largest groups first, and count the candidates that could be read.

    Args:
        index: the index; images are read where they stand.
        settings: what counts as a copy.
        min_cosine: cosine, in (0, 1), of two rows from which on their images are looked at.

    Raises:
        MissingPackageError: numba is not installed.
    """
    checks.fraction(min_cosine, "min_cosine")
    items = sorted(_candidates(index, min_cosine), key=_worth)
    tables, order, counts = [], list[int](), Counts()
    images = read_images(items)
    while part := list(islice(images, IMAGES)):
        order += [number for number, _ in part]
        table, read = fingerprint_partition(pa.array([data for _, data in part], pa.binary()))
        read.examples = {reason: [_name(items[order[-1]])] for reason in read.examples}
        counts.merge(read)
        tables.append(table)
    near: dict[int, list[Item]] = {}
    if tables:
        keys = pa.array([f"{number:012}" for number in order])
        kept = duplicate_groups(tables, settings=settings, keys=keys).representative
        for row in np.flatnonzero(kept != np.arange(len(kept))).tolist():
            near.setdefault(order[kept[row]], []).append(items[order[row]])
    groups = [Copies(items[best], tuple(sorted(others, key=_worth))) for best, others in near.items()]
    in_groups = {item.digest for group in groups for item in (group.best, *group.near)}
    groups += [Copies(i, ()) for i in index.items() if len(i.places) > 1 and i.digest not in in_groups]
    return sorted(groups, key=lambda group: (-group.count, _worth(group.best))), counts


def _candidates(index: Index, min_cosine: float) -> Iterator[Item]:
    """Yield the items that have a neighbor, images alone: moments of a video resemble each other."""
    for segment in index.segments:
        live = np.flatnonzero(segment.is_live())
        near = np.zeros(segment.rows, np.bool_)
        for start in range(0, len(live), QUERIES):
            rows = live[start : start + QUERIES]
            near[rows] = _has_neighbor(index.segments, segment, rows, min_cosine)
        yield from (item for item in segment.items.get(np.flatnonzero(near).tolist()) if item.seconds is None)


def _has_neighbor(segments: Sequence[Segment], own: Segment, rows: Ints, least: float) -> Bools:
    """Return (n,), which rows of a segment may have another live row at the least cosine."""
    queries = own.read(rows)
    counts = np.zeros(len(rows), np.int64)
    for segment in segments:
        limit, live = least - bound(segment.coded, queries), segment.is_live()
        for positions, scores in approximate(segment.coded, queries):
            counts += ((scores >= limit) & live[positions][:, None]).sum(axis=0)
    near: Bools = counts > 1  # each is near itself
    return near


def _worth(item: Item) -> tuple[int, int, str]:
    return -item.width * item.height, -item.bytes, _name(item)


def _name(item: Item) -> str:
    return plain(item.places[0].path or item.places[0].key)
