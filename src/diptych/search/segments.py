"""One segment of an index: a folder of rows that is written once and never changed.

- `vectors.npy`  (N, E) float16, unit length
- `codes.npy`    (N, E) int8 and `scales.npy` (E,) float32, for scanning (see `scan`)
- `blocks.npy`   (blocks,) uint64, a checksum of every `BLOCK` rows of `vectors.npy`
- `items.sqlite` what is known about each row (see `items`)

Codes, checksums and items are held against the index's manifest before anything reads them. Vectors are read
by position, in blocks, each against its checksum: a file that shrinks meanwhile is an error and no signal.
"""

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.lib import format as npy
from numpy.typing import NDArray

from diptych.core.checks import Bools, Floats, Ints
from diptych.core.errors import IntegrityError
from diptych.core.files.durable import staging_folder, write_bytes
from diptych.search.items import Item, Items, write_items
from diptych.search.scan import CodedRows, encode_rows

VECTORS, CODES, SCALES, BLOCKS, ITEMS = "vectors.npy", "codes.npy", "scales.npy", "blocks.npy", "items.sqlite"
BLOCK = 64  # rows: 64 KiB at a width of 512, read and checked in 20 microseconds
REMEDY = "restore it from a copy, or make the index again: diptych index add"

Halves = NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class SegmentEntry:
    """A segment as the manifest lists it.

    Attributes:
        name: of its folder.
        rows: N, removed ones included.
        error, length: of its `CodedRows`.
        files: name -> size in bytes and XXH3-128 in hexadecimal.
        removed: ascending positions of rows that are no longer part of the index.
    """

    name: str
    rows: int
    error: float
    length: float
    files: Mapping[str, tuple[int, str]]
    removed: tuple[int, ...] = ()

    @property
    def live(self) -> int:
        """How many rows are part of the index."""
        return self.rows - len(self.removed)


def write_segment(folder: Path, vectors: Halves, items: Sequence[Item]) -> SegmentEntry:
    """Write N rows (N, E) with their items; the folder appears whole or not at all."""
    coded = encode_rows(vectors)
    starts = range(0, len(vectors), BLOCK)
    sums = [xxhash.xxh3_64_intdigest(vectors[start : start + BLOCK].tobytes()) for start in starts]
    arrays: dict[str, NDArray[Any]] = {
        VECTORS: vectors, CODES: coded.codes, SCALES: coded.scales, BLOCKS: np.array(sums, np.uint64)
    }  # fmt: skip
    files: dict[str, tuple[int, str]] = {}
    with staging_folder(folder) as staged:
        contents = {name: _npy(array) for name, array in arrays.items()}
        for name, data in {**contents, ITEMS: write_items(items)}.items():
            write_bytes(staged / name, data)
            files[name] = (len(data), xxhash.xxh3_128_hexdigest(data))
    return SegmentEntry(folder.name, len(vectors), coded.error, coded.length, files)


def _npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    npy.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


class Segment:
    """An open segment."""

    def __init__(self, folder: Path, entry: SegmentEntry) -> None:
        self.folder, self.entry = folder, entry
        self._vectors = os.open(self._path(VECTORS), os.O_RDONLY)
        self._blocks = self._array(BLOCKS)
        self.coded = CodedRows(self._array(CODES), self._array(SCALES), entry.error, entry.length)
        self.rows, self.width = self.coded.codes.shape
        self._start = entry.files[VECTORS][0] - 2 * self.coded.codes.size  # the header is not looked at
        self._bytes(ITEMS)
        self.items = Items(folder / ITEMS)  # now: a writer may remove the folder later, open files stay

    def close(self) -> None:
        """Close the files."""
        os.close(self._vectors)
        self.items.close()

    def live(self) -> Ints | None:
        """Return the ascending positions of the rows that are part of the index; None: all."""
        return np.flatnonzero(self.is_live()) if self.entry.removed else None

    def is_live(self) -> Bools:
        """Return (N,), which rows are part of the index."""
        kept = np.ones(self.rows, np.bool_)
        kept[list(self.entry.removed)] = False
        return kept

    def read(self, rows: Ints) -> Floats:
        """Return (n, E) float32 of ascending positions (n,), every block checked."""
        result = np.empty((len(rows), self.width), np.float32)
        numbers = rows // BLOCK
        cuts = np.flatnonzero(np.diff(numbers, prepend=-1, append=-2))
        for start, end in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True):
            block = self._block(int(numbers[start]))
            result[start:end] = block[rows[start:end] - int(numbers[start]) * BLOCK]
        return result

    def vectors(self, rows: Ints) -> Iterator[Halves]:
        """Yield the float16 rows of ascending positions (n,), `BLOCK` and more at a time."""
        for start in range(0, len(rows), BLOCK * BLOCK):
            yield self.read(rows[start : start + BLOCK * BLOCK]).astype(np.float16)

    def verify(self) -> None:
        """Hold every byte against the manifest."""
        for name in self.entry.files:
            self._bytes(name)

    def _block(self, number: int) -> Halves:
        first = number * BLOCK
        count = min(BLOCK, self.rows - first)
        size = count * self.width * 2
        data = os.pread(self._vectors, size, self._start + first * self.width * 2)
        if len(data) != size or xxhash.xxh3_64_intdigest(data) != int(self._blocks[number]):
            where, found = self.folder / VECTORS, f"rows {first} to {first + count - 1} are damaged"
            raise IntegrityError("an index is not what was written", where=where, found=found, fix=REMEDY)
        return np.frombuffer(data, np.float16).reshape(count, self.width)

    def _array(self, name: str) -> NDArray[Any]:
        return np.asarray(npy.read_array(io.BytesIO(self._bytes(name)), allow_pickle=False))

    def _path(self, name: str) -> Path:
        """Return a file of the manifest's size."""
        path, (size, _) = self.folder / name, self.entry.files[name]
        actual = path.stat().st_size if path.is_file() else None
        if actual != size:
            found = "no such file" if actual is None else f"{actual:,} bytes"
            what, expected = "an index is not what was written", f"{size:,} bytes"
            raise IntegrityError(what, where=path, found=found, expected=expected, fix=REMEDY)
        return path

    def _bytes(self, name: str) -> bytes:
        """Return a file's bytes, held against the manifest."""
        path = self._path(name)
        data = path.read_bytes()
        actual, expected = xxhash.xxh3_128_hexdigest(data), self.entry.files[name][1]
        if actual != expected:
            what = "an index is not what was written"
            raise IntegrityError(what, where=path, found=f"XXH3 {actual}", expected=expected, fix=REMEDY)
        return data
