"""A corpus as texts: Wikipedia dumps, plain text, tables; cut in parts that are read independently.

Kinds, known by the file's name (a `.gz`, `.bz2` or `.zst` at its end is unpacked):

- `….xml…`: a MediaWiki dump, e.g. `enwiki-20260101-pages-articles-multistream.xml.bz2`, of which the pages of
  namespace 0 that are no redirects are read, as prose (`wikitext`).
- `….parquet`: a column of texts, by default the one called `text`, or the only one of strings.
- any other: plain text, one text a line.

A part is a range of the file's bytes (of its row groups, for Parquet). Plain files are cut anywhere; a `.bz2`
at the streams inside it, of which "multistream" dumps have one per 100 pages; other packed files are one
part. Each text belongs to exactly one part, whatever the parts.

Source: meta.wikimedia.org, "Data dumps/Dump format" (multistream); mediawiki.org, "Help:Export" (0.11).
"""

import bz2
import codecs
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO
from xml.etree import ElementTree

import pyarrow as pa
import pyarrow.parquet as pq

from diptych.core.errors import DataError, UsageError
from diptych.curate.queries.wikitext import lines_of, plain_lines

BLOCK_BYTES = 1 << 20
BATCH_BYTES = 4 << 20  # about so many bytes of pages are handed on together
MAX_LINE_BYTES = 16 << 20  # a longer line is no sentence: it is cut at a space, not to fill the memory
MAX_PAGE_BYTES = 64 << 20  # MediaWiki refuses pages above 2 MiB; more has all revisions, or is no export
HEAD_BYTES = 2048  # of a file's beginning, which show its kind; the root of an XML export stands in it
PACKED = (".bz2", ".gz", ".zst")
STREAM = re.compile(rb"BZh\d1AY&SY")  # where a bzip2 stream with a block begins
STREAM_BYTES = 10

# A page is parsed by itself and can declare no document type, so no entity but XML's own five exists and none
# can grow. The "<" of a text is always written `&lt;`, so these bytes are always the tag.
OPENING, CLOSING, ENDING = b"<page>", b"</page>", b"</mediawiki>"
NAMESPACE = re.compile(rb"<ns>\s*(-?\d+)\s*</ns>")

# Unpacked bytes, and whether they are still within the part: what follows only completes its last text.
Blocks = Iterator[tuple[bytes, bool]]


@dataclass(frozen=True, slots=True)
class CorpusPart:
    """A piece of a file that one worker reads: bytes, or row groups, from `start` to before `end`."""

    path: str
    start: int
    end: int


def corpus_partitions(paths: Iterable[str], bytes_per_partition: int) -> tuple[CorpusPart, ...]:
    """Cut files into parts of about so many bytes on disk; a file that cannot be cut is one part.

    Raises:
        UsageError: a file does not exist.
        DataError: a file is empty.
    """
    return tuple(
        CorpusPart(str(path), start, end)
        for path in paths
        for start, end in pairwise(_cuts(Path(path), bytes_per_partition))
    )


def texts_of_part(part: CorpusPart, *, column: str = "text") -> Iterator[pa.Array]:
    """Yield the texts of a part in batches of some megabytes; those of Parquet files from a column.

    Raises:
        DataError: the file is damaged or cut off.
        UsageError: it has no such column, or is of a kind that is not read.
    """
    path = Path(part.path)
    try:
        if path.suffix == ".parquet":
            yield from _rows(part, column)
            return
        if part.start == 0:
            _check_kind(part)
        if _is_mediawiki(path):
            yield from _articles(_blocks(part), path)
        else:
            for lines in _whole_lines(_blocks(part), first=part.start == 0):
                # Replacement characters where bytes are no UTF-8.
                yield lines_of(lines.decode("utf-8", "replace").encode("utf-8"))
    except (OSError, EOFError, ValueError, zlib.error, pa.ArrowException) as error:
        raise _damaged(path, str(error)) from error


def _damaged(
    where: object, found: str, what: str = "a corpus file cannot be read", expected: str = ""
) -> DataError:
    fix = "compare its checksum with the publisher's, and download it again"
    return DataError(what, where=where, found=found[:200], expected=expected, fix=fix)


