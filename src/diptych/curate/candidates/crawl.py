"""Candidate pairs from the files of Common Crawl: the images of pages, and what pages say about them.

WAT files hold the links of each page as JSON: quick to read, with `alt` and `title`. WARC files hold the
pages: slower, with captions of figures, texts of links, and images that are loaded late. Source: Radford et
al. 2021, section 2.2; the WAT format of webarchive-commons; WHATWG URL Standard, section 4.4 (white space).
"""

import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args
from urllib.parse import urljoin

import pyarrow as pa

from diptych.core.errors import BadSampleError, Reason, SettingsError
from diptych.core.records import Counts, Field
from diptych.curate.candidates.html_images import (
    Page,
    decoded,
    image_source,
    license_of,
    read_page,
    squeezed,
    unescaped,
)
from diptych.curate.candidates.warc import Record, http_response, read_records
from diptych.curate.columns import CANDIDATES
from diptych.curate.fetch.addresses import MAX_URL
from diptych.data.captions import caption_of
from diptych.data.sources.rows import drop

CaptionSource = Literal["alt", "title", "figcaption", "link", "page"]

# Of Python objects that wait to become columns; a column's chunk of bytes may hold no more than 2 GiB.
MAX_TABLE_BYTES, ROW_BYTES = 2**28, 2**10
KEY_BYTES = 16  # of a key that is a hash: two of 12 billion pairs share one with a probability of 2e-19
_IMAGES = b'"IMG@/'
_LICENSES = (b"icense", b"ICENSE", b"creativecommons")
_PAGES = ("text/html", "application/xhtml+xml", "")
_OK = 200
_BAD_IN_URL = re.compile(r"[\x00-\x20\x7f\\\ud800-\udfff]")
_WEB = re.compile(r"https?://(?:\[[0-9a-f:.]+\]|[^/?#\s\[])", re.IGNORECASE)
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.:-]+(?=[/?#]|$)")
# Most addresses of images are of this form: joined without parsing, the stage takes 1.1 s instead of 1.5.
_FROM_ROOT = re.compile(r"/(?:[A-Za-z0-9_~%,+@=:&-][A-Za-z0-9_~%,+@=:&.-]*+/?)*+")
_LINE_ENDS = re.compile(r"[\t\r\n]")
_SHOWN = 80  # characters of an address in an example


class Candidate(NamedTuple):
    """A row of `columns.CANDIDATES`."""

    key: str
    url: str | None
    image: bytes | None
    caption: str
    page: str | None = None
    license: str | None = None
    fields: str | None = None


def pair_key(image: str | bytes, caption: str) -> str:
    """Name a pair by its image (address or encoded file) and caption, alike on every page and machine.

    >>> pair_key("https://example.org/a.jpg", "a dog")
    '16bc316ace41e702d10ac4d6102d81ec'
    """
    raw = image.encode() if isinstance(image, str) else image
    # The length says where the image ends: joined by a separator, two different pairs can make one text.
    return blake2b(b"%d %b%b" % (len(raw), raw, caption.encode()), digest_size=KEY_BYTES).hexdigest()


def fields_json(fields: Mapping[str, Field]) -> str | None:
    """Write further columns as one JSON object in a fixed order; None if there are none.

    >>> fields_json({"b": 1, "a": "é"}), fields_json({})
    ('{"a":"é","b":1}', None)
    """
    if not fields:
        return None
    return json.dumps(dict(sorted(fields.items())), ensure_ascii=False, separators=(",", ":"))


def candidate_table(rows: Iterable[Candidate | BadSampleError], counts: Counts) -> pa.Table:
    """Gather candidates, and count what became of each row; of those that share a key the first is kept."""
    seen: set[str] = set()
    tables: list[pa.Table] = []
    pending: list[Candidate] = []
    size = 0
    for row in rows:
        if isinstance(row, BadSampleError):
            drop(counts, row, row.where)
        elif row.key in seen:
            counts.drop(Reason.DUPLICATE_KEY, row.key)
        else:
            seen.add(row.key)
            counts.keep()
            pending.append(row)
            size += ROW_BYTES + len(row.image or b"")
        if size >= MAX_TABLE_BYTES:
            tables.append(_table(pending))
            pending, size = [], 0
    return pa.concat_tables([*tables, _table(pending)])


def _table(rows: list[Candidate]) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else ((),) * len(CANDIDATES)
    arrays = [pa.array(values, field.type) for values, field in zip(columns, CANDIDATES, strict=True)]
    return pa.Table.from_arrays(arrays, schema=CANDIDATES)


@dataclass(frozen=True, slots=True)
class CrawlSettings:
    """Which texts of a page may be a caption, first choice first.

    "alt" and "title" of the image, the "figcaption" of its figure, the title or text of the "link" around
    it, the title of the "page". WAT files know alt, title and page.
    """

    captions: tuple[CaptionSource, ...] = ("alt", "title", "figcaption")

    def __post_init__(self) -> None:
        """Raise SettingsError if `captions` is empty."""
        if not self.captions:
            raise SettingsError("no place for captions is named", expected="such as alt, title, figcaption")


_FROM = {name: fields_json({"caption_from": name}) for name in get_args(CaptionSource)}


def pairs_of_crawl(path: Path, settings: CrawlSettings) -> Iterator[Candidate | BadSampleError]:
    """Read the pairs of a WAT or WARC file in order, and why an image has none or a record is damaged."""
    for record in read_records(path):
        page = _page(record) if isinstance(record, Record) else record
        if isinstance(page, Page):
            yield from _pairs(page, settings)
        elif page is not None:
            yield page


def _page(record: Record) -> Page | BadSampleError | None:
    """Read the images of a page, or say why not; None for a record of something else."""
    # In WAT files two of three records tell of requests and of the crawl; many pages have no images.
    if record.kind == "metadata" and _IMAGES in record.body:
        try:
            return _wat_page(json.loads(record.body), record)
        except (ValueError, RecursionError) as error:
            return BadSampleError(Reason.BAD_RECORD, where=record.where, found=type(error).__name__)
    if record.kind != "response" or not record.body.startswith(b"HTTP/"):
        return None
    try:
        response = http_response(record.body)
    except ValueError as error:
        return BadSampleError(Reason.BAD_RECORD, where=record.where, found=error)
    kind = response.content_type.split(";")[0].strip().lower()
    if response.status != _OK or kind not in _PAGES:
        return None
    return read_page(decoded(response.body, response.content_type), record.address)


def _wat_page(metadata: Any, record: Record) -> Page:
    """Read one page's metadata; whatever is not of the expected type counts as missing."""
    html_data = _object(metadata)
    for name in ("Envelope", "Payload-Metadata", "HTTP-Response-Metadata", "HTML-Metadata"):
        html_data = _object(html_data.get(name))
    head, links, license = _object(html_data.get("Head")), _objects(html_data.get("Links")), ""
    if any(mark in record.body for mark in _LICENSES):  # few pages name one, and most links are no license
        every = (*_objects(head.get("Link")), *links)
        license = license_of((unescaped(_text(link.get("url"))), _text(link.get("rel"))) for link in every)
    images: list[tuple[str | None, dict[str, str | None]]] = []
    for link in links:
        path = _text(link.get("path"))
        if path.startswith("IMG@/"):
            texts = {"alt": link.get("alt"), "title": link.get("title"), "page": head.get("Title")}
            address = unescaped(_text(link.get("url")))
            source = address if path == "IMG@/src" else image_source({path[5:]: address})
            images.append(
                (source, {at: html.unescape(it) for at, it in texts.items() if isinstance(it, str)})
            )
    return Page(unescaped(_text(head.get("Base"))), license, images, record.address)


def _pairs(page: Page, settings: CrawlSettings) -> Iterator[Candidate | BadSampleError]:
    shown = page.address if not _BAD_IN_URL.search(page.address) else None
    base = (resolved(page.address, page.base) if page.base else None) or page.address
    license = resolved(base, page.license) if page.license else None
    for source, texts in page.images:
        try:
            name, caption = chosen(texts, settings.captions)
            url = absolute(base, source)
        except BadSampleError as error:
            error.where = f"{shown}: {(source or '')[:_SHOWN]}"
            yield error
        else:
            yield Candidate(pair_key(url, caption), url, None, caption, shown, license, _FROM[name])


def chosen(texts: Mapping[str, str | None], order: Iterable[str]) -> tuple[str, str]:
    """Return the place and text, in single spaces, of the first text that can be a caption.

    BadSampleError: there is none; it tells the fault of the first text that there was.

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
    """Make an image's address, as a page writes it, absolute; `fetch` says whether it may be requested.

    BadSampleError: MISSING_IMAGE without an address, BAD_ADDRESS if it is none of the web.

    >>> absolute("https://example.org/a/", " ../b c.jpg#top"), absolute("http://a.org/", "//cdn.net/x")
    ('https://example.org/b%20c.jpg', 'http://cdn.net/x')
    """
    if not source or not source.strip():
        raise BadSampleError(Reason.MISSING_IMAGE)
    if len(source) > MAX_URL:
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
        if origin := _FROM_ROOT.fullmatch(plain) and _ORIGIN.match(base):
            return origin[0] + plain
        try:
            plain = urljoin(base, plain)
        except ValueError:
            return None
    plain = plain.replace(" ", "%20")
    if not _WEB.match(plain) or len(plain) > MAX_URL or _BAD_IN_URL.search(plain):
        return None
    return plain


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _objects(value: Any) -> list[dict[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
