"""Groups of rows: in which order they are taken, which come near each other, who stays of each group.

Reads and writes: arrays.
"""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from diptych.core.checks import Bools
from diptych.core.errors import ArrayError
from diptych.data.near_copies.kernels import root_of

Rows = NDArray[np.int64]
Words64 = NDArray[np.uint64]


def rows_by_key(keys: pa.Array | pa.ChunkedArray | None, size: int) -> Rows:
    """Return the rows by rising key."""
    if keys is None:
        return np.arange(size)
    if len(keys) != size:
        raise ArrayError("every row needs a key", found=f"{len(keys)} keys", expected=f"{size}")
    order: Rows = pc.sort_indices(keys).to_numpy().astype(np.int64)
    return order


def buckets(keys: Words64, entries: Rows) -> tuple[Rows, Words64]:
    """Sort entries by key; those of one key stay in their order, and keys that stand alone are left out."""
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    twice = np.zeros(len(keys), np.bool_)
    same = keys[1:] == keys[:-1]
    twice[1:] |= same
    twice[:-1] |= same
    return entries[order][twice], keys[twice]


def stars(parents: Rows, alike: Callable[[int, Rows], Bools]) -> Rows:
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
