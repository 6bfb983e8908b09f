"""Fingerprints of an image: digests of bytes and pixels, perceptual hashes, and a thumbnail.

Bytes and pixels find copies that are equal. Low frequencies of the whole image and of five windows in it
find candidates that may be made of one another; the thumbnails decide (`kernels.same_image`).

Source: Zauner 2010, "Implementation and Benchmarking of Perceptual Image Hash Functions", section 3.2.1 (DCT
coefficients against their median); ours takes six windows, so that a cut edge or an added frame stays near.
"""

import hashlib
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from diptych.core.checks import Floats
from diptych.core.errors import BadSampleError, Reason
from diptych.core.records import Counts
from diptych.data.images.decode import decode
from diptych.data.images.jpeg import plain_jpeg
from diptych.data.images.limits import DEFAULT_LIMITS, ImageLimits

Bytes = NDArray[np.uint8]

SIDE = 72  # pixels of a side that windows are taken from

DECODED = 2 * SIDE  # A JPEG is decoded at the smallest scale that still has this many pixels on either side

CUT = 0.05  # what a window leaves out at an edge: half of the cuts and frames that are to be found

FREQUENCIES = 8
WINDOWS = ((0, 0), (1, 1), (1, 2), (2, 1), (2, 2), (3, 3))
"""Rows' and columns' interval of each window: whole, four corners, middle."""

THUMBNAIL, CHROMA = 24, 4
"""Sides of the thumbnail's luminance and of its two color planes."""

THUMBNAIL_BYTES = THUMBNAIL**2 + 2 * CHROMA**2
HASH_BYTES = FREQUENCIES**2 // 8 * len(WINDOWS)

FLAT = 2.0  # standard deviation in levels of 255 below which an image has no structure, only pixels

BATCH = 256

FINGERPRINTS = pa.schema(
    [
        pa.field("sha256", pa.binary(32)),
        pa.field("pixels", pa.binary(16)),
        pa.field("hashes", pa.binary(HASH_BYTES)),
        pa.field("thumbnail", pa.binary(THUMBNAIL_BYTES)),
        pa.field("reason", pa.string()),
    ]
)
"""`sha256` of the encoded bytes; `pixels` digests size and pixels (of a large JPEG those of its reduced
decoding); `hashes`: six perceptual hashes of 64 bits, the first of the whole image, all zero where there is
no structure; `thumbnail`: 24 x 24 luminance, then 4 x 4 Cb and Cr. `reason`: why an image cannot be read; all
others are null then, except `sha256`, which is null only for a missing image."""


def fingerprint_partition(
    images: pa.Array | pa.ChunkedArray, *, limits: ImageLimits = DEFAULT_LIMITS, keys: pa.Array | None = None
) -> tuple[pa.Table, Counts]:
    """Take the fingerprints of a column of images.

    Args:
        images: (N,) encoded files; null where there is none.
        limits: what an image may cost.
        keys: (N,) names for the counts' examples; row numbers without.

    Returns:
        (N,) rows of `FINGERPRINTS`, and the counts of what could be read.
    """
    counts = Counts()
    size = len(images)
    columns: dict[str, list[bytes | str | None]] = {name: [None] * size for name in FINGERPRINTS.names}
    small: list[Bytes] = []
    rows: list[int] = []

    def flush() -> None:
        for row, hashes, thumbnail in zip(rows, *_batch(np.stack(small)), strict=True):
            columns["hashes"][row], columns["thumbnail"][row] = hashes, thumbnail
        small.clear()
        rows.clear()

    for row, data in enumerate(_values(images)):
        if data is not None:
            columns["sha256"][row] = hashlib.sha256(data).digest()
        try:
            digest, pixels = _seen(data, limits)
        except BadSampleError as error:
            columns["reason"][row] = str(error.reason)
            counts.drop(error.reason, str(row if keys is None else keys[row].as_py()))
            continue
        counts.keep()
        columns["pixels"][row] = digest
        small.append(pixels)
        rows.append(row)
        if len(rows) == BATCH:
            flush()
    if rows:
        flush()
    arrays = [pa.array(columns[field.name], field.type) for field in FINGERPRINTS]
    return pa.Table.from_arrays(arrays, schema=FINGERPRINTS), counts


