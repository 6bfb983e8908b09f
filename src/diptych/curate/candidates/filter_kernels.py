"""Loops of filter over the bytes of whole columns, compiled by numba."""

from typing import Any

import numpy as np
from numba import njit

_OFFSET, _PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
_MIX, _SHIFT = np.uint64(0x9E3779B97F4A7C15), np.uint64(32)


@njit(cache=True, nogil=True)
def text_hashes(data: Any, offsets: Any) -> Any:
    """Return a number for each text (FNV-1a, 64 bits, with its high bits mixed into the low ones).

    Args:
        data: uint8, the texts' bytes.
        offsets: (N + 1,) int64.

    Returns:
        (N,) uint64.
    """
    hashes = np.empty(len(offsets) - 1, np.uint64)
    for row in range(len(hashes)):
        value = _OFFSET
        for place in range(offsets[row], offsets[row + 1]):
            value = (value ^ np.uint64(data[place])) * _PRIME
        value = (value ^ (value >> _SHIFT)) * _MIX
        hashes[row] = value ^ (value >> _SHIFT)
    return hashes
