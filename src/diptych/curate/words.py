"""What a word is, for counting and for matching alike: runs of letters, marks and digits, case folded.

Text is put in Unicode's compatibility form, its case is folded, and whatever is not a letter, a mark or a
number separates words. So "(Dog)," holds the word "dog", "T-Shirt" the words "t shirt", and full-width or
composed letters are the plain ones. One definition in Python, and the same for whole columns at once.

Source: Unicode Standard, section 3.13 (default case folding) and annex 15 (NFKC).
"""

import unicodedata
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import regex
from numpy.typing import NDArray

from diptych.curate.kernels import pieces_beyond_ascii, spaced

_WORD = regex.compile(r"[\p{L}\p{M}\p{N}]+")

Bytes = NDArray[np.uint8]
Offsets = NDArray[np.int64]


def normalized(text: str) -> str:
    """Return the words of a text, case folded, with one space between them.

    >>> normalized("  (Dog), T-SHIRT & café's № 5")
    'dog t shirt café s no 5'
    """
    return " ".join(_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def normalized_column(
    column: pa.Array | pa.ChunkedArray, *, by: Callable[[str], str] = normalized
) -> tuple[Bytes, Offsets]:
    """Normalise every text of a column; a null is a text without words.

    Args:
        column: (N,) strings.
        by: what makes words of a piece, between spaces, that holds more than ASCII.

    Returns:
        UTF-8 bytes of all texts behind each other, and (N + 1,) where each begins and the last ends.

    >>> data, offsets = normalized_column(pa.array(["A dog!", None, "№ 5"]))
    >>> bytes(data), offsets.tolist()
    (b'a dogno 5', [0, 5, 5, 9])
    """
    data, offsets = text_buffers(column)
    starts, ends = pieces_beyond_ascii(data, offsets)
    pool, pool_offsets, which = _normalized_pieces(data, starts, ends, by)
    result: tuple[Bytes, Offsets] = spaced(data, offsets, (starts, ends, which), (pool, pool_offsets))
    return result


def text_buffers(column: pa.Array | pa.ChunkedArray) -> tuple[Bytes, Offsets]:
    """Return the UTF-8 bytes of a column of strings, and (N + 1,) offsets into them.

    Args:
        column: (N,) strings; nulls are empty.
    """
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    filled = whole.cast(pa.large_string()).fill_null("")
    if len(filled) == 0:
        return np.zeros(0, np.uint8), np.zeros(1, np.int64)
    _, offsets, data = filled.buffers()
    held = np.frombuffer(offsets, np.int64)[filled.offset : filled.offset + len(filled) + 1]
    return np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8), held


def _normalized_pieces(
    data: Bytes, starts: Offsets, ends: Offsets, by: Callable[[str], str]
) -> tuple[Bytes, Offsets, Offsets]:
    """Normalise the pieces that hold more than ASCII, each spelling once: it is rare, and it repeats.

    Returns:
        The pool of normalized pieces, its offsets, and which entry each piece is.
    """
    seen: dict[bytes, int] = {}
    which = np.empty(len(starts), np.int64)
    raw: Any = memoryview(data)  # type: ignore[arg-type]  # no copy of it: a slice of a column has the whole column's bytes
    for row, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        which[row] = seen.setdefault(bytes(raw[start:end]), len(seen))
    done = [by(piece.decode("utf-8")).encode("utf-8") for piece in seen]
    pool_offsets = np.concatenate([[0], np.cumsum([len(piece) for piece in done], dtype=np.int64)])
    return np.frombuffer(b"".join(done) or b"\0", np.uint8), pool_offsets.astype(np.int64), which
