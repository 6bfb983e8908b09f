"""Read candidate pairs from crawls, tables of addresses, and any source of images with captions.

A source is cut into partitions, each described by plain values; its table is a pure function of its file and
the settings. An image with several captions becomes one row for each, under `key#0`, `key#1`, …: what follows
judges, matches and draws captions one by one.

Reads: WAT and WARC files; Parquet of (url, caption) or with images; whatever `data.sources` opens. Writes:
nothing.
"""

import glob
from collections.abc import Iterator
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import pyarrow as pa

from diptych.core.errors import BadSampleError, IntegrityError, Reason, SettingsError, UsageError
from diptych.core.records import Counts, Pair
from diptych.curate.candidates.crawl import CrawlSettings, absolute, pairs_of_warc, pairs_of_wat
from diptych.curate.candidates.rows import Candidate, candidate_tables, fields_json, pair_key
from diptych.curate.columns import CANDIDATES
from diptych.data.captions import captions_of, fields_of
from diptych.data.shards.reader import ShardSet
from diptych.data.sources.open import Columns, ScenesSource, ShardSource, Source, open_source
from diptych.data.sources.rows import SCENES, drop, image_path, read_image, require_downloaded
from diptych.data.sources.table_rows import missing_column
from diptych.data.sources.tables import (
    ARROW_SUFFIXES,
    ParquetSource,
    image_column,
    open_parquet,
    parquet_rows,
    plain_columns,
)

