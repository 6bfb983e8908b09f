"""What the compiled loops of curation share: numba's decorator, growing arrays, hashes of bytes.

The loops work on flat arrays and return flat arrays: a Python object per text would cost more than its words.
"""

from typing import Any

import numpy as np

from diptych.core.errors import MissingPackageError

try:
    from numba import njit as njit
except ImportError as error:
    raise MissingPackageError(
        "matching and counting need a package that is not installed",
        found=str(error), expected="numba", fix="pip install 'diptych[curate]'",
    ) from error  # fmt: skip

SPACE = 32
FNV_OFFSET, FNV_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
FIRST, SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
N27, N30, N31 = np.uint64(27), np.uint64(30), np.uint64(31)


@njit(cache=True, nogil=True)
def grown(array: Any, needed: int) -> Any:
    """Return the array, or a copy with room for more than `needed` entries."""
    if needed < len(array):
        return array
    return np.concatenate((array, np.empty(needed + 1, array.dtype)))


@njit(cache=True, nogil=True)
def byte_hash(data: Any, start: int, end: int) -> Any:
    """Return the 64-bit FNV-1a hash of some bytes.

    Source: Fowler, Noll, Vo and Eastlake, "The FNV Non-Cryptographic Hash Algorithm" (RFC 9923).
    """
    state = FNV_OFFSET
    for at in range(start, end):
        state = (state ^ np.uint64(data[at])) * FNV_PRIME
    return state


@njit(cache=True, nogil=True)
def mixed(state: Any) -> Any:
    """Return one step of splitmix64: uint64 to uint64, one to one, every bit depending on all bits.

    Source: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators", figure 16.
    """
    state = np.uint64(state) + GOLDEN
    state = (state ^ (state >> N30)) * FIRST
    state = (state ^ (state >> N27)) * SECOND
    return state ^ (state >> N31)


@njit(cache=True, nogil=True)
def row_hashes(data: Any, offsets: Any, seed: Any) -> Any:
    """Return (N,) uint64 hashes of texts, every bit depending on all of a text and the seed."""
    hashes = np.empty(len(offsets) - 1, np.uint64)
    for row in range(len(hashes)):
        hashes[row] = mixed(byte_hash(data, offsets[row], offsets[row + 1]) ^ mixed(seed))
    return hashes
