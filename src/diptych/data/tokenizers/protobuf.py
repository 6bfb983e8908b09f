"""Read the fields of a protobuf message: numbers and bytes, no schema, nothing executed.

Source: Protocol Buffers documentation, "Encoding".
"""

from collections import defaultdict

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_SIZES = {_FIXED64: 8, _FIXED32: 4}
_MAX_SHIFT = 63


def read_message(source: bytes) -> dict[int, list[int | bytes]]:
    """Return the values of each field in order: whole numbers as they are, everything else as its bytes.

    Raises:
        ValueError: the message is cut off or is none.

    >>> read_message(bytes([8, 150, 1, 18, 2, 104, 105]))
    {1: [150], 2: [b'hi']}
    """
    fields: defaultdict[int, list[int | bytes]] = defaultdict(list)
    place = 0
    while place < len(source):
        key, place = _varint(source, place)
        kind = key & 7
        if kind == _VARINT:
            number, place = _varint(source, place)
            fields[key >> 3].append(number)
            continue
        if kind == _BYTES:
            size, place = _varint(source, place)
        elif kind in _SIZES:
            size = _SIZES[kind]
        else:
            raise ValueError(f"no protobuf message: a field of kind {kind}")
        if place + size > len(source):
            raise ValueError("the protobuf message is cut off")
        fields[key >> 3].append(source[place : place + size])
        place += size
    return dict(fields)


def _varint(source: bytes, place: int) -> tuple[int, int]:
    """Return the number in base 128 that begins at a place, and the place behind it."""
    number = 0
    for shift in range(0, _MAX_SHIFT + 1, 7):
        if place >= len(source):
            raise ValueError("the protobuf message is cut off")
        byte = source[place]
        place += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, place
    raise ValueError("no protobuf message: a number of more than 64 bits")
