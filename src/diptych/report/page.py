"""The HTML page: escaped markup, embedded images, a header, numbered two-column sections, a footer.

Each section has its explanation on the left, images and numbers on the right. The page has no script and
loads nothing: images are small copies inside the file, decoded with the limits of `data.images` and encoded
anew, and the page's Content-Security-Policy forbids requests. `tag` escapes every child that is plain text
and replaces the characters that HTML forbids, so that a caption cannot become code.

Reads: `page.html` and `page.css` of this package. Writes: the file at the given path.
"""

import base64
import html
import io
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template

from diptych.core.errors import BadSampleError
from diptych.core.files.durable import write_text
from diptych.core.manifest import created_by
from diptych.data.images.decode import decode

SIDE = 224
"""Longest side in pixels: the largest frame on the page is 112 wide, twice that for dense screens."""

QUALITY = 82
"""JPEG quality: artefacts are not seen at this size; an image takes about 6 kB."""

SHOWN_TEXT = 160
"""Characters of a caption; the rest becomes an ellipsis."""

FORBIDDEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069\ufffe\uffff]"
)
"""Controls, lone surrogates, and the marks that turn the direction of the text around them."""

VOID = frozenset({"img", "meta", "br", "hr"})


class Html(str):
    """Text that is already markup."""

    __slots__ = ()


def escaped(text: str) -> Html:
    """Turn any text into markup that shows it.

    >>> escaped("<b> & \\u202e")
    '&lt;b&gt; &amp; �'
    """
    return Html(html.escape(FORBIDDEN.sub("\ufffd", text), quote=True))


def tag(name: str, *children: str, **attributes: str | int | float | bool) -> Html:
    """Write one element.

    Args:
        name: of the element.
        children: markup as it is, plain text escaped.
        attributes: `class_` becomes `class`, other underscores become hyphens; True writes the name alone,
            False nothing.

    >>> tag("p", "1 < 2", tag("b", "yes"), class_="note", hidden=True)
    '<p class="note" hidden>1 &lt; 2<b>yes</b></p>'
    """
    written = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{escaped(str(value))}"')
        for key, value in attributes.items()
        if value is not False
    )
    inside = join(*children)
    return Html(f"<{name}{written}>" if name in VOID else f"<{name}{written}>{inside}</{name}>")


def table(rows: Sequence[Sequence[str]], names: Sequence[str] = (), *, scroll: bool = True) -> Html:
    """Return a table whose first cell of a row is its header; `names` are the columns'."""
    head = tag("thead", tag("tr", *(tag("th", name, scope="col") for name in names))) if names else Html("")
    body = [tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:])) for row in rows]
    drawn = tag("table", head, tag("tbody", *body), class_="figures")
    return tag("div", drawn, class_="scroll", tabindex=0) if scroll else drawn


def join(*children: str) -> Html:
    """Concatenate pieces: markup as it is, plain text escaped."""
    return Html("".join(child if isinstance(child, Html) else escaped(child) for child in children))


@dataclass(frozen=True, slots=True)
class ImageExample:
    """An encoded image with its caption and, optionally, whether it is right.

    Attributes:
        data: the encoded file, as the source has it; unreadable ones are shown as an empty frame.
        caption: also the alternative text.
        right: whether it was predicted right, or is a right hit; None where neither applies.
        note: text under it, such as the predicted class.
    """

    data: bytes
    caption: str
    right: bool | None = None
    note: str = ""