Kind = Literal["wat", "warc", "parquet", "shards", "source"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_ENDINGS: tuple[tuple[str, Kind], ...] = (
    (".wat.gz", "wat"), (".wat", "wat"), (".warc.gz", "warc"), (".warc", "warc"), (".parquet", "parquet"),
    (".arc.gz", "warc"), (".arc", "warc"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class CandidateColumns:
    """What the columns of a Parquet file are called; other columns of numbers and texts become fields.

    Attributes:
        url: address of the image; if there is no such column, images are in `image`.
        image: bytes of the image, a struct of bytes and path, or a path relative to the file; without such a
            column, img2dataset's `jpg`, `png` or `webp` is taken.
        caption: the text, or a list of texts.
        key: name of the pair; without it a pair is named after what it holds.
        page: address of the page.
        license: as the source states it.
    """

    url: str = "url"
    image: str = "image"
    caption: str = "caption"
    key: str = "id"
    page: str = "page"
    license: str = "license"


@dataclass(frozen=True, slots=True)
class CandidatesSettings:
    """Where candidates come from.

    Attributes:
        sources: paths, patterns such as "crawl/*.warc.wat.gz", or references of `data.sources`.
        kind: what they are; "auto" reads it off each name.
        partition_rows: rows of a partition, where a source can be cut.
        columns: of Parquet files.
        crawl: how pages are read.
    """

    sources: tuple[str, ...] = ()
    kind: Literal["auto", "wat", "warc", "parquet", "source"] = "auto"
    partition_rows: int = 50_000
    columns: CandidateColumns = field(default_factory=CandidateColumns)
    crawl: CrawlSettings = field(default_factory=CrawlSettings)

    def __post_init__(self) -> None:
        """Refuse partitions without rows.

        Raises:
            SettingsError: `partition_rows` is not positive.
        """
        if self.partition_rows < 1:
            raise SettingsError(
                "a partition needs rows", found=f"partition_rows {self.partition_rows}", expected="1 or more"
            )


@dataclass(frozen=True, slots=True)
class Partition:
    """A part of the candidates that is read by itself.

    Attributes:
        kind: how it is read.
        path: file, or reference of a source.
        first: first row group, sample or pair of it.
        last: the one behind the last; -1 for all that follow.
        prefix: put before keys that the source gave, so that two sources may name their pairs alike.
    """

    kind: Kind
    path: str
    first: int = 0
    last: int = -1
    prefix: str = ""


def partitions_of(settings: CandidatesSettings) -> tuple[Partition, ...]:
    """Cut the sources into partitions, in the order of the settings and of names.

    Folders and tables of files can only be read from their start: cut into n partitions they are read n / 2
    times over. Pack them first if they are large.

    Raises:
        UsageError: there is no source, or nothing under its name.
    """
    if not settings.sources:
        raise UsageError("no source of candidates is named", fix="set candidates.sources")
    partitions: list[Partition] = []
    for number, ref in enumerate(settings.sources):
        prefix = f"{number}-" if len(settings.sources) > 1 else ""
        for path in _expanded(ref):
            partitions += _partitions(path, prefix, settings)
    return tuple(partitions)


def candidates_of(partition: Partition, settings: CandidatesSettings) -> tuple[pa.Table, Counts]:
    """Read one partition.

    Args:
        partition: one of `partitions_of`.
        settings: those that it was made with.

    Returns:
        A table of `columns.CANDIDATES` with unique keys, and what became of every row that was seen.

    Raises:
        IntegrityError: a file is damaged as a whole.
        UsageError: a file lacks the columns.
    """
    counts = Counts()
    rows = _READERS[partition.kind](partition, settings, counts)
    tables = list(candidate_tables(rows, counts, most_rows=settings.partition_rows))
    return pa.concat_tables([CANDIDATES.empty_table(), *tables]), counts


def _expanded(ref: str) -> list[str]:
    if not glob.has_magic(ref) or Path(ref).exists() or "{" in ref or ref.startswith(SCENES):
        return [ref]
    return globbed(ref)


def globbed(pattern: str) -> list[str]:
    """Return the files that a pattern names, in the order of their names.

    Raises:
        UsageError: there is none.
    """
    found = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 — a pattern may be absolute
    if not found:
        raise UsageError("no file matches a pattern", where=pattern, fix="check the path")
    return found


def _partitions(path: str, prefix: str, settings: CandidatesSettings) -> list[Partition]:
    by_name: Kind = next((kind for ending, kind in _ENDINGS if path.endswith(ending)), "source")
    kind: Kind = by_name if settings.kind == "auto" else settings.kind
    if kind in ("wat", "warc", "parquet") and not Path(path).is_file():
        raise UsageError("there is no such file", where=path, fix="check candidates.sources")
    if kind in ("wat", "warc"):
        return [Partition(kind, path, prefix=prefix)]
    if kind == "parquet":
        return _parquet_partitions(path, prefix, settings)
    source = open_source(path, columns=source_columns(settings))
    if isinstance(source, ParquetSource) and source.paths[0].suffix not in ARROW_SUFFIXES:
        return [one for part in source.paths for one in _parquet_partitions(str(part), prefix, settings)]
    kind = "shards" if isinstance(source, ShardSource) and not source.packed() else "source"
    path = source.name if kind == "shards" else path
    rows, size = settings.partition_rows, _size(source)
    starts = range(0, max(size, 1), rows)
    # The last partition is open, so that what is bad behind the last pair is counted too.
    return [Partition(kind, path, n, n + rows if n != starts[-1] else -1, prefix) for n in starts]


def _size(source: Source) -> int:
    if isinstance(source, ShardSource) and not source.packed():
        return len(ShardSet.open(source.name))
    if isinstance(source, ScenesSource):
        return source.count
    return sum(1 for _ in source.pairs(Counts()))


def source_columns(settings: CandidatesSettings) -> Columns:
    """Return the columns as sources take them."""
    return Columns(settings.columns.image, settings.columns.caption, settings.columns.key)


def _parquet_partitions(path: str, prefix: str, settings: CandidatesSettings) -> list[Partition]:
    """Put row groups together until a partition is full; a group is never cut."""
    with open_parquet(Path(path)) as file:
        metadata = file.metadata
    partitions, first, rows = [], 0, 0
    for group in range(metadata.num_row_groups):
        held = metadata.row_group(group).num_rows
        if rows and rows + held > settings.partition_rows:
            partitions.append(Partition("parquet", path, first, group, prefix))
            first, rows = group, 0
        rows += held
    return [*partitions, Partition("parquet", path, first, metadata.num_row_groups, prefix)]


def _shard_rows(partition: Partition, settings: CandidatesSettings, counts: Counts) -> Iterator[Candidate]:
    shards = ShardSet.open(partition.path)
    if partition.first == 0:
        counts.merge(shards.counts)  # of others' tars: what was found bad when they were listed
    for number in range(partition.first, len(shards) if partition.last < 0 else partition.last):
        try:
            pair = shards.pair(number, columns=source_columns(settings))
        except IntegrityError as error:
            counts.drop(Reason.DAMAGED, error.where)
        except BadSampleError as error:
            counts.drop(error.reason, error.where)
        else:
            yield from _of_pair(pair, partition, settings.columns)


def _source_rows(partition: Partition, settings: CandidatesSettings, counts: Counts) -> Iterator[Candidate]:
    """Read a span of a source's pairs; a bad row belongs to the span of the next pair."""
    seen, source = Counts(), open_source(partition.path, columns=source_columns(settings))
    if isinstance(source, ScenesSource):
        for pair in source.span(partition.first, source.count if partition.last < 0 else partition.last):
            yield from _of_pair(pair, partition, settings.columns)
        return
    for number, pair in enumerate(source.pairs(seen)):
        if number >= partition.first:
            counts.merge(seen)
            yield from _of_pair(pair, partition, settings.columns)
        seen.seen = seen.kept = 0
        seen.dropped.clear()
        seen.examples.clear()
        if number + 1 == partition.last:
            return
    counts.merge(seen)


def _of_pair(pair: Pair, partition: Partition, columns: CandidateColumns) -> Iterator[Candidate]:
    fields = dict(pair.fields)
    url, page, license = (
        _text(fields.pop(name, None)) for name in (columns.url, columns.page, columns.license)
    )
    row = Candidate("", url, pair.image, "", page, license)
    yield from _captioned(partition.prefix + pair.key, pair.captions, row, fields)


def _captioned(key: str, captions: tuple[str, ...], row: Candidate, fields: Any) -> Iterator[Candidate]:
    told = fields_json(fields)
    for number, caption in enumerate(captions):
        name = f"{key}#{number}" if len(captions) > 1 else key
        yield row._replace(key=name, caption=caption, fields=told)


def _parquet_rows(partition: Partition, settings: CandidatesSettings, counts: Counts) -> Iterator[Candidate]:
    path = Path(partition.path)
    for number, cells in _parquet_cells(partition, settings.columns):
        try:
            yield from _of_row(cells, settings.columns, path.parent, partition.prefix)
        except BadSampleError as error:
            drop(counts, error, f"{path.name} row {number}")


def _parquet_cells(partition: Partition, columns: CandidateColumns) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (number in the file, cells by name) of each row."""
    path = Path(partition.path)
    with open_parquet(path, (columns.caption,)) as file:
        image = image_column(file, columns.image)
        names = plain_columns(file, (*astuple(columns), image))
        if columns.url not in names and image not in names:
            raise missing_column(columns.url, names, path)
        first = sum(file.metadata.row_group(group).num_rows for group in range(partition.first))
        rows = parquet_rows(file, names, path, row_groups=list(range(partition.first, partition.last)))
        keys = [columns.image if name == image else name for name in names]
        for number, cells in enumerate(rows, first):
            yield number, dict(zip(keys, cells, strict=True))


def _of_row(
    cells: dict[str, Any], columns: CandidateColumns, folder: Path, prefix: str
) -> Iterator[Candidate]:
    if cells.get(columns.image, "") is None:
        require_downloaded(cells)
    captions = captions_of(cells.pop(columns.caption))
    url, image, told = cells.pop(columns.url, None), None, cells.pop(columns.image, None)
    if told is None or (isinstance(url, str) and isinstance(told, str)):
        url = absolute("", _text(url))
        named = pair_key(url, captions[0])
    else:
        image = _image(told, folder)
        named = pair_key(image, captions[0])
    key = cells.pop(columns.key, None)
    if isinstance(key, str | int) and str(key):
        named = prefix + str(key)
    page, license = cells.pop(columns.page, None), cells.pop(columns.license, None)
    row = Candidate("", _text(url), image, "", _text(page), _text(license))
    yield from _captioned(named, captions, row, fields_of(cells))


def _image(told: object, folder: Path) -> bytes:
    if isinstance(told, dict):
        told = told.get("path") if told.get("bytes") is None else told["bytes"]
    if told is None or isinstance(told, str):
        return read_image(image_path(told, folder))
    if not isinstance(told, bytes):
        raise BadSampleError(Reason.BAD_ROW, found=f"an image of type {type(told).__name__}")
    return told


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


_READERS = {
    "wat": lambda part, settings, counts: pairs_of_wat(Path(part.path), settings.crawl, counts),
    "warc": lambda part, settings, counts: pairs_of_warc(Path(part.path), settings.crawl, counts),
    "parquet": _parquet_rows,
    "shards": _shard_rows,
    "source": _source_rows,
}
