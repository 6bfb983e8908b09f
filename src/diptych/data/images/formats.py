"""Image file formats: what their first bytes and their names look like, and which of them are read."""

from typing import Literal, NamedTuple


class ImageFormat(NamedTuple):
    """A row of `FORMATS`.

    Attributes:
        name: Pillow's.
        extensions: of file names, the usual one first.
        signatures: (offset, bytes) by any of which a file claims the format.
        read: "always"; "asked": where the limits name it; "never": Pillow has no decoder of its own, or (EPS)
            runs a program on the file.
    """

    name: str
    extensions: tuple[str, ...]
    signatures: tuple[tuple[int, bytes], ...]
    read: Literal["always", "asked", "never"] = "always"


_BIG_TIFF = ((0, b"II+\x00"), (0, b"MM\x00+"))
FORMATS = (
    ImageFormat("JPEG", ("jpg", "jpeg"), ((0, b"\xff\xd8\xff"),)),
    ImageFormat("PNG", ("png",), ((0, b"\x89PNG\r\n\x1a\n"),)),
    ImageFormat("WEBP", ("webp",), ((8, b"WEBP"),)),
    ImageFormat("GIF", ("gif",), ((0, b"GIF87a"), (0, b"GIF89a"))),
    ImageFormat("BMP", ("bmp",), ((0, b"BM"),)),
    ImageFormat("TIFF", ("tif", "tiff"), ((0, b"II*\x00"), (0, b"MM\x00*"), *_BIG_TIFF)),
    ImageFormat("AVIF", ("avif",), ((4, b"ftypavif"), (4, b"ftypavis"))),
    ImageFormat(
        "JPEG2000", ("jp2", "j2k", "jpx"), ((0, b"\x00\x00\x00\x0cjP  \r\n\x87\n"), (0, b"\xff\x4f\xff\x51"))
    ),
    ImageFormat("PPM", ("ppm", "pgm", "pbm", "pnm"), tuple((0, b"P%d" % kind) for kind in range(1, 7))),
    ImageFormat("ICO", ("ico",), ((0, b"\x00\x00\x01\x00"),), "asked"),
    ImageFormat("PSD", ("psd",), ((0, b"8BPS"),), "asked"),
    ImageFormat("HEIF", ("heic", "heif"), ((4, b"ftyphei"), (4, b"ftypmif1")), "never"),
    ImageFormat("EPS", ("eps",), ((0, b"%!PS"),), "never"),
    ImageFormat("PDF", ("pdf",), ((0, b"%PDF"),), "never"),
    ImageFormat("SVG", ("svg",), ((0, b"<svg"), (0, b"<?xml")), "never"),
)
_READ = tuple(row for row in FORMATS if row.read == "always")
READ_FORMATS = tuple(row.name for row in _READ)
WEB_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""What is decoded of untrusted files from the web: no recent decoder fault in Pillow was in these."""
READABLE_FORMATS = frozenset(row.name for row in FORMATS if row.read != "never")
IMAGE_EXTENSIONS = frozenset(extension for row in _READ for extension in row.extensions)
IMAGE_SUFFIXES = frozenset(f".{extension}" for extension in IMAGE_EXTENSIONS)


def sniff(data: bytes) -> str | None:
    """Return the format that the first bytes claim, or None.

    >>> sniff(b"GIF89a\\x01\\x00"), sniff(b"hello")
    ('GIF', None)
    """
    for row in FORMATS:
        if any(data.startswith(mark, at) for at, mark in row.signatures):
            return row.name
    return None


def image_extension(data: bytes) -> str | None:
    """Return the usual extension of a format that is read, by the first bytes; None for any other.

    >>> image_extension(b"GIF89a"), image_extension(b"%PDF") is None
    ('gif', True)
    """
    name = sniff(data)
    return next((row.extensions[0] for row in _READ if row.name == name), None)
