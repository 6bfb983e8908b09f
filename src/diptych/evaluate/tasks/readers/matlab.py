"""Read the variables of a MATLAB file: numbers, texts, cells and structs.

Stanford Cars and Oxford Flowers publish their labels in this form; a page of code is less than a numerical
library among the requirements.

Reads: MAT-files of level 5 (`save -v6`, `-v7`), little-endian.
Source: MathWorks, "MAT-File Format", R2023b, chapter "Level 5 MAT-File Format".
"""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from diptych.core.errors import IntegrityError
from diptych.evaluate.tasks.readers.examples import damaged, need

MAX_BYTES = 64 * 2**20  # of a variable when unpacked: the largest of these sets takes 1 MiB
MAX_DEPTH = 8
_HEADER = 128
_NUMBERS = {1: "i1", 2: "u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 9: "<f8", 12: "<i8",
            13: "<u8", 16: "u1", 17: "<u2", 18: "<u4"}  # fmt: skip
_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _CHAR = 1, 2, 4


def read_mat(path: Path) -> dict[str, Any]:
    """Read every variable.

    Args:
        path: the file.

    Returns:
        By name: an array of numbers, a text, a list (cell), or a list of one dict for each element (struct);
        elements in the file's order, column by column.

    Raises:
        UsageError: there is no such file.
        IntegrityError: it is damaged or of another version.
    """
    data = need(path).read_bytes()
    if len(data) < _HEADER or data[124:128] != b"\x00\x01IM":
        raise damaged(path, repr(data[:20]), "a MAT-file of level 5, little-endian")
    try:
        found: dict[str, Any] = {}
        place = _HEADER
        while place < len(data):
            kind, body, place = _element(data, place)
            if kind == _COMPRESSED:
                unpacker = zlib.decompressobj()
                kind, body, _ = _element(unpacker.decompress(body, MAX_BYTES), 0)
            if kind == _MATRIX:
                name, value = _matrix(body, 0)
                found[name] = value
        return found
    except (ValueError, struct.error, zlib.error, IndexError, KeyError, UnicodeDecodeError) as error:
        if isinstance(error, IntegrityError):
            raise
        raise damaged(path, f"{type(error).__name__}: {error}"[:120], "a whole MAT-file") from None


def _element(data: bytes, place: int) -> tuple[int, bytes, int]:
    """Return (type, body, where the next one begins)."""
    kind, size = struct.unpack_from("<II", data, place)
    if kind >> 16:  # a small element: up to four bytes stand in the tag itself
        kind, size, start, end = kind & 0xFFFF, kind >> 16, place + 4, place + 8
        if size > 4:
            raise ValueError("a small element of more than 4 bytes")
    else:
        start = place + 8
        end = start + size if kind == _COMPRESSED else start + -(-size // 8) * 8
    if start + size > len(data):
        raise ValueError("an element reaches beyond the end")
    return kind, data[start : start + size], end


def _matrix(body: bytes, depth: int) -> tuple[str, Any]:
    if depth > MAX_DEPTH:
        raise ValueError("matrices inside each other without end")
    if not body:
        return "", np.empty((0, 0))
    parts: list[tuple[int, bytes]] = []
    place = 0
    while place < len(body):
        kind, content, place = _element(body, place)
        parts.append((kind, content))
    array_class = parts[0][1][0]
    shape = np.frombuffer(parts[1][1], "<i4").tolist()
    name = parts[2][1].decode("ascii")
    rest = parts[3:]
    if array_class == _STRUCT:
        return name, _struct(rest, depth)
    if array_class == _CELL:
        return name, [_matrix(content, depth + 1)[1] for _, content in rest]
    kind, content = rest[0] if rest else (2, b"")
    values = np.frombuffer(content, _NUMBERS[kind])
    if array_class == _CHAR:
        return name, content.decode("utf-8") if kind in (1, 2, 16) else "".join(map(chr, values.tolist()))
    if values.size != int(np.prod(shape)):
        raise ValueError(f"{values.size} numbers for a shape of {shape}")
    return name, values.reshape(shape, order="F")


def _struct(parts: list[tuple[int, bytes]], depth: int) -> list[dict[str, Any]]:
    length = int(np.frombuffer(parts[0][1], "<i4")[0])
    packed = parts[1][1]
    names = [
        packed[start : start + length].split(b"\0")[0].decode("ascii")
        for start in range(0, len(packed), length)
    ]
    values = [_matrix(content, depth + 1)[1] for _, content in parts[2:]]
    if not names or len(values) % len(names):
        raise ValueError("a struct with missing fields")
    return [
        dict(zip(names, values[start : start + len(names)], strict=True))
        for start in range(0, len(values), len(names))
    ]
