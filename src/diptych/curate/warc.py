"""Records of a WARC file, and of the WAT files made from one: streamed, and read past damage.

Reads: `.warc.gz` and `.warc.wat.gz` (gzip members behind each other, as a rule one for each record), and the
same without compression. Writes: nothing.
Source: ISO 28500:2017 (WARC 1.1) and annex D (compression record by record); RFC 1952 (gzip). A damaged
member is counted once; the next one is found by its first bytes, as the format was meant.
"""

import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from diptych.core.records import Counts, Reason

MAX_RECORD_BYTES = 64 * 2**20
"""Common Crawl cuts pages at 5 MiB; the metadata of the largest are a few times that."""
MAX_HEADER_BYTES = 2**20
_PIECE = 2**16  # bytes read at a time: what is left of one member is copied for the next
_INFLATED = 2**18  # bytes inflated at a time
_MAGIC = b"\x1f\x8b\x08"
_FIRST = b"WARC/"
_LINE_END = re.compile(rb"\r?\n\r?\n")
_GZIP = 31  # zlib's word for a gzip member with its checksum


@dataclass(frozen=True, slots=True)
class Record:
    """One record.

    Attributes:
        headers: named fields, names in lower case.
        body: the block, without the record's header.
        place: file name and byte offset of its member, for messages.
    """

    headers: Mapping[str, str]
    body: bytes
    place: str

    @property
    def kind(self) -> str:
        """Its WARC-Type: response, request, metadata, …"""
        return self.headers.get("warc-type", "").lower()

    @property
    def address(self) -> str:
        """Its target URI; older writers put it in angle brackets."""
        return self.headers.get("warc-target-uri", "").strip("<> ")


def read_records(path: Path, counts: Counts) -> Iterator[Record]:
    """Read the records of a file in order.

    Args:
        path: a WARC or WAT file, compressed or not.
        counts: gets one BAD_RECORD for each damaged member or record; whole ones are not counted here.
    """
    with path.open("rb") as file:
        yield from _Walk(file, path.name, counts).records()


class _DamageError(Exception):
    """A member or record cannot be read on."""


class _Walk:
    """A file on its way through the inflater."""

    def __init__(self, file: BinaryIO, name: str, counts: Counts) -> None:
        self._file, self._name, self._counts = file, name, counts
        self._start = 0  # offset of the member (or plain record) being read
        self._raw = b""  # read from the file, not inflated yet
        self._read = 0  # offset behind `_raw`
        self._text = bytearray()  # inflated, not parsed yet
        self._inflater = zlib.decompressobj(_GZIP)
        self._plain = False

    def records(self) -> Iterator[Record]:
        self._refill(len(_FIRST))
        self._plain = self._raw.startswith(_FIRST)
        while self._at_member():
            try:
                yield from self._member()
            except _DamageError as damage:
                self._counts.drop(Reason.BAD_RECORD, f"{self._place()} ({damage})")
                self._find_next()

    def _place(self) -> str:
        return f"{self._name} at byte {self._start}"

    def _refill(self, least: int) -> None:
        while len(self._raw) < least and (piece := self._file.read(_PIECE)):
            self._raw += piece
            self._read += len(piece)

    def _at_member(self) -> bool:
        """Go to where the next member should begin; tell whether there is anything."""
        self._refill(1)
        self._start = self._read - len(self._raw)
        self._text = bytearray()
        self._inflater = zlib.decompressobj(_GZIP)
        return bool(self._raw)

    def _member(self) -> Iterator[Record]:
        """Read the records of one member; of a plain file, all there are."""
        while self._skip_line_ends():
            if self._plain:
                self._start = self._read - len(self._raw) - len(self._text)
            record = self._record()
            more = self._skip_line_ends()  # reading on to the member's end has its checksum compared
            while more and len(self._text) < len(_FIRST) and self._more():
                pass
            if more and not self._text.startswith(_FIRST):
                raise _DamageError("no record follows")
            if record is not None:
                yield record
            if not more:
                return

    def _more(self) -> bool:
        """Inflate another piece; False at the end of the member.

        Raises:
            _DamageError: it is no gzip member, or breaks off.
        """
        if self._plain:
            self._refill(1)
            self._text += self._raw
            got, self._raw = bool(self._raw), b""
            return got
        while not self._inflater.eof:
            self._refill(1)
            try:
                piece = self._inflater.decompress(self._raw, _INFLATED)
            except zlib.error as error:
                raise _DamageError(str(error)) from None
            if not (self._raw or piece or self._inflater.eof):
                raise _DamageError("the file ends inside")
            self._raw = self._inflater.unconsumed_tail or self._inflater.unused_data
            self._text += piece
            if piece:
                return True
        return False

    def _skip_line_ends(self) -> bool:
        """Skip what stands between records; tell whether the member goes on."""
        while True:
            kept = self._text.lstrip(b"\r\n\0")
            self._text = kept
            if kept:
                return True
            if not self._more():
                return False

    def _record(self) -> Record | None:
        """Read one record; None for one too large to be kept, which is counted and skipped."""
        while (end := _LINE_END.search(self._text)) is None:
            if len(self._text) > MAX_HEADER_BYTES or not self._more():
                raise _DamageError("no header of a record")
        head = bytes(self._text[: end.start()])
        headers = _headers(head)
        length = headers.get("content-length", "")
        if not head.startswith(_FIRST) or not (length.isascii() and length.isdecimal()):
            raise _DamageError("no header of a record")
        size = int(length[:20])
        del self._text[: end.end()]
        if size > MAX_RECORD_BYTES:
            self._counts.drop(Reason.BAD_RECORD, f"{self._place()} ({size} bytes)")
            self._pass_over(size)
            return None
        while len(self._text) < size:
            if not self._more():
                raise _DamageError(f"{len(self._text)} of {size} bytes")
        body = bytes(self._text[:size])
        del self._text[:size]
        return Record(headers, body, self._place())

    def _pass_over(self, size: int) -> None:
        while size > len(self._text):
            size -= len(self._text)
            self._text = bytearray()
            if not self._more():
                return
        del self._text[:size]

    def _find_next(self) -> None:
        """Go to the next member behind the start of the damaged one, wherever that one broke.

        A damaged plain record is searched for the next line that begins a record in the same way.
        """
        begin = self._start + 1
        self._file.seek(begin)
        self._raw, self._read = b"", begin
        mark = b"\n" + _FIRST if self._plain else _MAGIC
        while True:
            self._refill(_PIECE)
            found = self._raw.find(mark)
            if found >= 0:
                self._raw = self._raw[found + self._plain :]
                self._refill(_PIECE)
                if self._plain or _begins_a_record(self._raw):
                    return
                self._raw = self._raw[1:]
            elif len(self._raw) < _PIECE:
                self._raw = b""
                return
            else:  # a mark may lie across the end of what was read
                self._raw = self._raw[1 - len(mark) :]


