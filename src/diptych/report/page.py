"""HTML pages from the Jinja templates of this package: numbered sections, images as small copies in the file.

A page has no script and loads nothing: images are decoded with the limits of `data.images` and encoded anew,
and the page's Content-Security-Policy forbids requests. Every value is escaped, and the characters that HTML
forbids are replaced, so that a caption cannot become code.
"""

import base64
import io
import itertools
import math
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import jinja2
from markupsafe import Markup

from diptych.core.errors import BadSampleError
from diptych.core.files.durable import write_text
from diptych.core.manifest import created_by
from diptych.data.images.decode import decode
from diptych.data.near_copies.overlap import SIGNIFICANT
from diptych.report import plots
from diptych.report.data import ImageExample

SIDE = 224  # longest side in pixels: the largest frame on the page is 112 wide, twice that for dense screens
QUALITY = 82  # of JPEG: artefacts are not seen at this size; an image takes about 6 kB
SHOWN_TEXT = 160  # characters of a caption; the rest becomes an ellipsis
COVER_IMAGES = 12  # in the header: three columns of four rows

# Controls, lone surrogates, and the marks that turn the direction of the text around them.
FORBIDDEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069\ufffe\uffff]"
)
NUMERALS = ("I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII")


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a page: what it is, its name, pairs of name and value, up to `COVER_IMAGES` images."""

    kind: str
    title: str
    summary: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    cover: tuple[ImageExample, ...] = ()


def data_uri(data: bytes) -> str | None:
    """Return a small JPEG copy as a data URI, None where the image cannot be read."""
    small = thumbnail(data)
    return None if small is None else "data:image/jpeg;base64," + base64.b64encode(small).decode("ascii")


def thumbnail(data: bytes, kind: Literal["JPEG", "PNG"] = "JPEG") -> bytes | None:
    """Return a small copy without metadata, None where the image cannot be read."""
    try:
        image = decode(data)
    except BadSampleError:
        return None
    image.thumbnail((SIDE, SIDE))
    image.info.clear()  # Pillow would copy the original's JPEG comment into the copy
    file = io.BytesIO()
    image.save(file, kind, quality=QUALITY, optimize=True)
    return file.getvalue()


def shortened(text: str) -> str:
    """Cut a text to `SHOWN_TEXT` characters.

    >>> len(shortened("long " * 100))
    160
    """
    return text if len(text) <= SHOWN_TEXT else text[: SHOWN_TEXT - 1].rstrip() + "…"


def render(template: str, head: Header, **values: Any) -> str:
    """Return a page as text; the same values give the same bytes."""
    counter = itertools.count(1)
    page = environment().get_template("page.html")
    return page.render(head=head, content=template, next_section=lambda: next(counter), **values)


def write_page(path: str | Path, template: str, head: Header, **values: Any) -> None:
    """Write a page durably."""
    write_text(path, render(template, head, **values))


@cache
def environment() -> jinja2.Environment:
    """Return the templates with their filters."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("diptych.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_printable,
    )
    filters = (data_uri, shortened, titled, plots.number, plots.percent, plots.points, plots.whole,
               plots.across, plots.drawing, plots.heat, plots.confusions, plots.axis_top,
               plots.first_against_last, math.isnan)  # fmt: skip
    made.filters |= {function.__name__: function for function in filters}
    made.filters |= {"numeral": lambda n: NUMERALS[n - 1] if n <= len(NUMERALS) else str(n)}
    made.tests["markup"] = lambda value: isinstance(value, Markup)
    made.globals |= {
        "program": created_by(),
        "nan": math.nan,
        "significant": SIGNIFICANT,
        "cover_images": COVER_IMAGES,
        "shown_classes": plots.SHOWN_CLASSES,
    }
    return made


def titled(text: str) -> str:
    """Return a text with its first letter in upper case: "base color" becomes "Base color"."""
    return text[:1].upper() + text[1:]


def _printable(value: Any) -> Any:
    return value if isinstance(value, Markup) else FORBIDDEN.sub("\ufffd", str(value))
