"""Loops over matches, compiled by numba: which pair is drawn for which query."""

from typing import Any

import numpy as np

from diptych.curate.kernels import byte_hash, mixed, njit


@njit(cache=True, nogil=True)
def row_hashes(data: Any, offsets: Any, seed: Any) -> Any:
    """Return (N,) uint64 hashes of texts, every bit depending on all of a text and the seed."""
    found = np.empty(len(offsets) - 1, np.uint64)
    for row in range(len(found)):
        found[row] = mixed(byte_hash(data, offsets[row], offsets[row + 1]) ^ mixed(seed))
    return found


@njit(cache=True, nogil=True)
def draw(keys: Any, names: Any, offsets: Any, ids: Any, limits: Any) -> Any:
    """Draw pairs for their queries.

    Args:
        keys: (N,) uint64 hashes of the pairs; names: (Q,) uint64 hashes of the queries.
        offsets: (N + 1,) and ids: (M,) the matches.
        limits: (Q,) uint64: a pair whose number for a query is below or at the limit is drawn for it.

    Returns:
        (N + 1,) int64 offsets and int32 ids of the queries for which each pair was drawn.
    """
    chosen = np.empty(len(ids), np.int32)
    ends = np.zeros(len(offsets), np.int64)
    size = 0
    for row in range(len(keys)):
        for place in range(offsets[row], offsets[row + 1]):
            query = ids[place]
            if mixed(keys[row] ^ names[query]) <= limits[query]:
                chosen[size] = query
                size += 1
        ends[row + 1] = size
    return ends, chosen[:size].copy()


@njit(cache=True, nogil=True)
def count_numbers(keys: Any, names: Any, matches: Any, heads: Any, counts: Any) -> None:
    """Count the numbers that pairs have for the queries above the cap, in bins.

    Args:
        keys: (N,) uint64; names: (Q,) uint64; matches: offsets and ids.
        heads: (Q,) int32, the place of a query among those above the cap, or -1.
        counts: (H, bins) int64, added to; a number's bin are its leading bits.
    """
    offsets, ids = matches
    shift = np.uint64(64 - int(np.log2(counts.shape[1])))
    for row in range(len(keys)):
        for place in range(offsets[row], offsets[row + 1]):
            head = heads[ids[place]]
            if head >= 0:
                counts[head, mixed(keys[row] ^ names[ids[place]]) >> shift] += 1


@njit(cache=True, nogil=True)
def numbers_in(keys: Any, names: Any, matches: Any, heads: Any, wanted: Any) -> Any:
    """Return the heads and numbers of all matches whose number lies in the wanted bin of its query.

    Args:
        keys, names, matches, heads: as for `count_numbers`.
        wanted: (H,) uint64, the bin of each head; and the shift that gives a number's bin.
    """
    offsets, ids = matches
    bins, shift = wanted
    owners, numbers = np.empty(len(ids), np.int32), np.empty(len(ids), np.uint64)
    size = 0
    for row in range(len(keys)):
        for place in range(offsets[row], offsets[row + 1]):
            head = heads[ids[place]]
            if head < 0:
                continue
            number = mixed(keys[row] ^ names[ids[place]])
            if number >> shift == bins[head]:
                owners[size], numbers[size] = head, number
                size += 1
    return owners[:size].copy(), numbers[:size].copy()