def _begins_a_record(raw: bytes) -> bool:
    """Tell a member from three bytes that only look like the start of one."""
    try:
        return zlib.decompressobj(_GZIP).decompress(raw, len(_FIRST)) == _FIRST
    except zlib.error:
        return False


def _headers(head: bytes) -> dict[str, str]:
    """Read named fields; a later one of the same name does not replace the first.

    >>> _headers(b"WARC/1.0\\r\\nWARC-Type: response\\r\\nContent-Length:12")
    {'warc-type': 'response', 'content-length': '12'}
    """
    fields: dict[str, str] = {}
    for line in head.decode("utf-8", "replace").splitlines()[1:]:
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name.strip().lower(), value.strip())
    return fields


@dataclass(frozen=True, slots=True)
class Response:
    """What a server answered.

    Attributes:
        status: HTTP status code, or 0 if there is none.
        headers: names in lower case.
        body: with transfer and content coding undone.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


def http_response(block: bytes) -> Response:
    """Read the block of a response record.

    Crawlers differ: some keep the body as it came over the wire, others undo its coding and leave the header.
    So a body that is not coded as its header says is taken as it is.

    Raises:
        ValueError: there is no HTTP header, or the body inflates to more than a record may hold.

    >>> http_response(b"HTTP/1.1 200 OK\\r\\nContent-Type: text/html\\r\\n\\r\\n<p>").status
    200
    """
    end = _LINE_END.search(block, 0, MAX_HEADER_BYTES)
    if end is None or not block.startswith(b"HTTP/"):
        raise ValueError("no HTTP header")
    head = block[: end.start()]
    line = head.split(b"\n", 1)[0].split()
    status = int(line[1]) if len(line) > 1 and re.fullmatch(rb"[0-9]{3}", line[1]) else 0
    headers, body = _headers(head), block[end.end() :]
    if "chunked" in headers.get("transfer-encoding", "").lower():
        body = _unchunked(body)
    coding = headers.get("content-encoding", "").strip().lower()
    if coding in ("gzip", "x-gzip") and body.startswith(_MAGIC):
        body = _inflated(body, _GZIP)
    elif coding == "deflate" and body[:1] == b"\x78":
        body = _inflated(body, zlib.MAX_WBITS)
    return Response(status, headers, body)


def _inflated(body: bytes, window: int) -> bytes:
    inflater = zlib.decompressobj(window)
    try:
        text = inflater.decompress(body, MAX_RECORD_BYTES)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if inflater.unconsumed_tail:
        raise ValueError(f"the body inflates to more than {MAX_RECORD_BYTES} bytes")
    return text


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
