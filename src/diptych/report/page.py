"""What every page of ours is made of: a masthead, numbered leaves of two panels, a colophon.

A leaf has words on the left, pictures and numbers on the right. No script, no request, no font from
elsewhere: pictures are small re-encoded copies inside the file, and the page's own policy forbids the browser
to load anything. Every text goes through `markup`, so a caption cannot become code.

Reads: `page.html` and `page.css` of this package. Writes: the file it is told to.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template

from diptych.core.files.durable import write_text
from diptych.core.manifest import created_by
from diptych.report.images import Picture, hung
from diptych.report.markup import Html, escaped, join, tag
from diptych.report.plots import whole

NUMERALS = ("I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII")

WALL = 12
"""Pictures in the masthead: three columns of four."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """One section: its title and a sentence on the left, its content on the right."""

    title: str
    words: Html
    content: Html


@dataclass(frozen=True, slots=True)
class Masthead:
    """The head of a page.

    Attributes:
        kind: what the page is, such as "report of a run".
        title: its name.
        summary: one or two sentences.
        facts: pairs of name and value.
        wall: pictures; up to `WALL` are shown.
    """

    kind: str
    title: str
    summary: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    wall: tuple[Picture, ...] = ()


def masthead(head: Masthead) -> Html:
    """The diptych itself: a wall of pictures, and what the page is about in words."""
    wall = [hung(picture, plain=True) for picture in head.wall[:WALL]]
    facts = [tag("div", tag("dt", titled(name)), tag("dd", value)) for name, value in head.facts]
    words = tag(
        "div",
        tag("p", f"diptych · {head.kind}", class_="kicker"),
        tag("h1", head.title),
        tag("p", head.summary, class_="summary") if head.summary else Html(""),
        tag("dl", *facts, class_="facts") if facts else Html(""),
        class_="panel words",
    )
    pictures = tag("div", *wall, class_="panel wall") if wall else Html("")
    return tag("header", pictures, words, class_="masthead" if wall else "masthead single")


def numbered(count: int, leaf: Leaf) -> Html:
    """Bind a leaf: numeral, title and words on the left panel, the content on the right."""
    numeral = NUMERALS[count - 1] if count <= len(NUMERALS) else str(count)
    return tag(
        "section",
        tag(
            "div",
            tag("p", numeral, class_="numeral", aria_hidden="true"),
            tag("h2", leaf.title, id=f"s{count}"),
            leaf.words,
            class_="side",
        ),
        tag("div", leaf.content, class_="main"),
        class_="leaf",
        aria_labelledby=f"s{count}",
    )


def left_out(counts: Sequence[tuple[str, int]]) -> Leaf | None:
    """What was dropped, by reason: said even when it is nothing."""
    if not counts:
        return None
    rows = [
        tag("tr", tag("th", titled(reason), scope="row"), tag("td", whole(count))) for reason, count in counts
    ]
    words = tag(
        "p",
        "Nothing is skipped in silence. A picture that cannot be read stays in the total "
        "and counts as wrong.",
    )
    return Leaf("Left out", words, tag("table", tag("tbody", *rows), class_="figures"))


def colophon() -> Html:
    """Who made the page."""
    return tag(
        "footer", tag("p", f"Written by {created_by()}. One file, no scripts, nothing loaded from elsewhere.")
    )


def titled(text: str) -> str:
    """Begin with a capital, and leave the rest as it is.

    >>> titled("base colour")
    'Base colour'
    """
    return text[:1].upper() + text[1:]


def page(head: Masthead, leaves: Sequence[Leaf | None]) -> str:
    """Return a whole page as text; leaves that have nothing to say are left out, the others numbered."""
    files = resources.files("diptych.report")
    said = [leaf for leaf in leaves if leaf is not None]
    body = join(
        masthead(head), *(numbered(number, leaf) for number, leaf in enumerate(said, start=1)), colophon()
    )
    return Template((files / "page.html").read_text(encoding="utf-8")).substitute(
        title=escaped(head.title), style=(files / "page.css").read_text(encoding="utf-8"), body=body
    )


def write_page(path: str | Path, head: Masthead, leaves: Sequence[Leaf | None]) -> None:
    """Write a page durably; the same content gives the same bytes."""
    write_text(path, page(head, leaves))
