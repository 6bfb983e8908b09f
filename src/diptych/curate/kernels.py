"""Loops over the bytes of whole columns, compiled by numba.

Each works on flat arrays and returns flat arrays: a Python object per text would cost more than its words.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from diptych.core.errors import MissingPackageError

try:
    from numba import njit as njit
except ImportError as error:
    raise MissingPackageError(
        "matching and counting need a package that is not installed",
        found=str(error),
        expected="numba",
        fix="pip install 'diptych[curate]'",
    ) from error

Bytes = NDArray[np.uint8]
Offsets = NDArray[np.int64]

SPACE = 32
BEYOND_ASCII = 128


def _folded() -> Bytes:
    """Return for each ASCII byte its lower case, or a space where it separates words."""
    table = np.full(BEYOND_ASCII, SPACE, np.uint8)
    for code in range(BEYOND_ASCII):
        if chr(code).isalnum():
            table[code] = ord(chr(code).lower())
    return table


FOLDED = _folded()


@njit(cache=True, nogil=True)
def grown(array: Any, needed: int) -> Any:
    """Return the array, or a copy with room for more than `needed` entries."""
    if needed < len(array):
        return array
    return np.concatenate((array, np.empty(needed + 1, array.dtype)))


@njit(cache=True, nogil=True)
def pieces_beyond_ascii(data: Any, offsets: Any) -> Any:
    """Find the pieces between spaces that hold bytes beyond ASCII.

    Args:
        data: uint8, the texts' bytes.
        offsets: (N + 1,) int64.

    Returns:
        (K,) where each piece starts and (K,) where it ends, ascending.
    """
    starts, ends = np.empty(1024, np.int64), np.empty(1024, np.int64)
    found = 0
    for row in range(len(offsets) - 1):
        start, beyond = offsets[row], False
        for place in range(offsets[row], offsets[row + 1] + 1):
            if place < offsets[row + 1] and data[place] != SPACE:
                beyond |= data[place] >= BEYOND_ASCII
                continue
            if beyond:
                starts, ends = grown(starts, found), grown(ends, found)
                starts[found], ends[found] = start, place
                found += 1
            start, beyond = place + 1, False
    return starts[:found], ends[:found]


@njit(cache=True, nogil=True)
def _put(out: Any, size: int, begin: int, word: Any) -> int:
    """Write a word behind what a text has so far, after a space unless it is the first; return the size."""
    if len(word) == 0:
        return size
    if size > begin:
        out[size] = SPACE
        size += 1
    out[size : size + len(word)] = word
    return size + len(word)


@njit(cache=True, nogil=True)
def spaced(data: Any, offsets: Any, pieces: Any, pool: Any) -> Any:
    """Write every text again as words with one space between them.

    Args:
        data: uint8, the texts' bytes.
        offsets: (N + 1,) int64.
        pieces: of those with more than ASCII (K,) starts, (K,) ends and (K,) entries of the pool.
        pool: bytes of the normalized pieces, and their offsets.

    Returns:
        uint8 bytes and (N + 1,) int64 offsets.
    """
    starts, ends, which = pieces
    words, word_offsets = pool
    room = offsets[-1] - offsets[0] + 1
    for entry in which:
        room += word_offsets[entry + 1] - word_offsets[entry] + 1
    out, out_offsets = np.empty(room, np.uint8), np.zeros(len(offsets), np.int64)
    size, piece = 0, 0
    for row in range(len(offsets) - 1):
        begin, place, gap = size, offsets[row], False
        while place < offsets[row + 1]:
            if piece < len(starts) and place == starts[piece]:
                entry = which[piece]
                size = _put(out, size, begin, words[word_offsets[entry] : word_offsets[entry + 1]])
                place, gap = ends[piece], True
                piece += 1
                continue
            byte = FOLDED[data[place]]
            place += 1
            if byte != SPACE and gap and size > begin:
                out[size] = SPACE
                size += 1
            if byte != SPACE:
                out[size] = byte
                size += 1
            gap = byte == SPACE
        out_offsets[row + 1] = size
    return out[:size], out_offsets


FNV_OFFSET, FNV_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
FIRST, SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
N27, N30, N31 = np.uint64(27), np.uint64(30), np.uint64(31)


@njit(cache=True, nogil=True)
def byte_hash(data: Any, start: int, end: int) -> Any:
    """Return the 64-bit FNV-1a hash of some bytes.

    Source: Fowler, Noll, Vo and Eastlake, "The FNV Non-Cryptographic Hash Algorithm" (RFC 9923).
    """
    state = FNV_OFFSET
    for place in range(start, end):
        state = (state ^ np.uint64(data[place])) * FNV_PRIME
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
