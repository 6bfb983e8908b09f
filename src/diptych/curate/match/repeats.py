"""Keys that were met before, over all tables of candidates.

Keys are compared by 64-bit hashes: sixteen bytes of memory a pair. (Of a billion different keys two share a
hash in one of forty runs, and one pair is then lost.)

Reads: tables of candidates, one after the other. Writes: `doubles.npy` and `starts.npy`.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from diptych.core.errors import Reason
from diptych.core.files.arrays import load_array, save_array
from diptych.core.records import Counts
from diptych.curate.kernels import row_hashes
from diptych.curate.words import text_buffers

SEED = np.uint64(0)


def save_repeats(folder: Path, partitions: Iterable[pa.Table]) -> None:
    """Find the rows whose key an earlier row has.

    Args:
        folder: for the rows, counted over all partitions, and for the first row of each partition.
        partitions: the tables, with `key`.
    """
    parts = [row_hashes(*text_buffers(table["key"]), SEED) for table in partitions]
    hashes = np.concatenate([np.zeros(0, np.uint64), *parts])
    order = np.argsort(hashes, kind="stable")
    same = np.flatnonzero(hashes[order][1:] == hashes[order][:-1]) + 1
    save_array(folder / "doubles.npy", np.sort(order[same]).astype(np.int64))
    save_array(folder / "starts.npy", np.cumsum([0, *map(len, parts)], dtype=np.int64))


def first_of_their_keys(folder: Path, partition: int, table: pa.Table, counts: Counts) -> NDArray[np.bool_]:
    """Return (N,) bool: rows of a partition whose key was not met before; the others are counted."""
    doubles, starts = load_array(folder / "doubles.npy"), load_array(folder / "starts.npy")
    low, high = np.searchsorted(doubles, starts[partition : partition + 2])
    keep = np.ones(table.num_rows, bool)
    keep[doubles[low:high] - starts[partition]] = False
    for row in np.flatnonzero(~keep):
        counts.drop(Reason.DUPLICATE_KEY, table["key"][int(row)].as_py())
    return keep
