"""The loops of balancing: a number from 0 to 2^64 for every pair and query, and what follows from it."""

from typing import Any

import numpy as np

from diptych.curate.kernels import byte_hash, mixed, njit

ALWAYS = np.uint64(0xFFFFFFFFFFFFFFFF)
"""The threshold under which every number counts as being, this one itself too."""


@njit(cache=True, nogil=True)
def text_hashes(data: Any, offsets: Any, salt: Any) -> Any:
    """Return (N,) uint64 hashes of texts: splitmix64 of (FNV-1a of the bytes, exclusive or salt)."""
    hashes = np.empty(len(offsets) - 1, np.uint64)
    for row in range(len(hashes)):
        hashes[row] = mixed(byte_hash(data, offsets[row], offsets[row + 1]) ^ salt)
    return hashes


@njit(cache=True, nogil=True)
def drawn(pairs: Any, offsets: Any, ids: Any, queries: Any, below: Any) -> Any:
    """Draw every pair for each of its queries.

    Args:
        pairs: (N,) uint64 hashes of their keys.
        offsets: (N + 1,) int64.
        ids: (M,) int32.
        queries: (Q,) uint64 hashes.
        below: (Q,) uint64: a pair is drawn if its number is less, or if this is ALWAYS.

    Returns:
        (N + 1,) int64 offsets and int32 ids of the queries for which each was drawn.
    """
    out, out_offsets, size = np.empty(len(ids), np.int32), np.zeros(len(offsets), np.int64), 0
    for row in range(len(pairs)):
        for place in range(offsets[row], offsets[row + 1]):
            query = ids[place]
            number = mixed(pairs[row] ^ queries[query])
            if number < below[query] or below[query] == ALWAYS:
                out[size] = query
                size += 1
        out_offsets[row + 1] = size
    return out_offsets, out[:size].copy()


@njit(cache=True, nogil=True)
def count_numbers(
    pairs: Any, offsets: Any, ids: Any, queries: Any, heads: Any, lows: Any, shifts: Any, bins: Any
) -> None:
    """Count the numbers of some queries' pairs, in bins of equal width.

    Args:
        pairs: (N,) uint64 hashes of their keys.
        offsets: (N + 1,) int64.
        ids: (M,) int32.
        queries: (Q,) uint64 hashes.
        heads: (Q,) int32: which row of the following belongs to a query, or -1.
        lows: (H,) uint64: where the first bin begins.
        shifts: (H,) uint64: a bin is 2 to this power wide.
        bins: (H, 1 + B) int64, added to: numbers below the first bin, then in each; none beyond.
    """
    most = np.uint64(bins.shape[1] - 1)
    for row in range(len(pairs)):
        for place in range(offsets[row], offsets[row + 1]):
            head = heads[ids[place]]
            if head < 0:
                continue
            number = mixed(pairs[row] ^ queries[ids[place]])
            chosen = (number - lows[head]) >> shifts[head]
            if number < lows[head]:
                bins[head, 0] += 1
            elif chosen < most:
                bins[head, np.int64(chosen) + 1] += 1
