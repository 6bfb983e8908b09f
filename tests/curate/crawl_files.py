"""Miniature WAT and WARC files in the format of Common Crawl, for tests."""

import gzip
import html
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DATE = "2026-01-17T10:32:12Z"


@dataclass(frozen=True)
class WebPage:
    """A page: its address and images, each as (src, alt) or as attributes by name.

    `html` replaces the page that is made of the images (WARC only); `body` replaces the JSON (WAT only).
    """

    url: str
    images: Sequence[tuple[str, str] | dict[str, str]] = ()
    title: str = ""
    base: str = ""
    license: str = ""
    html: bytes = b""
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    status: str = "200 OK"


def record(kind: str, url: str, body: bytes, content_type: str) -> bytes:
    """Return one record, not compressed."""
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {url}\r\nWARC-Date: {DATE}\r\n"
        f"WARC-Record-ID: <urn:uuid:92283950-ef2f-4d72-b224-f54c6ec90bb0>\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body + b"\r\n\r\n"


def member(plain: bytes) -> bytes:
    """Return a record as a gzip member of its own."""
    return gzip.compress(plain, 6, mtime=0)


def write_wat(path: Path, pages: Iterable[WebPage]) -> Path:
    """Write a `.warc.wat.gz`: warcinfo, then three records of metadata for each page."""
    parts = [record("warcinfo", path.name, b"Software-Info: ia-web-commons\r\n", "application/warc-fields")]
    for page in pages:
        parts.append(_wat(page.url, {"WARC-Type": "request"}, {"HTTP-Request-Metadata": {"Headers": {}}}))
        parts.append(wat_record(page))
        parts.append(_wat(page.url, {"WARC-Type": "metadata"}, {"WARC-Metadata-Metadata": {}}))
    path.write_bytes(b"".join(map(member, parts)))
    return path


def write_warc(path: Path, pages: Iterable[WebPage], *, plain: bool = False) -> Path:
    """Write a `.warc.gz`, or one without compression: warcinfo, then request and response of each page."""
    parts = [record("warcinfo", path.name, b"software: Apache Nutch\r\n", "application/warc-fields")]
    for page in pages:
        request = b"GET / HTTP/1.1\r\nUser-Agent: CCBot/2.0\r\n\r\n"
        parts.append(record("request", page.url, request, "application/http; msgtype=request"))
        parts.append(warc_record(page))
    path.write_bytes(b"".join(parts if plain else map(member, parts)))
    return path


def _attributes(page: WebPage) -> list[dict[str, str]]:
    return [{"src": i[0], "alt": i[1]} if isinstance(i, tuple) else dict(i) for i in page.images]


def wat_record(page: WebPage) -> bytes:
    """Return the metadata record of a page's response."""
    if page.body:
        return record("metadata", page.url, page.body, "application/json")
    links: list[dict[str, str]] = [{"path": "A@/href", "url": "/about", "text": 'About "us" {here}'}]
    for attributes in _attributes(page):
        name = next((name for name in ("src", "data-src", "srcset") if name in attributes), "src")
        links.append({"path": f"IMG@/{name}", "url": attributes.pop(name, ""), **attributes})
    if page.license:
        links.append({"path": "A@/href", "url": page.license, "rel": "license", "text": "license"})
    head: dict[str, Any] = {"Title": page.title, "Metas": [{"name": "generator", "content": "hand"}]}
    head["Link"] = [{"path": "LINK@/href", "url": "/style.css", "rel": "stylesheet"}]
    head |= {"Base": page.base} if page.base else {}
    message = {"Status": "200", "Version": "HTTP/1.1", "Reason": "OK"}
    response = {"Response-Message": message, "HTML-Metadata": {"Head": head, "Links": links}}
    header = {"WARC-Type": "response", "WARC-Target-URI": page.url}
    return _wat(page.url, header, {"HTTP-Response-Metadata": response})


def _wat(url: str, header: dict[str, str], payload: dict[str, Any]) -> bytes:
    body = {
        "Container": {"Filename": "CC-MAIN.warc.gz", "Compressed": True, "Offset": "0"},
        "Envelope": {"Format": "WARC", "WARC-Header-Metadata": header, "Payload-Metadata": payload},
    }
    return record("metadata", url, json.dumps(body, ensure_ascii=False).encode(), "application/json")


def warc_record(page: WebPage) -> bytes:
    """Return the response record of a page."""
    headers = {"Content-Type": "text/html", **page.headers}
    head = f"HTTP/1.1 {page.status}\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    body = page.html or _html(page).encode()
    return record("response", page.url, head.encode() + b"\r\n" + body, "application/http; msgtype=response")


def _html(page: WebPage) -> str:
    def tag(name: str, **attributes: str) -> str:
        return (
            f"<{name} " + " ".join(f'{key}="{html.escape(value)}"' for key, value in attributes.items()) + ">"
        )

    images = "".join(tag("img", **attributes) for attributes in _attributes(page))
    title = f"<meta charset='utf-8'><title>{html.escape(page.title)}</title>"
    base = tag("base", href=page.base) if page.base else ""
    license = tag("a", rel="license", href=page.license) + "license</a>" if page.license else ""
    body = f"<a href='/about'>About</a>{images}{license}"
    return f"<!DOCTYPE html><html><head>{title}{base}</head><body>{body}</body></html>"
