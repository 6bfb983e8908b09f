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
    variable = f"DIPTYCH_{name.upper()}"
    text = os.environ.get(variable, "")
    if text and not (text.isdecimal() and len(text) <= MAX_DIGITS):
        what = "an image limit is no number"
        raise SettingsError(what, where=variable, found=text[:40], expected="a whole number")
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
        """Raise SettingsError for a limit below one or a format that is never read."""
        for name in ("max_bytes", "max_pixels", "max_side"):
            if (limit := getattr(self, name)) < 1:
                raise SettingsError(f"image limit {name} is too small", found=limit, expected="1 or more")
        if unknown := set(self.formats) - READABLE_FORMATS:
            what, expected = "this image format cannot be allowed", ", ".join(sorted(READABLE_FORMATS))
            raise SettingsError(what, found=", ".join(sorted(unknown)), expected=f"among {expected}")


DEFAULT_LIMITS = ImageLimits()


def check_bytes(data: bytes, limits: ImageLimits) -> None:
    """Refuse a file that is too large."""
    if len(data) > limits.max_bytes:
        reason, found = Reason.TOO_MANY_BYTES, f"{len(data):,} bytes"
        expected, fix = f"at most {limits.max_bytes:,}", f"to read it set {SETTING_OF[reason]}"
        raise BadSampleError(reason, "the image file is too large", found=found, expected=expected, fix=fix)


def check_format(data: bytes, limits: ImageLimits) -> str:
    """Return the format that the first bytes claim; refuse what is not read."""
    check_bytes(data, limits)
    name, expected = sniff(data), f"one of {', '.join(limits.formats)}"
    if name is None:
        reason, found = Reason.UNREADABLE_IMAGE, f"{len(data)} bytes that begin with {data[:8]!r}"
        raise BadSampleError(reason, "the bytes are not an image", found=found, expected=expected)
    if name not in limits.formats:
        reason, what = Reason.FORMAT_NOT_ALLOWED, "this image format is not read"
        raise BadSampleError(reason, what, found=name, expected=expected)
    return name


def check_size(width: int, height: int, limits: ImageLimits) -> None:
    """Refuse an image without pixels or with too many."""
    if width < 1 or height < 1:
        raise BadSampleError(Reason.UNREADABLE_IMAGE, "the image has no pixels", found=f"{width}×{height}")
    if width * height > limits.max_pixels or max(width, height) > limits.max_side:
        reason, found = Reason.TOO_MANY_PIXELS, f"{width}×{height} pixels"
        expected = f"at most {limits.max_pixels:,} and no side above {limits.max_side:,}"
        fix = f"to read it set {SETTING_OF[reason]}"
        raise BadSampleError(
            reason, "the image is too large to decode", found=found, expected=expected, fix=fix
        )


def check_scans(data: bytes, width: int, height: int, limits: ImageLimits) -> None:
    """Refuse a progressive JPEG that decodes its pixels over and over."""
    scans = data.count(b"\xff\xda")  # entropy-coded bytes never hold this marker: 0xff is stuffed there
    most = MAX_SCANS * limits.max_pixels
    if scans * width * height > most:
        reason, what = Reason.TOO_MANY_PIXELS, "the progressive JPEG decodes its pixels too many times"
        found, expected = f"{scans} scans of {width}×{height}", f"at most {most:,} pixels in all scans"
        raise BadSampleError(reason, what, found=found, expected=expected)
