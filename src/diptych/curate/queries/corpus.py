"""A corpus as texts: Wikipedia dumps, plain text, tables; cut in parts that are read independently.

Kinds, told by the file's name (whatever follows `.gz`, `.bz2` or `.zst` is packed):

- `….xml…`: a MediaWiki dump, e.g. `enwiki-20260101-pages-articles-multistream.xml.bz2` (see `mediawiki`).
- `….parquet`: a column of texts, by default the one called `text`, or the only one of strings.
- any other: plain text, one text a line.

A part is a range of the file's bytes (of its row groups, for Parquet). Plain files are cut anywhere; a
`.bz2` at the beginnings of the streams inside it, of which Wikipedia's "multistream" dumps have one per 100
pages; other packed files are one part. Each text belongs to exactly one part, whatever the parts.

Reads: those files. Writes: nothing. Source: meta.wikimedia.org, "Data dumps/Dump format" (multistream).
"""

import bz2
import codecs
import gzip
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from diptych.core.errors import DataError, UsageError
from diptych.curate.queries.mediawiki import articles
from diptych.curate.queries.wikitext import lines_of, plain_lines

BLOCK_BYTES = 1 << 20
BATCH_BYTES = 4 << 20
"""Texts are handed on in batches of about so many bytes."""
MAX_LINE_BYTES = 16 << 20
"""A longer line is cut at a space: it is no sentence, and must not fill the memory."""
HEAD_BYTES = 2048
"""Of a file's beginning, which tells its kind; the root of an XML export stands in it."""
STREAM_MAGIC = b"\x31\x41\x59\x26\x53\x59"
"""Of a bzip2 block; behind "BZh" and a digit it marks the beginning of a stream."""
STREAM_HEAD = len(b"BZh9") + len(STREAM_MAGIC)
PACKED = (".bz2", ".gz", ".zst")

Blocks = Iterator[tuple[bytes, bool]]
"""Unpacked bytes, and whether they are still within the part: what follows only completes its last text."""


@dataclass(frozen=True, slots=True)
class CorpusPart:
    """A piece of a corpus that one worker reads.

    Attributes:
        path: the file.
        start: first byte, or row group.
        end: the one after the last.
    """

    path: str
    start: int
    end: int


def corpus_partitions(paths: Iterable[str], bytes_per_partition: int) -> tuple[CorpusPart, ...]:
    """Cut files into parts of about equal size, in the order of the files.

    Args:
        paths: of a corpus.
        bytes_per_partition: on disk; a file that cannot be cut is one part whatever its size.

    Raises:
        UsageError: a file does not exist, or the size is not positive.
        DataError: a file is empty.
    """
    if bytes_per_partition <= 0:
        raise UsageError(
            "a corpus cannot be cut", found=f"{bytes_per_partition} bytes per partition", expected="some"
        )
    parts: list[CorpusPart] = []
    for path in paths:
        if not Path(path).is_file():
            raise UsageError("a corpus file does not exist", where=path, fix="check the path")
        if not Path(path).stat().st_size:
            raise DataError("a corpus file is empty", where=path, fix="download it again, or leave it out")
        cuts = _cuts(Path(path), bytes_per_partition)
        parts += [CorpusPart(str(path), start, end) for start, end in pairwise(cuts)]
    return tuple(parts)


def texts_of_part(part: CorpusPart, *, column: str = "text") -> Iterator[pa.Array]:
    """Read the texts of a part.

    Args:
        part: of `corpus_partitions`.
        column: which one of a Parquet file holds the texts.

    Yields:
        Strings, in batches of some megabytes.

    Raises:
        DataError: the file is damaged or cut off.
        UsageError: it has no such column, or is of a kind that is not read.
    """
    path = Path(part.path)
    try:
        if part.start == 0 and path.suffix != ".parquet":
            _check_kind(part)
        if path.suffix == ".parquet":
            yield from _rows(part, column)
        elif is_mediawiki(path):
            yield from _in_batches(articles(_blocks(part), path))
        else:
            yield from map(lines_of, _whole_lines(_blocks(part), first=part.start == 0))
    except (OSError, EOFError, ValueError, zlib.error, pa.ArrowException) as error:
        raise DataError(
            "a corpus file cannot be read",
            where=path,
            found=str(error)[:200],
            fix="compare its checksum with the publisher's, and download it again",
        ) from error


def is_mediawiki(path: Path) -> bool:
    """Tell by its name whether a file is a MediaWiki dump."""
    return ".xml" in path.suffixes or any(suffix.startswith(".xml-p") for suffix in path.suffixes)


