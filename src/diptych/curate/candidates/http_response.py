"""Parse HTTP responses stored in a crawl: header fields, and the body with its codings undone.

Reads: the blocks of response records. Writes: nothing.
Source: RFC 9110, section 8.4 (content codings); RFC 9112, section 7.1 (chunks); RFC 7932 (Brotli).
"""

import codecs
import re
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import pyarrow as pa

MAX_RECORD_BYTES = 64 * 2**20
"""Common Crawl cuts pages at 5 MiB; the metadata of the largest are a few times that."""
MAX_HEADER_BYTES = 2**20
HEADER_END = re.compile(rb"\r?\n\r?\n")
GZIP_MAGIC = b"\x1f\x8b\x08"
GZIP = 31  # zlib's word for a gzip member with its checksum
_MOST_CODINGS = 4
_PIECE = 2**12
_NO_TEXT = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
"""Bytes that no encoding of pages uses, but for UTF-16."""
_LOOKED_AT = 512  # bytes of a body; of coded ones hardly any is this long without such a byte


def named_fields(head: bytes) -> dict[str, str]:
    """Read named fields; a later one of the same name does not replace the first.

    >>> named_fields(b"WARC/1.0\\r\\nWARC-Type: response\\r\\nContent-Length:12")
    {'warc-type': 'response', 'content-length': '12'}
    """
    fields: dict[str, str] = {}
    for line in head.decode("utf-8", "replace").splitlines()[1:]:
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name.strip().lower(), value.strip())
    return fields


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """Status (0 if there is none), headers (names in lower case) and decoded body of an HTTP response."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def http_response(block: bytes) -> HttpResponse:
    """Read the block of a response record.

    Crawlers differ: some keep the body as it came over the wire, others undo its coding and leave the header.
    So a body that is text already is taken as it is.

    Raises:
        ValueError: there is no HTTP header, or the body is in a coding that is not known, or inflates to more
            than a record may hold.

    >>> http_response(b"HTTP/1.1 200 OK\\r\\nContent-Type: text/html\\r\\n\\r\\n<p>").status
    200
    """
    end = HEADER_END.search(block, 0, MAX_HEADER_BYTES)
    if end is None or not block.startswith(b"HTTP/"):
        raise ValueError("no HTTP header")
    head = block[: end.start()]
    line = head.split(b"\n", 1)[0].split()
    status = int(line[1]) if len(line) > 1 and re.fullmatch(rb"[0-9]{3}", line[1]) else 0
    headers, body = named_fields(head), block[end.end() :]
    if "chunked" in headers.get("transfer-encoding", "").lower():
        body = _unchunked(body)
    return HttpResponse(status, headers, _decoded(body, headers.get("content-encoding", "")))


def _decoded(body: bytes, header: str) -> bytes:
    """Undo the codings of a body, the last one first.

    Raises:
        ValueError: what is left is no text, or more than a record may hold.
    """
    codings = [name.strip() for name in header.lower().split(",")]
    for coding in ("", *reversed(codings)):
        body = _gunzipped(body)
        undone = _gunzipped(_CODINGS.get(coding, _same)(body))
        body = undone if undone and _is_text(undone) else body
    if header and not _is_text(body):
        raise ValueError(f"no text, in the content coding {header[:40]!r}")
    return body


def _is_text(body: bytes) -> bool:
    return body.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or not _NO_TEXT.search(
        body, 0, _LOOKED_AT
    )


def _gunzipped(body: bytes) -> bytes:
    """Undo gzip as often as it was applied: no page begins with these bytes, whatever its header says."""
    for _ in range(_MOST_CODINGS):
        if not body.startswith(GZIP_MAGIC):
            break
        inflater = zlib.decompressobj(GZIP)
        try:
            body = _whole(inflater.decompress(body, MAX_RECORD_BYTES + 1))
        except zlib.error as error:
            raise ValueError(str(error)) from None
    return body


def _inflated(body: bytes) -> bytes:
    """Undo "deflate": in zlib's format as the standard says, or without its frame; nothing if neither."""
    for window in (zlib.MAX_WBITS, -zlib.MAX_WBITS):
        with suppress(zlib.error):
            return _whole(zlib.decompressobj(window).decompress(body, MAX_RECORD_BYTES + 1))
    return b""


def _streamed(body: bytes, name: str) -> bytes:
    stream = pa.CompressedInputStream(pa.BufferReader(body), name)
    pieces, size = list[bytes](), 0
    with suppress(OSError):  # what comes before the damage, or before the crawler cut, is read
        while size <= MAX_RECORD_BYTES and (piece := stream.read(_PIECE)):
            pieces.append(piece)
            size += len(piece)
    return _whole(b"".join(pieces))


def _whole(body: bytes) -> bytes:
    if len(body) > MAX_RECORD_BYTES:
        raise ValueError(f"the body inflates to more than {MAX_RECORD_BYTES} bytes")
    return body


def _same(body: bytes) -> bytes:
    return body


_CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "deflate": _inflated,
    "br": partial(_streamed, name="brotli"),
    "zstd": partial(_streamed, name="zstd"),
}


_CHUNK = re.compile(rb"([0-9a-fA-F]{1,8})[ \t]*(?:;[^\r\n]*)?\r\n")


def _unchunked(body: bytes) -> bytes:
    r"""Join the chunks of a body; return the body itself if it has none.

    >>> _unchunked(b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"), _unchunked(b"<html>")
    (b'abcde', b'<html>')
    """
    pieces: list[bytes] = []
    place = 0
    while head := _CHUNK.match(body, place):
        size = int(head[1], 16)
        if size == 0:
            return b"".join(pieces)
        pieces.append(body[head.end() : head.end() + size])
        place = head.end() + size + len(b"\r\n")
    return b"".join(pieces) if pieces else body
