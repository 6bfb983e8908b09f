"""Images of an HTML page with the texts around them, by a tokenizer that takes linear time.

It follows the standard where pages depend on it (comments, raw text, quotes, the first of two attributes).
It builds no tree: figures and links are remembered while they are open.

Ours although the stage is faster with FastWARC and selectolax 1.0.2 (79 MB of pages: 3.0 to 5.4 s,
ours 4.4 to 5.0 s): its parser takes 4 s for 20,000 nested tags and 31 s for 40,000, so that one page of a
crawl, up to 5 MiB, could stop the stage.

Reads: the text of a page. Writes: nothing.
Source: WHATWG HTML Standard, sections 13.2.5 (tokenization), 4.8.4 (images, srcset).
"""

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.entities import html5

MAX_TEXT = 20_000
"""Characters of a figure's caption or a link's text that are kept: enough to be refused as too long."""
MAX_OUTWARD = 4
"""Figures that may lie around one without a caption and still lend it theirs."""

_TAG = re.compile(r"<(?:(!--|[!?])|(/?)([a-zA-Z][^\s/>]*+))")
# A quote opens a value only behind "="; a quote that is never closed is a character like others.
_REST = re.compile(r"""(?:[^>"'=]++|=\s*+(?:"[^"]*+"|'[^']*+'|[^\s>"'][^\s>]*+)?|["'])*+>""")
_ATTRIBUTE = re.compile(
    r"""([^\s"'>/=][^\s>/=]*+)(?:\s*+=\s*+(?:"([^"]*+)"|'([^']*+)'|([^\s>"'][^\s>]*+)))?"""
)
_RAW = ("script", "style", "textarea", "title", "xmp", "iframe", "noembed", "noframes", "template")
_RAW_END = {name: re.compile(f"</{name}(?=[\\s/>])", re.IGNORECASE) for name in _RAW}
_WITH_ATTRIBUTES = frozenset({"img", "a", "base", "link"})
_REFERENCE = re.compile(r"&(?:#[0-9]{1,8};?|#[xX][0-9a-fA-F]{1,8};?|[a-zA-Z][a-zA-Z0-9]{1,31};?)(=?)")

# Pages that load images late keep a place holder in src.
_LAZY = ("data-src", "data-lazy-src", "data-original")
_SPACING = frozenset({"br", "p", "div", "li", "td", "tr", "h1", "h2", "h3"})
_DESCRIPTOR = re.compile(r"(?:[0-9]{1,9}(?:\.[0-9]{0,9})?|\.[0-9]{1,9})[wx]")


@dataclass(slots=True)
class _Text:
    """Text that is still growing, up to a length that no caption may have."""

    pieces: list[str] = field(default_factory=list)
    size: int = 0

    def add(self, piece: str) -> None:
        if self.size <= MAX_TEXT:
            self.pieces.append(piece)
            self.size += len(piece)

    def whole(self) -> str:
        return squeezed(html.unescape("".join(self.pieces)))


@dataclass(slots=True)
class _Figure:
    outer: int
    text: str | None = None


@dataclass(slots=True)
class _Link:
    title: str
    inside: _Text = field(default_factory=_Text)


_CC = re.compile(r"https?://(?:www\.)?creativecommons\.org/(?:licenses|publicdomain)/", re.IGNORECASE)


@dataclass(slots=True)
class License:
    """The license of a page: the first declared by `rel=license`, else the first Creative Commons link.

    >>> license = License()
    >>> license.see("https://creativecommons.org/licenses/by/4.0/", "nofollow")
    >>> license.see("/terms", "nofollow license")
    >>> license.address
    '/terms'
    """

    address: str = ""
    declared: bool = False

    def see(self, address: str, relation: str) -> None:
        """Look at one link of the page."""
        if self.declared or not address:
            return
        self.declared = "license" in relation.lower().split()
        if self.declared or (not self.address and _CC.match(address)):
            self.address = address


