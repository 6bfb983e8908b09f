"""Fingerprints of an image: digests of bytes and pixels, perceptual hashes, and a thumbnail.

Bytes and pixels find copies that are equal. Low frequencies of the whole image and of five windows in it
find candidates that may be made of one another; the thumbnails decide (`kernels.same_image`).

Source: Zauner 2010, "Implementation and Benchmarking of Perceptual Image Hash Functions", section 3.2.1 (DCT
coefficients against their median); ours takes six windows, so that a cut edge or an added frame stays near.
"""

import hashlib

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
DECODED = 2 * SIDE  # a JPEG is decoded at the smallest scale that still has this many pixels on either side
CUT = 0.05  # what a window leaves out at an edge: half of the cuts and frames that are to be found
FREQUENCIES = 8
WINDOWS = ((0, 0), (1, 1), (1, 2), (2, 1), (2, 2), (3, 3))
"""Rows' and columns' interval of each window: whole, four corners, middle."""

THUMBNAIL, CHROMA = 24, 4  # sides of the thumbnail's luminance and of its two color planes
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
    images: pa.Array | pa.ChunkedArray, *, limits: ImageLimits = DEFAULT_LIMITS
) -> tuple[pa.Table, Counts]:
    """Take the fingerprints of a column of (N,) encoded files, null where there is none.

    Returns:
        (N,) rows of `FINGERPRINTS`, and the counts of what could be read; their examples are row numbers.
    """
    counts = Counts()
    rows: list[dict[str, bytes | str]] = []
    waiting: list[tuple[dict[str, bytes | str], Bytes]] = []
    for number, image in enumerate(images):
        data, row = image.as_py(), dict[str, bytes | str]()
        rows.append(row)
        if data is not None:
            row["sha256"] = hashlib.sha256(data).digest()
        try:
            row["pixels"], pixels = _decoded(data, limits)
        except BadSampleError as error:
            row["reason"] = str(error.reason)
            counts.drop(error.reason, str(number))
            continue
        counts.keep()
        waiting.append((row, pixels))
        if len(waiting) == BATCH:
            _finish(waiting)
    _finish(waiting)
    return pa.Table.from_pylist(rows, schema=FINGERPRINTS), counts


def column_bytes(table: pa.Table, name: str) -> Bytes:
    """Return a column of fixed-size binary as (N, size) uint8; zeros where it is null."""
    column = table.column(name).combine_chunks()
    size = column.type.byte_width
    filled = column.fill_null(bytes(size)) if column.null_count else column
    data = np.frombuffer(filled.buffers()[1] or b"", np.uint8)
    return data.reshape(-1, size)[filled.offset : filled.offset + len(filled)]


def hashes_of(fingerprints: pa.Table) -> NDArray[np.uint64]:
    """Return the perceptual hashes as (N, windows) uint64; zeros where there is none."""
    return column_bytes(fingerprints, "hashes").copy().view(">u8").astype(np.uint64)


def _decoded(data: bytes | None, limits: ImageLimits) -> tuple[bytes, Bytes]:
    """Decode an image; returns the digest of its pixels and its (SIDE, SIDE, 3) copy."""
    if not data:
        raise BadSampleError(Reason.MISSING_IMAGE)
    plain = plain_jpeg(data, limits)
    pixels = None
    if plain is not None and not plain.may_be_turned:
        size, pixels = plain.size, plain.decode(at_least=(DECODED, DECODED))
    image = decode(data, limits) if pixels is None else Image.fromarray(pixels)
    if pixels is None:
        size, pixels = (image.height, image.width), np.asarray(image)
    digest = hashlib.blake2b(b"%d,%d," % size, digest_size=16)
    digest.update(pixels.tobytes())
    # Triangles as wide as a pixel of the result: smooth where an image shrinks and where it grows.
    return digest.digest(), np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def _finish(waiting: list[tuple[dict[str, bytes | str], Bytes]]) -> None:
    """Give the rows hashes and thumbnails of their (SIDE, SIDE, 3) pixels, and empty the list."""
    if not waiting:
        return
    pixels = np.stack([small for _, small in waiting])
    # ITU-R BT.601, the luminance and the colors of JPEG.
    red, green, blue = (pixels[..., channel].astype(np.float32) for channel in range(3))
    luminance = np.float32(0.299) * red + np.float32(0.587) * green + np.float32(0.114) * blue
    planes = [_reduced(luminance, THUMBNAIL)]
    for color, scale in ((blue, 0.564), (red, 0.713)):
        planes.append(_reduced((color - luminance) * np.float32(scale) + 128, CHROMA))
    thumbnails = np.concatenate([np.rint(plane).clip(0, 255).astype(np.uint8) for plane in planes], axis=1)
    bits = []
    waves = (WAVES @ luminance @ WAVES.T).reshape(len(pixels), 4, FREQUENCIES, 4, FREQUENCIES)
    for down, across in WINDOWS:
        block = waves[:, down, :, across].reshape(len(pixels), -1)
        bits.append(block > np.median(block, axis=1, keepdims=True))
    hashes = np.packbits(np.concatenate(bits, axis=1), axis=1)
    hashes[luminance.reshape(len(pixels), -1).std(axis=1) < FLAT] = 0
    for (row, _), hashed, thumbnail in zip(waiting, hashes, thumbnails, strict=True):
        row["hashes"], row["thumbnail"] = hashed.tobytes(), thumbnail.tobytes()
    waiting.clear()


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
