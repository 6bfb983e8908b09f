"""What a word is, for counting and for matching alike: runs of letters, marks and digits, case folded.

Text is put in Unicode's compatibility form, its case is folded, and whatever is not a letter, a mark or a
number separates words: "T-Shirt" holds "t shirt". One definition in Python, and the same for whole columns.

Source: Unicode Standard, section 3.13 (default case folding) and annex 15 (NFKC).
"""

import unicodedata
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import regex
from numpy.typing import NDArray

from diptych.curate.kernels import SPACE, grown, njit

Bytes = NDArray[np.uint8]
Offsets = NDArray[np.int64]

_WORD = regex.compile(r"[\p{L}\p{M}\p{N}]+")
_BEYOND_ASCII = 128
# Each ASCII byte in lower case, or a space where it separates words.
_FOLDED = np.array(
    [ord(chr(code).lower()) if chr(code).isalnum() else SPACE for code in range(128)], np.uint8
)


def normalized(text: str) -> str:
    """Return the words of a text, case folded, with one space between them.

    >>> normalized("  (Dog), T-SHIRT & café's № 5")
    'dog t shirt café s no 5'
    """
    return " ".join(_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def normalized_column(
    column: pa.Array | pa.ChunkedArray, *, by: Callable[[str], str] = normalized
) -> tuple[Bytes, Offsets]:
    """Normalize (N,) texts, nulls as empty ones: the UTF-8 bytes of all, and (N + 1,) offsets into them.

    `by` normalizes a piece, between spaces, that holds more than ASCII.

    >>> data, offsets = normalized_column(pa.array(["A dog!", None, "№ 5"]))
    >>> bytes(data), offsets.tolist()
    (b'a dogno 5', [0, 5, 5, 9])
    """
    data, offsets = text_buffers(column)
    starts, ends = _pieces_beyond_ascii(data, offsets)
    # Such pieces are rare and repeat: each spelling is normalized once.
    spellings: dict[bytes, int] = {}
    entries = np.empty(len(starts), np.int64)
    raw: Any = memoryview(data)  # type: ignore[arg-type]  # no copy: a slice of a column has the whole column's bytes
    for row, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        entries[row] = spellings.setdefault(bytes(raw[start:end]), len(spellings))
    pool = [by(piece.decode("utf-8")).encode("utf-8") for piece in spellings]
    pool_offsets = np.cumsum([0, *map(len, pool)], dtype=np.int64)
    pool_data = np.frombuffer(b"".join(pool) or b"\0", np.uint8)
    result: tuple[Bytes, Offsets] = _spaced(data, offsets, (starts, ends, entries), (pool_data, pool_offsets))
    return result


def text_buffers(column: pa.Array | pa.ChunkedArray) -> tuple[Bytes, Offsets]:
    """Return the UTF-8 bytes of (N,) strings, nulls as empty ones, and (N + 1,) offsets into them."""
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    filled = whole.cast(pa.large_string()).fill_null("")
    if len(filled) == 0:
        return np.zeros(0, np.uint8), np.zeros(1, np.int64)
    _, offsets, data = filled.buffers()
    own = np.frombuffer(offsets, np.int64)[filled.offset : filled.offset + len(filled) + 1]
    return np.frombuffer(data or b"", np.uint8), own


def text_array(data: Bytes, offsets: Offsets) -> pa.LargeStringArray:
    """Return strings from what `text_buffers` or `normalized_column` returned.

    >>> text_array(*normalized_column(pa.array(["A dog!", None]))).to_pylist()
    ['a dog', '']
    """
    buffers = (pa.py_buffer(np.ascontiguousarray(array)) for array in (offsets, data))
    return pa.LargeStringArray.from_buffers(len(offsets) - 1, *buffers)


@njit(cache=True, nogil=True)
def _pieces_beyond_ascii(data: Any, offsets: Any) -> Any:
    """Return (K,) starts and (K,) ends of the pieces between spaces with bytes beyond ASCII, ascending."""
    starts, ends = np.empty(1024, np.int64), np.empty(1024, np.int64)
    count = 0
    for row in range(len(offsets) - 1):
        start, beyond = offsets[row], False
        for at in range(offsets[row], offsets[row + 1] + 1):
            if at < offsets[row + 1] and data[at] != SPACE:
                beyond |= data[at] >= _BEYOND_ASCII
                continue
            if beyond:
                starts, ends = grown(starts, count), grown(ends, count)
                starts[count], ends[count] = start, at
                count += 1
            start, beyond = at + 1, False
    return starts[:count], ends[:count]


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
def _spaced(data: Any, offsets: Any, pieces: Any, pool: Any) -> Any:
    """Write every text again as words with one space between them.

    `pieces`: starts, ends and entries in the pool of those with more than ASCII; `pool`: bytes and offsets of
    the normalized pieces.
    """
    starts, ends, entries = pieces
    words, word_offsets = pool
    room = offsets[-1] - offsets[0] + 1
    for entry in entries:
        room += word_offsets[entry + 1] - word_offsets[entry] + 1
    out, out_offsets = np.empty(room, np.uint8), np.zeros(len(offsets), np.int64)
    size, piece = 0, 0
    for row in range(len(offsets) - 1):
        begin, at, gap = size, offsets[row], False
        while at < offsets[row + 1]:
            if piece < len(starts) and at == starts[piece]:
                entry = entries[piece]
                size = _put(out, size, begin, words[word_offsets[entry] : word_offsets[entry + 1]])
                at, gap = ends[piece], True
                piece += 1
                continue
            byte = _FOLDED[data[at]]
            at += 1
            if byte != SPACE and gap and size > begin:
                out[size] = SPACE
                size += 1
            if byte != SPACE:
                out[size] = byte
                size += 1
            gap = byte == SPACE
        out_offsets[row + 1] = size
    return out[:size], out_offsets