@dataclass(slots=True)
class PageImage:
    """One `img` of a page.

    Attributes:
        source: as the page writes it; None if it names none.
        alt: the text for those who cannot see it; None if there is none.
        title: the text for those who point at it.
        figure: number of the innermost figure around it, -1 for none.
        link: the link around it.
    """

    source: str | None
    alt: str | None
    title: str | None
    figure: int = -1
    link: _Link | None = None


@dataclass(slots=True)
class Page:
    """What a page says about its images.

    Attributes:
        base: what relative addresses start from, as the page writes it.
        title: of the page.
        license: which the page links to.
        images: in order.
        figures: in order.
    """

    base: str = ""
    title: str = ""
    license: License = field(default_factory=License)
    images: list[PageImage] = field(default_factory=list)
    figures: list[_Figure] = field(default_factory=list)

    def figure_caption(self, image: PageImage) -> str | None:
        """Return the caption of the innermost figure around an image that has one."""
        number = image.figure
        for _ in range(1 + MAX_OUTWARD):
            if number < 0:
                return None
            if self.figures[number].text is not None:
                return self.figures[number].text
            number = self.figures[number].outer
        return None

    def link_text(self, image: PageImage) -> str | None:
        """Return the title of the link around an image, or its text."""
        if image.link is None:
            return None
        return image.link.title or image.link.inside.whole() or None


def read_page(text: str) -> Page:
    """Collect a page's images with the texts around them.

    >>> page = read_page('<figure><img src=a.jpg alt="A dog"><figcaption>Rex</figcaption></figure>')
    >>> page.images[0].alt, page.figure_caption(page.images[0])
    ('A dog', 'Rex')
    """
    reader = _Reader()
    for name, closing, attributes, before in _tags(text):
        reader.text(before)
        if closing:
            reader.close(name)
        else:
            reader.open(name, attributes)
    return reader.page


def _tags(text: str) -> Iterator[tuple[str, bool, str, str]]:
    """Yield (name, whether it closes, attributes, text since the tag before); for a title, what it holds."""
    place, seen = 0, 0
    while found := _TAG.search(text, place):
        before = text[seen : min(found.start(), seen + MAX_TEXT)]
        if found[1]:
            # "<!-->" is a whole comment.
            end = text.find("-->", found.end() - 2) + 3 if found[1] == "!--" else text.find(">", place) + 1
            if end <= found.start():
                return
            yield "", False, "", before
            place = seen = end
            continue
        name, rest = found[3].lower(), _REST.match(text, found.end())
        if rest is None:  # no tag ends any more
            return
        place = seen = rest.end()
        if name not in _RAW_END or found[2]:
            yield name, bool(found[2]), text[found.end() : place - 1], before
            continue
        end_tag = _RAW_END[name].search(text, place)
        if end_tag is None:
            return
        yield name, False, text[place : min(end_tag.start(), place + MAX_TEXT)], before
        place = seen = end_tag.start()


class _Reader:
    """What is open at one point of a page."""

    def __init__(self) -> None:
        self.page = Page()
        self._figures: list[int] = []
        self._link: _Link | None = None
        self._caption: _Text | None = None

    def text(self, piece: str) -> None:
        if self._caption is not None:
            self._caption.add(piece)
        if self._link is not None:
            self._link.inside.add(piece)

    def open(self, name: str, attributes: str) -> None:
        if name in _SPACING:
            self.text(" ")
        elif name == "figure":
            self.page.figures.append(_Figure(self._figures[-1] if self._figures else -1))
            self._figures.append(len(self.page.figures) - 1)
        elif name == "figcaption":
            self._end_caption()
            self._caption = _Text()
        elif name == "title":
            self.page.title = self.page.title or squeezed(html.unescape(attributes))
        elif name in _WITH_ATTRIBUTES:
            self._read(name, _attributes(attributes))

    def close(self, name: str) -> None:
        if name == "figcaption":
            self._end_caption()
        elif name == "figure" and self._figures:
            self._end_caption()
            self._figures.pop()
        elif name == "a":
            self._link = None

    def _end_caption(self) -> None:
        if self._caption is not None and self._figures:
            figure = self.page.figures[self._figures[-1]]
            figure.text = figure.text or self._caption.whole() or None
        self._caption = None

    def _read(self, name: str, values: dict[str, str]) -> None:
        page = self.page
        if name == "img":
            figure = self._figures[-1] if self._figures else -1
            source, alt, title = image_source(values), values.get("alt"), values.get("title")
            page.images.append(PageImage(source, alt, title, figure, self._link))
        elif name == "base":
            page.base = page.base or values.get("href", "")
        else:
            page.license.see(values.get("href", ""), values.get("rel", ""))
            if name == "a":
                self._link = _Link(squeezed(values.get("title", "")))