def _check_kind(part: CorpusPart) -> None:
    """Refuse by its first bytes what would be read as no text, or as one of strange letters."""
    head, blocks = b"", _blocks(part)
    while len(head) < HEAD_BYTES and (block := next(blocks, None)):
        head += block[0]
    kind = ""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        kind = "text in UTF-16"
    elif b"\0" in head:
        kind = "NUL bytes"
    elif is_mediawiki(Path(part.path)) and b"<mediawiki" not in head:
        kind = "XML that is no MediaWiki export"
    if kind:
        raise UsageError(
            "a corpus file is of a kind that is not read",
            where=part.path,
            found=kind,
            expected="a MediaWiki export or text in UTF-8, plain or packed as .gz, .bz2 or .zst; or Parquet",
            fix="convert it first, for example: iconv -f UTF-16 -t UTF-8",
        )


def _cuts(path: Path, bytes_per_partition: int) -> list[int]:
    """Return where the parts of a file begin, and where the last one ends."""
    size = path.stat().st_size
    if path.suffix == ".parquet":
        try:
            groups = pq.read_metadata(path).num_row_groups
        except (OSError, pa.ArrowException) as error:
            raise DataError("a corpus file cannot be read", where=path, found=str(error)[:200]) from error
        step = max(1, bytes_per_partition * groups // max(1, size))
        return [*range(0, groups, step), groups]
    if path.suffix in PACKED and path.suffix != ".bz2":
        return [0, size]
    return [*range(0, size, bytes_per_partition), size]


def _rows(part: CorpusPart, column: str) -> Iterator[pa.Array]:
    with pq.ParquetFile(part.path) as file:
        schema = file.schema_arrow
        texts = [
            one.name for one in schema if pa.types.is_string(one.type) or pa.types.is_large_string(one.type)
        ]
        name = texts[0] if column not in texts and len(texts) == 1 else column
        if name not in texts:
            raise UsageError(
                "a table has no such column of texts",
                where=part.path,
                found=", ".join(texts) or "no column of strings",
                expected=column,
                fix="name the column that holds the texts",
            )
        for batch in file.iter_batches(row_groups=list(range(part.start, part.end)), columns=[name]):
            yield batch.column(0)


def _in_batches(pages: Iterator[str]) -> Iterator[pa.Array]:
    held: list[str] = []
    size = 0
    for page in pages:
        held.append(page)
        size += len(page)
        if size >= BATCH_BYTES:
            yield plain_lines(held)
            held, size = [], 0
    if held:
        yield plain_lines(held)


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
            _, found, block = block.partition(b"\n")
            if not found:
                continue
            first = True
        last = not inside and b"\n" in block
        if last:
            block = block[: block.find(b"\n")]
        cut = len(rest) + block.rfind(b"\n") + 1 if inside and b"\n" in block else 0
        rest += block
        if last:
            yield _as_utf8(rest + b"\n")
            return
        if cut == 0 and len(rest) > MAX_LINE_BYTES:
            cut = rest.rfind(b" ") + 1 or len(rest)
        if cut:
            yield _as_utf8(rest[:cut])
            rest = rest[cut:]
    if rest:
        yield _as_utf8(rest)


def _as_utf8(data: bytes) -> bytes:
    """Put replacement characters where bytes are no UTF-8."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("utf-8", "replace").encode("utf-8")
    return data


def _blocks(part: CorpusPart) -> Blocks:
    """Unpack a part, and what follows it for as long as it is asked for."""
    suffix = Path(part.path).suffix
    with Path(part.path).open("rb") as file:
        if suffix == ".bz2":
            yield from _unpacked_streams(file, part)
        elif suffix in PACKED:
            unpacked: Any = gzip.GzipFile(fileobj=file)
            if suffix == ".zst":
                unpacked = pa.CompressedInputStream(file, "zstd")
            yield from ((block, True) for block in iter(lambda: unpacked.read(BLOCK_BYTES), b""))
        else:
            yield from _plain(file, part)


def _plain(file: IO[bytes], part: CorpusPart) -> Blocks:
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
    file.seek(start)
    at, held = start, b""
    while at < end:
        block = file.read(BLOCK_BYTES)
        if not block:
            return None
        held += block
        found = -1
        while (found := held.find(STREAM_MAGIC, found + 1)) >= 0:
            head = held[max(0, found - 4) : found]
            if head[:3] == b"BZh" and head[3:].isdigit():
                return at + found - 4 if at + found - 4 < end else None
        at += max(0, len(held) - STREAM_HEAD + 1)
        held = held[-(STREAM_HEAD - 1) :]
    return None