def column_bytes(table: pa.Table, name: str) -> Bytes:
    """Return a column of fixed-size binary as (N, size) uint8; zeros where it is null."""
    column = table.column(name).combine_chunks()
    size = column.type.byte_width
    if isinstance(column, pa.ChunkedArray):  # a table without chunks
        return np.zeros((0, size), np.uint8)
    filled = column.fill_null(bytes(size)) if column.null_count else column
    data = np.frombuffer(filled.buffers()[1] or b"", np.uint8)
    return data.reshape(-1, size)[filled.offset : filled.offset + len(filled)]


def hashes_of(fingerprints: pa.Table) -> NDArray[np.uint64]:
    """Return the perceptual hashes as (N, windows) uint64; zeros where there is none."""
    return column_bytes(fingerprints, "hashes").copy().view(">u8").astype(np.uint64)


def _values(images: pa.Array | pa.ChunkedArray) -> Iterator[bytes | None]:
    for value in images:
        yield value.as_py()


def _seen(data: bytes | None, limits: ImageLimits) -> tuple[bytes, Bytes]:
    """Decode an image; returns the digest of its pixels and its (SIDE, SIDE, 3) copy."""
    if not data:
        raise BadSampleError(Reason.MISSING_IMAGE)
    plain = plain_jpeg(data, limits)
    pixels = None
    if plain is not None and not plain.may_be_turned:
        pixels = plain.decode(at_least=(DECODED, DECODED))
    if pixels is None:
        image = decode(data, limits)
        size, pixels = (image.height, image.width), np.asarray(image)
    else:
        assert plain is not None
        size, image = plain.size, Image.fromarray(pixels)
    digest = hashlib.blake2b(b"%d,%d," % size, digest_size=16)
    digest.update(pixels.tobytes())
    # Triangles as wide as a pixel of the result: smooth where an image shrinks and where it grows.
    return digest.digest(), np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def _batch(pixels: Bytes) -> tuple[list[bytes], list[bytes]]:
    """Return hashes and thumbnails of (B, SIDE, SIDE, 3) pixels."""
    # ITU-R BT.601, the luminance and the colors of JPEG.
    red, green, blue = (pixels[..., channel].astype(np.float32) for channel in range(3))
    luminance = np.float32(0.299) * red + np.float32(0.587) * green + np.float32(0.114) * blue
    planes = [_reduced(luminance, THUMBNAIL)]
    for color, scale in ((blue, 0.564), (red, 0.713)):
        planes.append(_reduced((color - luminance) * np.float32(scale) + 128, CHROMA))
    thumbnails = np.concatenate([np.rint(plane).clip(0, 255).astype(np.uint8) for plane in planes], axis=1)
    frequencies = WAVES @ luminance @ WAVES.T
    flat = luminance.reshape(len(pixels), -1).std(axis=1) < FLAT
    hashes = np.empty((len(pixels), HASH_BYTES), np.uint8)
    for number, (down, across) in enumerate(WINDOWS):
        block = frequencies[
            :,
            down * FREQUENCIES : (down + 1) * FREQUENCIES,
            across * FREQUENCIES : (across + 1) * FREQUENCIES,
        ].reshape(len(pixels), -1)
        bits = block > np.median(block, axis=1, keepdims=True)
        hashes[:, number * FREQUENCIES : (number + 1) * FREQUENCIES] = np.packbits(bits, axis=1)
    hashes[flat] = 0
    return [row.tobytes() for row in hashes], [row.tobytes() for row in thumbnails]


def _reduced(planes: Floats, side: int) -> Floats:
    """Average (B, SIDE, SIDE) planes down to (B, side * side)."""
    step = SIDE // side
    means: Floats = planes.reshape(len(planes), side, step, side, step).mean(axis=(2, 4))
    return means.reshape(len(planes), -1)


def _waves() -> Floats:
    """Return the cosines 1 to 8 of each interval: (4 * FREQUENCIES, SIDE), zero outside the interval.

    A pixel counts with the part of it that is inside; so cutting, resizing and DCT are one product.
    """
    rows = []
    edges = np.arange(SIDE + 1) / SIDE
    for begin, end in ((0.0, 1.0), (0.0, 1 - CUT), (CUT, 1.0), (CUT, 1 - CUT)):
        place = ((edges - begin) / (end - begin)).clip(0, 1)
        for frequency in range(1, FREQUENCIES + 1):
            # The integral of cos(pi f x) over each pixel's share of the interval.
            rows.append(np.diff(np.sin(np.pi * frequency * place)) / (np.pi * frequency))
    return np.array(rows, np.float32)


WAVES = _waves()