def _attributes(text: str) -> dict[str, str]:
    r"""Read a tag's attributes; of two with the same name the first counts.

    >>> _attributes(' SRC="a.jpg?x=1&amp;copy=2&copy=3" alt=\'Caf&eacute; "x"\' hidden alt=2')
    {'src': 'a.jpg?x=1&copy=2&copy=3', 'alt': 'Café "x"', 'hidden': ''}
    """
    values: dict[str, str] = {}
    for name, double, single, bare in _ATTRIBUTE.findall(text):
        values.setdefault(name.lower(), unescaped(double or single or bare))
    return values


def unescaped(value: str) -> str:
    """Replace the character references of an attribute as browsers do: `&copy=` in an address is none.

    >>> unescaped("?a=1&amp;b=2&copy=3&lt;&eacute"), unescaped("&notit; &#8217;")
    ('?a=1&b=2&copy=3<é', '&notit; ’')
    """
    return _REFERENCE.sub(_character, value) if "&" in value else value


def _character(found: re.Match[str]) -> str:
    whole, equals = found[0], found[1]
    reference = whole[: len(whole) - len(equals)]
    known = reference[1] == "#" or reference[1:] in html5
    if not known or (equals and not reference.endswith(";")):
        return whole
    return html.unescape(reference) + equals


def image_source(values: dict[str, str]) -> str | None:
    """Choose the address of an image: what is loaded late, then `src`, then the largest of `srcset`.

    >>> image_source({"src": "data:image/gif;base64,R0", "srcset": "s.jpg 300w, l.jpg 900w"})
    'l.jpg'
    """
    plain = [values[name].strip() for name in (*_LAZY, "src") if values.get(name, "").strip()]
    for value in plain:
        if value[:5].lower() != "data:":
            return value
    for name in ("srcset", "data-srcset"):
        if value := largest(values.get(name, "")):
            return value
    return plain[0] if plain else None


def largest(srcset: str) -> str:
    """Return the address of a `srcset` that stands for most pixels; the first of equals.

    >>> largest("a.jpg, b.jpg 2x, c,d.jpg 1.5x")
    'b.jpg'
    """
    candidates = [pair for pair in _srcset(srcset[:MAX_TEXT]) if pair[0][:5].lower() != "data:"]
    return max(candidates, key=lambda pair: pair[1])[0] if candidates else ""


def _srcset(srcset: str) -> Iterator[tuple[str, float]]:
    """Yield (address, width or density): an address goes on to the next space, whatever commas it holds."""
    address, size = "", 1.0
    for token in srcset.split():
        while token:
            if not address:
                address, size, token = token.lstrip(","), 1.0, ""
                comma = "," if address.endswith(",") else ""
            else:
                told, comma, token = token.partition(",")
                size = float(told[:-1]) if _DESCRIPTOR.fullmatch(told) else size
            if comma:
                yield address.rstrip(","), size
                address = ""
    if address:
        yield address, size


def squeezed(text: str) -> str:
    """Return the text with single spaces."""
    return " ".join(text.split())
