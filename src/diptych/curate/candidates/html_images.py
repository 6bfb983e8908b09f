"""Images of an HTML page with the texts around them, by a tokenizer in linear time that builds no tree.

Source: WHATWG HTML Standard, sections 13.2.3 (encoding), 13.2.5 (tokenization), 4.8.4 (srcset). Ours although
the stage is faster with selectolax 1.0.2 (79 MB of pages: 3.0 to 5.4 s, ours 4.4 to 5.0 s): its parser takes
31 s for 40,000 nested tags, so one page of a crawl, up to 5 MiB, could stop the stage.
"""

import codecs
import html
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from html.entities import html5
from typing import NamedTuple

MAX_SRCSET = 20_000  # characters
MAX_OUTWARD = 4  # figures that may lie around one without a caption and still lend it theirs

# By Python's name; labels stand for what browsers read them as. Anything else (UTF-7, escapes) is refused.
_SAME = ("utf-8", "gb18030", "big5hkscs", "euc_jp", "iso2022_jp", "koi8-r", "koi8-u", "cp866", "mac-roman")
_SAME_ISO = tuple(f"iso8859-{part}" for part in (2, 3, 4, 5, 6, 7, 8, 10, 13, 14, 15, 16))
_ENCODINGS = {name: name for name in (*_SAME, *_SAME_ISO, *(f"cp{page}" for page in range(1250, 1259)))} | {
    "ascii": "cp1252", "iso8859-1": "cp1252", "iso8859-9": "cp1254", "iso8859-11": "cp874",
    "tis-620": "cp874", "cp874": "cp874", "gb2312": "gb18030", "gbk": "gb18030", "big5": "big5hkscs",
    "shift_jis": "cp932", "cp932": "cp932", "euc_kr": "cp949", "cp949": "cp949",
    "utf-16": "utf-8", "utf-16-le": "utf-8", "utf-16-be": "utf-8",  # nobody could have read the label
}  # fmt: skip
_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_CHARSET = re.compile(r"charset\s*=\s*[\"']?\s*([\w:.\-]{1,40})", re.IGNORECASE)
_META = re.compile(rb"<meta[^>]{0,400}?charset\s*=\s*[\"']?\s*([\w:.\-]{1,40})", re.IGNORECASE)
_META_WITHIN = 4096  # bytes; the standard says 1,024, pages put it later

_TAG = re.compile(r"<(?:(!--|[!?])|(/?)([a-zA-Z][^\s/>]*+))")
# A quote opens a value only behind "="; a quote that is never closed is a character like others.
_REST = re.compile(r"""(?:[^>"'=]++|=\s*+(?:"[^"]*+"|'[^']*+'|[^\s>"'][^\s>]*+)?|["'])*+>""")
_ATTRIBUTE = re.compile(
    r"""([^\s"'>/=][^\s>/=]*+)(?:\s*+=\s*+(?:"([^"]*+)"|'([^']*+)'|([^\s>"'][^\s>]*+)))?"""
)
_RAW = ("script", "style", "textarea", "title", "xmp", "iframe", "noembed", "noframes", "template")
_RAW_END = {name: re.compile(f"</{name}(?=[\\s/>])", re.IGNORECASE) for name in _RAW}
_REFERENCE = re.compile(r"&(?:#[0-9]{1,8};?|#[xX][0-9a-fA-F]{1,8};?|[a-zA-Z][a-zA-Z0-9]{1,31};?)(=?)")
_LAZY = ("data-src", "data-lazy-src", "data-original")  # pages that load late keep a place holder in src
_SPACING = frozenset({"br", "p", "div", "li", "td", "tr", "h1", "h2", "h3"})
# An address goes on to the next space, whatever commas it holds; one that ends with a comma has no width.
_SRCSET = re.compile(r"([^\s,]\S*+)(?:(?<!,)([^,]*+))?")
_DESCRIPTOR = re.compile(r"(?:[0-9]{1,9}(?:\.[0-9]{0,9})?|\.[0-9]{1,9})[wx]")
_CC = re.compile(r"https?://(?:www\.)?creativecommons\.org/(?:licenses|publicdomain)/", re.IGNORECASE)


