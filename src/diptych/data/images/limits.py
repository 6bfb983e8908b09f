"""Limits of untrusted image files, and the checks that need no decoder."""

import os
from dataclasses import dataclass, field
from functools import partial

from diptych.core.errors import BadSampleError, Reason, SettingsError
from diptych.core.records import SETTING_OF
from diptych.data.images.formats import READ_FORMATS, READABLE_FORMATS, sniff

MAX_BYTES = 20 * 2**20  # a 25 Mpx JPEG at the best quality is about 15 MB
MAX_PIXELS = 25_000_000  # 100 MB as RGB in Pillow's four bytes a pixel
MAX_SIDE = 20_000
MAX_SCANS = 20  # of the largest image: a progressive JPEG decodes each pixel once a scan; usual are 3 to 12
MAX_DIGITS = 18


def _limit(name: str, usual: int) -> int:
    """Return a limit as the environment sets it: DIPTYCH_MAX_PIXELS holds in every command and process."""
    text = os.environ.get(f"DIPTYCH_{name.upper()}", "")
    if text and not (text.isdecimal() and len(text) <= MAX_DIGITS):
        raise SettingsError(
            "an image limit is no number",
            where=f"DIPTYCH_{name.upper()}",
            found=text[:40],
            expected="a whole number",
        )
    return int(text or usual)


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What an image may cost, checked before it is decoded.

    The environment sets other defaults: DIPTYCH_MAX_BYTES, DIPTYCH_MAX_PIXELS, DIPTYCH_MAX_SIDE.

    Attributes:
        max_bytes: size of the encoded file.
        max_pixels: width times height.
        max_side: width and height each.
        formats: Pillow's names of the formats that are read.
    """

    max_bytes: int = field(default_factory=partial(_limit, "max_bytes", MAX_BYTES))
    max_pixels: int = field(default_factory=partial(_limit, "max_pixels", MAX_PIXELS))
    max_side: int = field(default_factory=partial(_limit, "max_side", MAX_SIDE))
    formats: tuple[str, ...] = READ_FORMATS

    def __post_init__(self) -> None:
        """Refuse limits that no image can meet.

        Raises:
            SettingsError: for a limit below one or a format that is never read.
        """
        for name in ("max_bytes", "max_pixels", "max_side"):
            if getattr(self, name) < 1:
                raise SettingsError(
                    f"image limit {name} is too small", found=getattr(self, name), expected="1 or more"
                )
        unknown = set(self.formats) - READABLE_FORMATS
        if unknown:
            raise SettingsError(
                "this image format cannot be allowed",
                found=", ".join(sorted(unknown)),
                expected=f"among {', '.join(sorted(READABLE_FORMATS))}",
            )


DEFAULT_LIMITS = ImageLimits()


def check_bytes(data: bytes, limits: ImageLimits) -> None:
    """Refuse a file that is too large."""
    if len(data) > limits.max_bytes:
        raise BadSampleError(
            Reason.TOO_MANY_BYTES,
            "the image file is too large",
            found=f"{len(data):,} bytes",
            expected=f"at most {limits.max_bytes:,}",
            fix=f"to read it set {SETTING_OF[Reason.TOO_MANY_BYTES]}",
        )


def check_format(data: bytes, limits: ImageLimits) -> str:
    """Return the format that the first bytes claim; refuse what is not read."""
    check_bytes(data, limits)
    name = sniff(data)
    if name is None:
        raise BadSampleError(
            Reason.UNREADABLE_IMAGE,
            "the bytes are not an image",
            found=f"{len(data)} bytes that begin with {data[:8]!r}",
            expected=f"one of {', '.join(limits.formats)}",
        )
    if name not in limits.formats:
        raise BadSampleError(
            Reason.FORMAT_NOT_ALLOWED,
            "this image format is not read",
            found=name,
            expected=f"one of {', '.join(limits.formats)}",
        )
    return name


def check_size(width: int, height: int, limits: ImageLimits) -> None:
    """Refuse an image without pixels or with too many."""
    if width < 1 or height < 1:
        raise BadSampleError(Reason.UNREADABLE_IMAGE, "the image has no pixels", found=f"{width}×{height}")
    if width * height > limits.max_pixels or max(width, height) > limits.max_side:
        raise BadSampleError(
            Reason.TOO_MANY_PIXELS,
            "the image is too large to decode",
            found=f"{width}×{height} pixels",
            expected=f"at most {limits.max_pixels:,} and no side above {limits.max_side:,}",
            fix=f"to read it set {SETTING_OF[Reason.TOO_MANY_PIXELS]}",
        )


def check_scans(data: bytes, width: int, height: int, limits: ImageLimits) -> None:
    """Refuse a progressive JPEG that decodes its pixels over and over."""
    scans = data.count(b"\xff\xda")  # entropy-coded bytes never hold this marker: 0xff is stuffed there
    most = MAX_SCANS * limits.max_pixels
    if scans * width * height > most:
        raise BadSampleError(
            Reason.TOO_MANY_PIXELS,
            "the progressive JPEG decodes its pixels too many times",
            found=f"{scans} scans of {width}×{height}",
            expected=f"at most {most:,} pixels in all scans",
        )
