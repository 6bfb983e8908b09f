"""What an image file tells about itself: size, date, camera, place; and the image inside HEIC and RAW files.

Dates are local times, as cameras write them. What a file does not say stays empty; nothing is guessed, not
from the file's name and not from its date on the disk. XMP counts where EXIF is silent.
Source: CIPA DC-008 (EXIF 3.0); ISO 16684-1 (XMP).
"""

import io
import re
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image

from diptych.core.errors import BadSampleError, MissingPackageError, Reason
from diptych.data.images.formats import READABLE_FORMATS

HEIF_SUFFIXES = frozenset((".heic", ".heif", ".hif"))
RAW_SUFFIXES = frozenset(
    (".3fr", ".arw", ".cr2", ".cr3", ".dng", ".erf", ".iiq", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw",
     ".rw2", ".rwl", ".srw")
)  # fmt: skip
CAMERA_CHARACTERS = 100
_DATE = re.compile(r"(\d{4})[:-](\d\d)[:-](\d\d)[ T](\d\d):(\d\d):(\d\d)")
_XMP = {
    "taken": r"(?:exif:DateTimeOriginal|xmp:CreateDate|photoshop:DateCreated)",
    "camera": r"tiff:Model",
    "latitude": r"exif:GPSLatitude",
    "longitude": r"exif:GPSLongitude",
}


def describe(data: bytes) -> dict[str, Any]:
    """Return what an image file says about itself, by the names of `Item`'s fields."""
    facts: dict[str, Any] = {"bytes": len(data)}
    # Damaged headers make Pillow raise and warn many things; whether the image can be read is seen later.
    with suppress(Exception), warnings.catch_warnings(action="ignore"):
        image = Image.open(io.BytesIO(data), formats=sorted(READABLE_FORMATS))
        facts.update(width=image.width, height=image.height, format=image.format or "")
        facts.update({**_from_xmp(image.info), **_from_exif(image.getexif())})
    return facts


def has_own_decoder(path: Path) -> bool:
    """Tell whether an image of this name needs the `photos` extra."""
    return path.suffix.lower() in HEIF_SUFFIXES | RAW_SUFFIXES


def preview(data: bytes, path: Path) -> tuple[Image.Image | bytes, dict[str, Any]]:
    """Return the image in a HEIC or RAW file, upright, and what the file says about itself.

    A RAW file gives the camera's own preview, or is developed where it has none.

    Raises:
        BadSampleError: it cannot be read.
        MissingPackageError: pillow-heif or rawpy is not installed.
    """
    try:
        return _heif(data) if path.suffix.lower() in HEIF_SUFFIXES else _raw(data)
    except ImportError as error:
        what, fix = f"reading {path.suffix} files needs a package", 'pip install "diptych[photos]"'
        raise MissingPackageError(what, where=path, found=f"no {error.name}", fix=fix) from error
    except Exception as error:  # of two libraries over C code, each with errors of its own
        raise BadSampleError(Reason.UNREADABLE_IMAGE, where=path, found=error) from error


def _heif(data: bytes) -> tuple[Image.Image, dict[str, Any]]:
    import pillow_heif

    image = pillow_heif.open_heif(data).to_pillow()
    facts = {"bytes": len(data), "width": image.width, "height": image.height, "format": "HEIF"}
    exif = Image.Exif()
    exif.load(image.info.get("exif") or b"")
    return image, {**facts, **_from_xmp(image.info), **_from_exif(exif)}


def _raw(data: bytes) -> tuple[Image.Image | bytes, dict[str, Any]]:
    import rawpy

    with rawpy.imread(io.BytesIO(data)) as raw:
        size = {"width": raw.sizes.width, "height": raw.sizes.height}
        try:
            thumb = raw.extract_thumb()
        except rawpy.LibRawError:
            thumb = None
        if thumb is not None and thumb.format == rawpy.ThumbFormat.JPEG:
            jpeg = bytes(thumb.data)
            return jpeg, {**describe(jpeg), **size, "bytes": len(data), "format": "RAW"}
        image = Image.fromarray(raw.postprocess(half_size=True, use_camera_wb=True))
    return image, {"bytes": len(data), **size, "format": "RAW"}


def _from_exif(exif: Image.Exif) -> dict[str, Any]:
    camera = exif.get_ifd(ExifTags.IFD.Exif)
    place = exif.get_ifd(ExifTags.IFD.GPSInfo)
    tags = ExifTags.Base
    facts = {
        "taken": _date(camera.get(tags.DateTimeOriginal) or camera.get(tags.DateTimeDigitized)),
        "camera": _text(exif.get(tags.Model)),
        "latitude": _degrees(place, ExifTags.GPS.GPSLatitude, ExifTags.GPS.GPSLatitudeRef, "S"),
        "longitude": _degrees(place, ExifTags.GPS.GPSLongitude, ExifTags.GPS.GPSLongitudeRef, "W"),
    }
    return {name: value for name, value in facts.items() if value not in ("", None)}


def _from_xmp(info: Mapping[Any, Any]) -> dict[str, Any]:
    packet = info.get("xmp") or info.get("XML:com.adobe.xmp") or b""
    text = packet.decode("utf-8", "replace") if isinstance(packet, bytes) else str(packet)
    facts: dict[str, Any] = {}
    for name, tag in _XMP.items():
        if match := re.search(rf"""{tag}(?:\s*=\s*["']|\s*>\s*)([^"'<]{{1,100}})""", text):
            facts[name] = match[1].strip()
    if "taken" in facts:
        facts["taken"] = _date(facts["taken"])
    for name in ("latitude", "longitude"):
        if name in facts:
            facts[name] = _xmp_degrees(facts[name])
    return {name: value for name, value in facts.items() if value not in ("", None)}


def _text(value: object) -> str:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")
    return text.replace("\0", "").strip()[:CAMERA_CHARACTERS]


def _date(value: object) -> str:
    """Return "2024-05-31T18:04:00", or nothing for what is no date (cameras without one write zeros)."""
    match = _DATE.match(_text(value))
    if match is None or not (1 <= int(match[2]) <= 12 and 1 <= int(match[3]) <= 31 and int(match[1])):
        return ""
    year, month, day, hour, minute, second = match.groups()
    return f"{year}-{month}-{day}T{hour}:{minute}:{second}"


def _degrees(place: Mapping[int, Any], tag: int, side: int, negative: str) -> float | None:
    try:
        degrees, minutes, seconds = (float(part) for part in place[tag])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    value = degrees + minutes / 60 + seconds / 3600
    value = -value if _text(place.get(side)).upper().startswith(negative) else value
    return round(value, 6) if -180 <= value <= 180 else None  # NaN too is refused here


def _xmp_degrees(text: str) -> float | None:
    match = re.fullmatch(r"(\d+),(\d+(?:\.\d+)?)(?:,(\d+(?:\.\d+)?))?([NSEW])", text)
    if match is None:
        return None
    value = int(match[1]) + float(match[2]) / 60 + float(match[3] or 0) / 3600
    return round(-value if match[4] in "SW" else value, 6)
