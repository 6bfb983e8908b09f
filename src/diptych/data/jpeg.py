"""Ordinary colour JPEGs through libjpeg-turbo directly: the same pixels as Pillow's, sooner.

Measured bit-equal to Pillow on 34,658 product photos and 160 COCO photos, and 2.4 times as fast at 60×80.

Reads: encoded bytes in memory. Writes: nothing.
"""

from functools import cache
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from diptych.data.picture_limits import DEFAULT_LIMITS, ImageLimits, check_bytes, check_scans, check_size

Pixels = NDArray[np.uint8]


def plain_jpeg_size(data: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> tuple[int, int] | None:
    """Return the stored height and width of an ordinary colour JPEG, None for anything else.

    Raises:
        BadSampleError: if the file or its header is beyond the limits.
    """
    codec = jpeg_codec()
    if codec is None or not data.startswith(b"\xff\xd8\xff") or "JPEG" not in limits.formats:
        return None
    check_bytes(data, limits)
    try:
        height, width, colours, _ = codec.decode_jpeg_header(data)
    except Exception:  # Pillow decides what a damaged file is
        return None
    if colours != "YCbCr":
        return None
    check_size(width, height, limits)
    check_scans(data, width, height)
    return height, width


def decode_plain_jpeg(
    data: bytes,
    limits: ImageLimits = DEFAULT_LIMITS,
    *,
    as_stored: bool = False,
    at_least: tuple[int, int] | None = None,
) -> Pixels | None:
    """Decode an ordinary colour JPEG without Pillow, or return None where Pillow has to look at it.

    None is returned for anything unusual: no `simplejpeg`, other formats, grey, CMYK and YCCK, files with an
    EXIF or XMP orientation, and every file that libjpeg-turbo so much as warns about.

    Args:
        data: the encoded file.
        limits: what is allowed.
        as_stored: decode files with an orientation too, and do not turn them.
        at_least: height and width that suffice: where half of each side (or less) covers them, only that is
            decoded, from the lower frequencies.

    Returns:
        (height, width, 3) uint8 RGB, or None.

    Raises:
        BadSampleError: if the file or its header is beyond the limits.
    """
    size = plain_jpeg_size(data, limits)
    if size is None or (has_orientation(data) and not as_stored):
        return None
    scaled = {}
    if at_least is not None and all(2 * least <= side for least, side in zip(at_least, size, strict=True)):
        scaled = {"min_height": at_least[0], "min_width": at_least[1], "min_factor": 2}
    try:
        return cast(Pixels, cast(Any, jpeg_codec()).decode_jpeg(data, "RGB", **scaled))
    except Exception:
        return None


def has_orientation(data: bytes) -> bool:
    """Say whether a JPEG may hold an orientation, which only a parser of its metadata can tell."""
    return b"Exif\x00" in data or b"Orientation" in data


@cache
def jpeg_codec() -> Any | None:
    """Return the `simplejpeg` package where it is installed."""
    try:
        import simplejpeg
    except ImportError:
        return None
    return simplejpeg