def data_uri(data: bytes) -> str | None:
    """Return a small JPEG copy as a data URI, None where the image cannot be read."""
    try:
        image = decode(data)
    except BadSampleError:
        return None
    image.thumbnail((SIDE, SIDE))
    image.info.clear()  # Pillow would copy the original's JPEG comment into the copy.
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def render_image(image: ImageExample, *, plain: bool = False) -> Html:
    """Return the markup of one image; `plain` leaves out its mark and note."""
    uri = data_uri(image.data)
    shown = (
        tag("img", src=uri, alt=shortened(image.caption), title=shortened(image.caption), loading="lazy")
        if uri is not None
        else tag("span", "unreadable", class_="unreadable")
    )
    if plain:
        return shown
    verdict = Html("") if image.right is None else mark(image.right)
    note = tag("figcaption", shortened(image.note), dir="auto") if image.note else Html("")
    kind = "" if image.right is None else " is-right" if image.right else " is-wrong"
    return tag("figure", tag("div", shown, verdict, class_="framed"), note, class_="frame-box" + kind)


def mark(right: bool) -> Html:
    """Draw a tick or a cross, named for screen readers."""
    name = "right" if right else "wrong"
    return tag("span", "✓" if right else "✗", class_=f"mark {name}", role="img", aria_label=name)


def shortened(text: str) -> str:
    """Cut a text to `SHOWN_TEXT` characters.

    >>> len(shortened("long " * 100))
    160
    """
    return text if len(text) <= SHOWN_TEXT else text[: SHOWN_TEXT - 1].rstrip() + "…"


NUMERALS = ("I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII")

COVER_IMAGES = 12
"""Images in the header: three columns of four rows."""


@dataclass(frozen=True, slots=True)
class Section:
    """One section: its title and explanation on the left, its content on the right."""

    title: str
    text: Html
    content: Html


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a page.

    Attributes:
        kind: what the page is, such as "report of a run".
        title: its name.
        summary: one or two sentences.
        facts: pairs of name and value.
        cover: images; up to `COVER_IMAGES` are shown.
    """

    kind: str
    title: str
    summary: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    cover: tuple[ImageExample, ...] = ()


def header(head: Header) -> Html:
    """Return the header: cover images beside title, summary and facts."""
    cover = [render_image(image, plain=True) for image in head.cover[:COVER_IMAGES]]
    facts = [tag("div", tag("dt", titled(name)), tag("dd", value)) for name, value in head.facts]
    words = tag(
        "div",
        tag("p", f"diptych · {head.kind}", class_="kicker"),
        tag("h1", head.title),
        tag("p", head.summary, class_="summary") if head.summary else Html(""),
        tag("dl", *facts, class_="facts") if facts else Html(""),
        class_="panel words",
    )
    images = tag("div", *cover, class_="panel cover") if cover else Html("")
    return tag("header", images, words, class_="page-header" if cover else "page-header single")


def numbered(count: int, section: Section) -> Html:
    """Return a section: numeral, title and text on the left, its content on the right."""
    numeral = NUMERALS[count - 1] if count <= len(NUMERALS) else str(count)
    return tag(
        "section",
        tag(
            "div",
            tag("p", numeral, class_="numeral", aria_hidden="true"),
            tag("h2", section.title, id=f"s{count}"),
            section.text,
            class_="side",
        ),
        tag("div", section.content, class_="main"),
        class_="section",
        aria_labelledby=f"s{count}",
    )


def footer() -> Html:
    """Return the footer: the program and its version."""
    return tag(
        "footer", tag("p", f"Written by {created_by()}. One file, no scripts, nothing loaded from elsewhere.")
    )


def titled(text: str) -> str:
    """Return a text with its first letter in upper case.

    >>> titled("base color")
    'Base color'
    """
    return text[:1].upper() + text[1:]


def page(head: Header, sections: Sequence[Section | None]) -> str:
    """Return a whole page as text; sections that are None are left out, the others numbered."""
    files = resources.files("diptych.report")
    body = join(header(head), *map(numbered, itertools.count(1), filter(None, sections)), footer())
    return Template((files / "page.html").read_text(encoding="utf-8")).substitute(
        title=escaped(head.title), style=(files / "page.css").read_text(encoding="utf-8"), body=body
    )


def write_page(path: str | Path, head: Header, sections: Sequence[Section | None]) -> None:
    """Write a page durably; the same content gives the same bytes."""
    write_text(path, page(head, sections))
