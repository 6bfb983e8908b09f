"""Candidate pairs from the files of Common Crawl: the images of pages, and what pages say about them.

WAT files hold the links of each page as JSON: quick to read, with `alt` and `title`. WARC files hold the
pages themselves: slower, with captions of figures, texts of links, and images that are loaded late. Addresses
are made absolute here; whether they may be asked is for `fetch` to say.

Reads: `.warc.wat.gz` and `.warc.gz`. Writes: nothing.
Source: Radford et al. 2021, section 2.2 (pairs from public pages); the WAT format of webarchive-commons;
WHATWG URL Standard, section 4.4 (white space in addresses). What is not used is counted by reason.
"""

import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urljoin

from diptych.core.errors import BadSampleError, Reason, SettingsError
from diptych.core.records import EXAMPLES_PER_REASON, Counts
from diptych.curate.candidates.charset import decoded
from diptych.curate.candidates.html_images import License, Page, image_source, read_page, squeezed, unescaped
from diptych.curate.candidates.http_response import http_response
from diptych.curate.candidates.rows import Candidate, fields_json, pair_key
from diptych.curate.candidates.warc import Record, read_records
from diptych.data.captions import caption_of

CaptionSource = Literal["alt", "title", "figcaption", "link", "page"]

MAX_URL_CHARACTERS = 4096  # longer ones are data or mistakes; `addresses` refuses them too
_IMAGES = b'"IMG@/'
_LICENSES = (b"icense", b"ICENSE", b"creativecommons")
_PAGES = ("text/html", "application/xhtml+xml")
_OK = 200
_BAD_IN_URL = re.compile(r"[\x00-\x20\x7f\\\ud800-\udfff]")
_WEB = re.compile(r"https?://(?:\[[0-9a-f:.]+\]|[^/?#\s\[])", re.IGNORECASE)
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.:-]+(?=[/?#]|$)")
_FROM_ROOT = re.compile(r"/(?:[A-Za-z0-9_~%,+@=:&-][A-Za-z0-9_~%,+@=:&.-]*+/?)*+")
"""Most addresses of images are of this form, and joining it to an origin needs no parsing."""
_LINE_ENDS = re.compile(r"[\t\r\n]")
_SHOWN = 80  # characters of an address in an example


@dataclass(frozen=True, slots=True)
class CrawlSettings:
    """Which texts of a page may be a caption.

    Attributes:
        captions: where to look, first choice first: "alt" and "title" of the image, the "figcaption" of its
            figure, the title or text of the "link" around it, the title of the "page". WAT files know alt,
            title and page.
    """

    captions: tuple[CaptionSource, ...] = ("alt", "title", "figcaption")

    def __post_init__(self) -> None:
        """Refuse to look nowhere.

        Raises:
            SettingsError: `captions` is empty.
        """
        if not self.captions:
            raise SettingsError("no place for captions is named", expected="such as alt, title, figcaption")


_FROM = {name: fields_json({"caption_from": name}) for name in get_args(CaptionSource)}

Texts = Mapping[str, str | None]
"""What was found in each place; None where there is nothing."""


def pairs_of_wat(path: Path, settings: CrawlSettings, counts: Counts) -> Iterator[Candidate]:
    """Read the pairs of a WAT file in order.

    Args:
        path: a `.warc.wat.gz` file.
        settings: where captions are.
        counts: gets one for each image that cannot be used and each damaged record; those that are yielded
            are for the caller to count.
    """
    for record in read_records(path, counts):
        # Two records of three tell of requests and of the crawl, and pages without images need no parsing.
        if record.kind == "metadata" and _IMAGES in record.body:
            try:
                metadata = json.loads(record.body)
            except (ValueError, RecursionError) as error:
                counts.drop(Reason.BAD_RECORD, f"{record.place} ({type(error).__name__})")
                continue
            yield from _wat_page(metadata, record, settings, counts)


def pairs_of_warc(path: Path, settings: CrawlSettings, counts: Counts) -> Iterator[Candidate]:
    """Read the pairs of a WARC file in order.

    Args:
        path: a `.warc.gz` file.
        settings: where captions are.
        counts: as for `pairs_of_wat`.
    """
    for record in read_records(path, counts):
        if record.kind != "response" or not record.body.startswith(b"HTTP/"):
            continue
        try:
            response = http_response(record.body)
        except ValueError as error:
            counts.drop(Reason.BAD_RECORD, f"{record.place} ({error})")
            continue
        told = response.headers.get("content-type", "")
        if response.status == _OK and told.split(";")[0].strip().lower() in (*_PAGES, ""):
            page = read_page(decoded(response.body, told))
            yield from _html_page(page, record, settings, counts)


def _wat_page(metadata: Any, record: Record, settings: CrawlSettings, counts: Counts) -> Iterator[Candidate]:
    """Read the images of one page's metadata; whatever is not of the expected type counts as missing."""
    envelope = _inside(metadata, "Envelope")
    address = _inside(envelope, "WARC-Header-Metadata").get("WARC-Target-URI") or record.address
    page = _inside(envelope, "Payload-Metadata", "HTTP-Response-Metadata", "HTML-Metadata")
    head, links, license = _inside(page, "Head"), _objects(page.get("Links")), License()
    if any(mark in record.body for mark in _LICENSES):  # few pages name one, and most links are no license
        for link in (*_objects(head.get("Link")), *links):
            license.see(unescaped(_text(link.get("url")) or ""), _text(link.get("rel")) or "")
    where = _Place(_text(address) or "", unescaped(_text(head.get("Base")) or ""), license.address)
    title = _text(head.get("Title"))
    for link in links:
        path = link.get("path")
        if isinstance(path, str) and path.startswith("IMG@/"):
            texts = {"alt": link.get("alt"), "title": link.get("title"), "page": title}
            found = {name: html.unescape(text) for name, text in texts.items() if isinstance(text, str)}
            source: str | None = unescaped(_text(link.get("url")) or "")
            if path != "IMG@/src":
                source = image_source({path[5:]: source or ""})
            yield from where.pair(source, found, settings, counts)


def _html_page(page: Page, record: Record, settings: CrawlSettings, counts: Counts) -> Iterator[Candidate]:
    where = _Place(record.address, page.base, page.license.address)
    for image in page.images:
        texts = {"alt": image.alt, "title": image.title, "page": page.title or None}
        texts |= {"figcaption": page.figure_caption(image), "link": page.link_text(image)}
        yield from where.pair(image.source, texts, settings, counts)


class _Place:
    """A page, and what holds for all of its images."""

    def __init__(self, address: str, base: str, license: str) -> None:
        self._page = address if not _BAD_IN_URL.search(address) else None
        self._base = (resolved(address, base) if base else None) or address
        self._license = resolved(self._base, license) if license else None

    def pair(
        self, source: str | None, texts: Texts, settings: CrawlSettings, counts: Counts
    ) -> Iterator[Candidate]:
        """Yield the pair of one image, or count why there is none."""
        try:
            name, caption = chosen(texts, settings.captions)
            url = absolute(self._base, source)
        except BadSampleError as error:
            where = ""
            if len(counts.examples.get(error.reason, ())) < EXAMPLES_PER_REASON:
                told = f"{self._page}: {(source or '')[:_SHOWN]} {error.found}".rstrip()
                where = told.encode(errors="replace").decode()
            counts.drop(error.reason, where)
            return
        yield Candidate(pair_key(url, caption), url, None, caption, self._page, self._license, _FROM[name])


def chosen(texts: Texts, order: Iterable[str]) -> tuple[str, str]:
    """Choose the first text that can be a caption.

    Args:
        texts: by place.
        order: of the places, first choice first.

    Returns:
        The place and the caption in single spaces.

    Raises:
        BadSampleError: there is none; tells the fault of the first text that there was.

    >>> chosen({"alt": " ", "title": "Two  dogs"}, ("alt", "title"))
    ('title', 'Two dogs')
    """
    fault: BadSampleError | None = None
    for name in order:
        text = texts.get(name)
        if text is None:
            continue
        try:
            caption = squeezed(caption_of(text))
            if "\ufffd" not in caption:
                return name, caption
            raise BadSampleError(Reason.CAPTION_NOT_TEXT, found="wrong bytes in the page's encoding")
        except BadSampleError as error:
            fault = fault or error
    raise fault or BadSampleError(Reason.MISSING_CAPTION)


def absolute(base: str, source: str | None) -> str:
    """Make the address of an image absolute.

    Args:
        base: of the page.
        source: as the page writes it; white space around it and line ends inside it mean nothing.

    Raises:
        BadSampleError: MISSING_IMAGE without an address, BAD_ADDRESS if it is none of the web.

    >>> absolute("https://example.org/a/", " ../b c.jpg#top"), absolute("http://a.org/", "//cdn.net/x")
    ('https://example.org/b%20c.jpg', 'http://cdn.net/x')
    """
    if not source or not source.strip():
        raise BadSampleError(Reason.MISSING_IMAGE)
    if len(source) > MAX_URL_CHARACTERS:
        raise BadSampleError(Reason.BAD_ADDRESS, found=f"{len(source)} characters")
    url = resolved(base, source)
    if url is None:
        raise BadSampleError(Reason.BAD_ADDRESS)
    return url


def resolved(base: str, address: str) -> str | None:
    """Resolve an address against its base; None if that gives no address of the web.

    >>> resolved("https://example.org/a", "data:image/gif;base64,R0lGOD"), resolved("", "a.jpg")
    (None, None)
    """
    plain = _LINE_ENDS.sub("", address.strip()).partition("#")[0]
    if not _WEB.match(plain):
        if found := _FROM_ROOT.fullmatch(plain) and _ORIGIN.match(base):
            return found[0] + plain
        try:
            plain = urljoin(base, plain)
        except ValueError:
            return None
    plain = plain.replace(" ", "%20")
    if not _WEB.match(plain) or len(plain) > MAX_URL_CHARACTERS or _BAD_IN_URL.search(plain):
        return None
    return plain


def _inside(value: Any, *names: str) -> dict[str, Any]:
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def _objects(value: Any) -> list[dict[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