def decoded(data: bytes, content_type: str = "") -> str:
    """Decode a page by its byte order mark, its HTTP header or its `meta`, else as UTF-8 or Windows-1252.

    We differ from the standard where nothing is declared: what is UTF-8 throughout is taken for UTF-8.
    U+FFFD stands for bytes that are wrong in the encoding.

    >>> decoded(b"caf\\xe9", "text/html; charset=ISO-8859-1"), decoded("café".encode()), decoded(b"caf\\xe9")
    ('café', 'café', 'café')
    """
    for mark, name in _BOMS:
        if data.startswith(mark):
            return data[len(mark) :].decode(name, "replace")
    header, meta = _CHARSET.search(content_type), _META.search(data, 0, _META_WITHIN)
    for label in (header[1] if header else "", meta[1].decode("ascii", "replace") if meta else ""):
        with suppress(LookupError, ValueError):
            if encoding := _ENCODINGS.get(codecs.lookup(label).name):
                return data.decode(encoding, "replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        # A page that was cut off in the middle of a letter is UTF-8 all the same.
        cut = error.end == len(data) and error.reason == "unexpected end of data"
        is_utf8 = cut and not data[: error.start].isascii()
        return data.decode("utf-8" if is_utf8 else "cp1252", "replace")


@dataclass(slots=True)
class _Figure:
    outer: "_Figure | None"
    text: str = ""

    def caption(self) -> str | None:
        """Return the caption of this or, of those around it, the innermost figure that has one."""
        figure, outward = self, 0
        while not figure.text and figure.outer and outward < MAX_OUTWARD:
            figure, outward = figure.outer, outward + 1
        return figure.text or None


@dataclass(slots=True)
class _Link:
    text: str  # its title; without one, once it has ended, what it holds


class Page(NamedTuple):
    """Base of relative addresses, `license_of`, images in order as (address as written, texts by place).

    The places are "alt", "title", "figcaption", "link" and "page".
    """

    base: str
    license: str
    images: list[tuple[str | None, dict[str, str | None]]]
    address: str = ""


def read_page(text: str, address: str = "") -> Page:
    """Collect a page's images with the texts around them.

    >>> page = read_page('<figure><img src=a.jpg alt="A dog"><figcaption>Rex</figcaption></figure>')
    >>> page.images[0][1]["alt"], page.images[0][1]["figcaption"]
    ('A dog', 'Rex')
    """
    reader = _Reader()
    for name, closing, attributes, before in _tags(text):
        reader.pieces.append(before)
        if closing:
            reader.close(name)
        else:
            reader.open(name, attributes)
    reader.close("a")
    images = []
    for values, figure, link in reader.images:
        texts = {"alt": values.get("alt"), "title": values.get("title"), "page": reader.title or None}
        texts |= {"figcaption": figure.caption() if figure else None, "link": (link and link.text) or None}
        images.append((image_source(values), texts))
    return Page(reader.base, license_of(reader.links), images, address)


def license_of(links: Iterable[tuple[str, str]]) -> str:
    """Return the license of a page with (address, rel): one declared by its rel, else from Creative Commons.

    >>> license_of([("https://creativecommons.org/licenses/by/4.0/", "nofollow"), ("/terms", "license")])
    '/terms'
    """
    common = ""
    for address, relation in links:
        if address and "license" in relation.lower().split():
            return address
        common = common or (address if _CC.match(address) else "")
    return common


def _tags(text: str) -> Iterator[tuple[str, bool, str, str]]:
    """Yield (name, whether it closes, attributes or title's text, text since the tag before)."""
    position, seen = 0, 0
    while tag := _TAG.search(text, position):
        before = text[seen : tag.start()]
        if tag[1]:
            # "<!-->" is a whole comment.
            end = text.find("-->", tag.end() - 2) + 3 if tag[1] == "!--" else text.find(">", position) + 1
            if end <= tag.start():
                return
            yield "", False, "", before
            position = seen = end
            continue
        name, rest = tag[3].lower(), _REST.match(text, tag.end())
        if rest is None:  # no tag ends any more
            return
        position = seen = rest.end()
        if name not in _RAW_END or tag[2]:
            yield name, bool(tag[2]), text[tag.end() : position - 1], before
            continue
        end_tag = _RAW_END[name].search(text, position)
        if end_tag is None:
            return
        yield name, False, text[position : end_tag.start()], before
        position = seen = end_tag.start()


class _Reader:
    """What is open at one point of a page, and what was collected before it."""

    def __init__(self) -> None:
        self.base = self.title = ""
        self.links: list[tuple[str, str]] = []
        self.images: list[tuple[dict[str, str], _Figure | None, _Link | None]] = []
        self.pieces: list[str] = []  # the page's text
        self._figure: _Figure | None = None
        self._link: _Link | None = None
        self._link_start = 0  # in `pieces`
        self._caption_start: int | None = None

    def open(self, name: str, attributes: str) -> None:
        if name in _SPACING:
            self.pieces.append(" ")
        elif name == "img":
            self.images.append((_attributes(attributes), self._figure, self._link))
        elif name in ("a", "link"):
            values = _attributes(attributes)
            self.links.append((values.get("href", ""), values.get("rel", "")))
            if name == "a":
                self.close("a")
                self._link, self._link_start = _Link(squeezed(values.get("title", ""))), len(self.pieces)
        elif name == "figure":
            self._figure = _Figure(self._figure)
        elif name == "figcaption":
            self.close("figcaption")
            self._caption_start = len(self.pieces)
        elif name == "title":
            self.title = self.title or squeezed(html.unescape(attributes))
        elif name == "base":
            self.base = self.base or _attributes(attributes).get("href", "")

    def close(self, name: str) -> None:
        if name == "a":
            # Few links hold images; of the others nobody needs the text.
            if self._link is not None and self.images and self.images[-1][2] is self._link:
                self._link.text = self._link.text or self._text(self._link_start)
            self._link = None
        elif name in ("figcaption", "figure"):
            if self._figure is not None and self._caption_start is not None:
                self._figure.text = self._figure.text or self._text(self._caption_start)
            self._caption_start = None
            if self._figure is not None and name == "figure":
                self._figure = self._figure.outer

    def _text(self, start: int) -> str:
        return squeezed(html.unescape("".join(self.pieces[start:])))


def _attributes(text: str) -> dict[str, str]:
    """Read a tag's attributes; of two with the same name the first counts."""
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


def _character(match: re.Match[str]) -> str:
    whole, equals = match[0], match[1]
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
    sets = (_largest(values.get(name, "")) for name in ("srcset", "data-srcset"))
    web = [value for value in plain if not _is_data(value)] or list(filter(None, sets)) or plain
    return web[0] if web else None


def _is_data(address: str) -> bool:
    return address[:5].lower() == "data:"


def _largest(srcset: str) -> str:
    """Return the address of a `srcset` that stands for most pixels; the first of equals."""
    largest, most = "", -1.0
    for address, descriptors in _SRCSET.findall(srcset[:MAX_SRCSET]):
        sizes = [1.0, *(float(one[:-1]) for one in descriptors.split() if _DESCRIPTOR.fullmatch(one))]
        if sizes[-1] > most and not _is_data(address):
            largest, most = address.rstrip(","), sizes[-1]
    return largest


def squeezed(text: str) -> str:
    """Return a text with single spaces."""
    return " ".join(text.split())
