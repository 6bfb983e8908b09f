"""Fields of a protobuf message, without a schema. Source: Protocol Buffers documentation, "Encoding"."""

import mmap
from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # kinds of fields

# Number of a field, where it begins, where its content begins, where it ends.
Field = tuple[int, int, int, int]


def fields(data: bytes | mmap.mmap, at: int, end: int) -> Iterator[Field]:
    """Yield the fields of the message between two positions; a `ValueError` says that it is cut off or none.

    >>> list(fields(bytes([8, 150, 1, 18, 2, 104, 105]), 0, 7))
    [(1, 0, 1, 3), (2, 3, 5, 7)]
    """
    while at < end:
        begin = at
        tag, at = read_varint(data, at, end)
        kind, content = tag & 7, at
        if kind == VARINT:
            _, at = read_varint(data, at, end)
        elif kind == BYTES:
            length, content = read_varint(data, at, end)
            at = content + length
        elif kind in (FIXED32, FIXED64):
            at += 4 if kind == FIXED32 else 8
        else:
            raise ValueError(f"no protobuf message: a field of kind {kind} at byte {begin}")
        if at > end:
            raise ValueError(f"the protobuf message is cut off in the field at byte {begin}")
        yield tag >> 3, begin, content, at


def read_varint(data: bytes | mmap.mmap, at: int, end: int) -> tuple[int, int]:
    """Return the number in base 128 at a position, and the position behind it; or a `ValueError`."""
    value = 0
    for shift in range(0, 64, 7):
        if at >= end:
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError(f"the protobuf message is cut off: the number at byte {at} does not end")