def _is_mediawiki(path: Path) -> bool:
    return ".xml" in path.suffixes or any(suffix.startswith(".xml-p") for suffix in path.suffixes)


def _check_kind(part: CorpusPart) -> None:
    """Refuse by its first bytes what would be read as no text, or as one of wrong letters."""
    head, blocks = b"", _blocks(part)
    while len(head) < HEAD_BYTES and (block := next(blocks, None)):
        head += block[0]
    kinds = {
        "text in UTF-16": head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)),
        "NUL bytes": b"\0" in head,
        "XML that is no MediaWiki export": _is_mediawiki(Path(part.path)) and b"<mediawiki" not in head,
    }
    if kind := next((kind for kind, is_so in kinds.items() if is_so), ""):
        raise UsageError(
            "a corpus file is of a kind that is not read",
            where=part.path,
            found=kind,
            expected="a MediaWiki export or text in UTF-8, plain or packed as .gz, .bz2 or .zst; or Parquet",
            fix="convert it first, for example: iconv -f UTF-16 -t UTF-8",
        )


def _cuts(path: Path, bytes_per_partition: int) -> list[int]:
    """Return where the parts of a file begin, and where the last one ends."""
    if not path.is_file():
        raise UsageError("a corpus file does not exist", where=path, fix="check the path")
    size = path.stat().st_size
    if not size:
        raise DataError("a corpus file is empty", where=path, fix="download it again, or leave it out")
    if path.suffix == ".parquet":
        try:
            groups = pq.read_metadata(path).num_row_groups
        except (OSError, pa.ArrowException) as error:
            raise _damaged(path, str(error)) from error
        step = max(1, bytes_per_partition * groups // size)
        return [*range(0, groups, step), groups]
    if path.suffix in PACKED and path.suffix != ".bz2":
        return [0, size]
    return [*range(0, size, bytes_per_partition), size]


def _rows(part: CorpusPart, column: str) -> Iterator[pa.Array]:
    with pq.ParquetFile(part.path) as file:
        texts = [one.name for one in file.schema_arrow if one.type in (pa.string(), pa.large_string())]
        name = texts[0] if column not in texts and len(texts) == 1 else column
        if name not in texts:
            what, fix = "a table has no such column of texts", "name the column that holds the texts"
            found = ", ".join(texts) or "no column of strings"
            raise UsageError(what, where=part.path, found=found, expected=column, fix=fix)
        for batch in file.iter_batches(row_groups=list(range(part.start, part.end)), columns=[name]):
            yield batch.column(0)


def _whole_lines(blocks: Blocks, *, first: bool) -> Iterator[bytes]:
    """Yield runs of whole lines.

    A part begins after the first line feed in it (the file's first one: at once) and ends after the first
    line feed at its end or later, so that its last line is whole and every line is in one part.
    """
    rest = b""
    for block, inside in blocks:
        if not first:
            if not inside:
                return
            _, newline, block = block.partition(b"\n")
            first = bool(newline)
        if not inside and b"\n" in block:
            rest += block[: block.find(b"\n") + 1]
            break
        rest += block
        cut = rest.rfind(b"\n") + 1
        if cut == 0 and len(rest) > MAX_LINE_BYTES:
            cut = rest.rfind(b" ") + 1 or len(rest)
        if cut:
            yield rest[:cut]
            rest = rest[cut:]
    if rest:
        yield rest


def _blocks(part: CorpusPart) -> Blocks:
    """Unpack a part, and what follows it for as long as it is asked for."""
    suffix = Path(part.path).suffix
    if suffix in PACKED and suffix != ".bz2":
        with pa.input_stream(part.path) as unpacked:
            yield from ((block, True) for block in iter(lambda: unpacked.read(BLOCK_BYTES), b""))
        return
    with Path(part.path).open("rb") as file:
        if suffix == ".bz2":
            yield from _unpacked_streams(file, part)
            return
        file.seek(part.start)
        left = part.end - part.start
        while block := file.read(min(BLOCK_BYTES, left) if left > 0 else BLOCK_BYTES):
            yield block, left > 0
            left -= len(block)


def _unpacked_streams(file: IO[bytes], part: CorpusPart) -> Blocks:
    """Unpack the bzip2 streams that begin in a part, and then those that follow."""
    begin = 0 if part.start == 0 else _next_stream(file, part.start, part.end)
    if begin is None:
        return
    file.seek(begin)
    unpacker, at, data = bz2.BZ2Decompressor(), begin, b""
    while True:
        if unpacker.eof:
            data = unpacker.unused_data
            at = file.tell() - len(data)
            unpacker = bz2.BZ2Decompressor()
        if not data and unpacker.needs_input and not (data := file.read(BLOCK_BYTES)):
            break
        block = unpacker.decompress(data, BLOCK_BYTES)
        data = b""
        if block:
            yield block, at < part.end
    if file.tell() != at:
        raise EOFError(f"the compressed stream that begins at byte {at:,} is cut off")


def _next_stream(file: IO[bytes], start: int, end: int) -> int | None:
    """Return where the first bzip2 stream begins at or after `start` and before `end`."""
    for at in range(start, end, BLOCK_BYTES):
        file.seek(at)
        head = STREAM.search(file.read(BLOCK_BYTES + STREAM_BYTES - 1))
        if head:
            return at + head.start() if at + head.start() < end else None
    return None


def _articles(blocks: Blocks, path: Path) -> Iterator[pa.Array]:
    """Yield the prose of the articles whose tags begin in a part, some megabytes at a time."""
    batch, size = list[str](), 0
    for page in _pages(blocks, path):
        text = _wikitext(page, f"{path}, page beginning {page[:100]!r}")
        batch.append(text)
        size += len(text)
        if size >= BATCH_BYTES:
            yield plain_lines(batch)
            batch, size = [], 0
    if batch:
        yield plain_lines(batch)


def _wikitext(page: bytes, where: str) -> str:
    """Return the text of a page's last revision; none if it is no article."""
    head = page[: page.find(b"<revision>")]
    namespace = NAMESPACE.search(head)
    if namespace is None:
        raise UsageError(
            "a page of the dump names no namespace",
            where=where,
            expected="<ns> in every page, as exports have had since 2012 (schema 0.6)",
            fix="export the wiki again, or give its texts as a plain file, one a line",
        )
    if namespace[1] != b"0" or b"<redirect" in head:
        return ""
    try:
        revisions = list(ElementTree.fromstring(page).iter("text"))
    except ElementTree.ParseError as error:
        raise _damaged(where, str(error), "a page of the dump is no XML") from error
    return "".join(revisions[-1].itertext()) if revisions else ""


def _pages(blocks: Blocks, path: Path) -> Iterator[bytes]:
    """Yield the pages that begin in a part: before byte `limit` of its unpacked bytes, once that is known."""
    rest, at, limit, ended = b"", 0, None, False  # `at` is where the rest begins
    for block, inside in blocks:
        if limit is None and not inside:
            limit = at + len(rest)
        *pieces, rest = (rest + block).split(CLOSING)
        for piece in pieces:
            start = piece.find(OPENING)
            if limit is not None and limit <= at + start:
                return
            if start >= 0:
                yield piece[start:] + CLOSING
            at += len(piece) + len(CLOSING)
        start = rest.find(OPENING)
        done = start if start >= 0 else max(0, len(rest) - len(ENDING) + 1)
        if limit is not None and limit <= at + done:
            return
        if len(rest) - done > MAX_PAGE_BYTES:
            raise DataError(
                "a page of the dump is too large",
                where=f"{path}, after {rest[done : done + 100]!r}",
                expected=f"at most {MAX_PAGE_BYTES:,} bytes",
                fix="use the file of the articles' current revisions, pages-articles",
            )
        ended = ended or ENDING in rest
        rest, at = rest[done:], at + done
    # The last part of a file may begin inside the very last tag.
    ended = ended or (at + len(rest) < 2 * len(ENDING) and ENDING.endswith(rest.strip()))
    if OPENING in rest or not ended:
        raise _damaged(path, f"…{rest[-60:]!r}", "the dump is cut off", f"{ENDING.decode()} at its end")
