"""Hang pictures on a page, small enough to live inside it.

Every picture is decoded with the limits of `data.images` and encoded anew: nothing of the original file
reaches the page.
"""

import base64
import io
from dataclasses import dataclass

from diptych.core.errors import BadSampleError
from diptych.data.images.decode import decode
from diptych.report.markup import Html, tag

SIDE = 224
"""Longest side in pixels: the largest frame on the page is 112 wide, twice that for dense screens."""

QUALITY = 82
"""JPEG quality: artefacts are not seen at this size; a picture takes about 6 kB."""

SHOWN_TEXT = 160
"""Characters of a caption; the rest becomes an ellipsis."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture with the words beside it.

    Attributes:
        data: the encoded file, as the source has it; unreadable ones are shown as an empty frame.
        caption: what the picture shows; also the text for those who cannot see it.
        right: whether it was answered right, or is a right answer; None where that is no question.
        note: a few words under it, such as the answer that was given.
    """

    data: bytes
    caption: str
    right: bool | None = None
    note: str = ""


def data_uri(data: bytes) -> str | None:
    """Return a small JPEG copy as a data URI, None where the picture cannot be read."""
    try:
        image = decode(data)
    except BadSampleError:
        return None
    image.thumbnail((SIDE, SIDE))
    image.info.clear()  # Pillow would copy the original's JPEG comment into the copy.
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def hung(picture: Picture, *, plain: bool = False) -> Html:
    """Hang one picture; `plain` leaves its words out of sight."""
    uri = data_uri(picture.data)
    shown = (
        tag("img", src=uri, alt=shortened(picture.caption), title=shortened(picture.caption), loading="lazy")
        if uri is not None
        else tag("span", "unreadable", class_="unreadable")
    )
    if plain:
        return shown
    verdict = Html("") if picture.right is None else mark(picture.right)
    note = tag("figcaption", shortened(picture.note), dir="auto") if picture.note else Html("")
    kind = "" if picture.right is None else " is-right" if picture.right else " is-wrong"
    return tag("figure", tag("div", shown, verdict, class_="hung"), note, class_="frame-box" + kind)


def mark(right: bool) -> Html:
    """Draw a tick or a cross, which says its name to those who cannot see it."""
    name = "right" if right else "wrong"
    return tag("span", "✓" if right else "✗", class_=f"mark {name}", role="img", aria_label=name)


def shortened(text: str) -> str:
    """Cut a caption that would fill the page.

    >>> len(shortened("long " * 100))
    160
    """
    return text if len(text) <= SHOWN_TEXT else text[: SHOWN_TEXT - 1].rstrip() + "…"
