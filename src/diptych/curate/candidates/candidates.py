"""Read candidate pairs from crawls, Parquet files of addresses or images, and whatever `data.sources` opens.

A source is cut into partitions, each described by plain values; its table is a pure function of its file and
the settings. Readers yield a row for each caption, or why there is none; `candidate_table` counts both. Of an
image with several captions the rows are `key#0`, `key#1`, …: later stages match and draw captions one by one.
"""

import glob
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from diptych.core.errors import BadSampleError, Reason, SettingsError, UsageError
from diptych.core.records import Counts, Field, Pair
from diptych.curate.candidates.crawl import (
    Candidate,
    CrawlSettings,
    absolute,
    candidate_table,
    fields_json,
    pair_key,
    pairs_of_crawl,
)
from diptych.data.captions import captions_of, fields_of
from diptych.data.shards.reader import ShardSet
from diptych.data.sources.open import Columns, ScenesSource, ShardSource, Source, open_source
from diptych.data.sources.rows import SCENES, image_path, read_image, require_downloaded
from diptych.data.sources.table_rows import check_columns, missing_column
from diptych.data.sources.tables import ARROW_SUFFIXES, ColumnarFile, ParquetSource

Kind = Literal["wat", "warc", "parquet", "source"]

_ENDINGS: Mapping[Kind, tuple[str, ...]] = {
    "wat": (".wat.gz", ".wat"),
    "warc": (".warc.gz", ".warc", ".arc.gz", ".arc"),
    "parquet": (".parquet",),
}


@dataclass(frozen=True, slots=True)
class CandidateColumns:
    """What the columns of a Parquet file are called; other columns of numbers and texts become fields.

    Attributes:
        url: address of the image; if there is no such column, images are in `image`.
        image: bytes of the image, a struct of bytes and path, or a path relative to the file; without such a
            column, img2dataset's `jpg`, `png` or `webp`.
        caption: the text, or a list of texts.
        key: name of the pair; without it a pair is named after what it holds.
        page, license: address of the page, and what the source states.
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
        partition_rows: of a partition, where a source can be cut.
        columns: of Parquet files.
    """

    sources: tuple[str, ...] = ()
    kind: Literal["auto", "wat", "warc", "parquet", "source"] = "auto"
    partition_rows: int = 50_000
    columns: CandidateColumns = field(default_factory=CandidateColumns)
    crawl: CrawlSettings = field(default_factory=CrawlSettings)

    def __post_init__(self) -> None:
        """Raise SettingsError for partitions without rows."""
        if self.partition_rows < 1:
            found = f"partition_rows {self.partition_rows}"
            raise SettingsError("a partition needs rows", found=found, expected="1 or more")


@dataclass(frozen=True, slots=True)
class Partition:
    """A part of the candidates that is read by itself.

    It goes from row group, sample or pair `first` of a file or source to the one before `last`; -1: to the
    end. `prefix` stands before keys that the source gave, so that two sources may name their pairs alike.
    """

    kind: Kind
    path: str
    first: int = 0
    last: int = -1
    prefix: str = ""


def partitions_of(settings: CandidatesSettings) -> tuple[Partition, ...]:
    """Cut the sources into partitions, in the order of the settings and of names.

    Folders and tables of files can only be read from their start: cut into n partitions they are read n / 2
    times over. Pack them first if they are large. UsageError: there is no source, or nothing under its name.
    """
    if not settings.sources:
        raise UsageError("no source of candidates is named", fix="set candidates.sources")
    partitions: list[Partition] = []
    for number, ref in enumerate(settings.sources):
        prefix = f"{number}-" if len(settings.sources) > 1 else ""
        is_pattern = glob.has_magic(ref) and not (Path(ref).exists() or "{" in ref or ref.startswith(SCENES))
        for path in globbed(ref) if is_pattern else [ref]:
            partitions += _partitions(path, prefix, settings)
    return tuple(partitions)


def candidates_of(partition: Partition, settings: CandidatesSettings) -> tuple[pa.Table, Counts]:
    """Read one of `partitions_of`: `columns.CANDIDATES` with unique keys, and what became of every row."""
    counts = Counts()
    rows: Iterator[Candidate | BadSampleError]
    if partition.kind == "parquet":
        rows = _parquet_rows(partition, settings.columns)
    elif partition.kind == "source":
        rows = _source_rows(partition, settings, counts)
    else:
        rows = pairs_of_crawl(Path(partition.path), settings.crawl)
    return candidate_table(rows, counts), counts


def globbed(pattern: str) -> list[str]:
    """Return the files that a pattern names, in the order of their names; UsageError if there is none."""
    paths = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 — a pattern may be absolute
    if not paths:
        raise UsageError("no file matches a pattern", where=pattern, fix="check the path")
    return paths


def _partitions(path: str, prefix: str, settings: CandidatesSettings) -> list[Partition]:
    kind: Kind = next((kind for kind, endings in _ENDINGS.items() if path.endswith(endings)), "source")
    kind = kind if settings.kind == "auto" else settings.kind
    if kind != "source" and not Path(path).is_file():
        raise UsageError("there is no such file", where=path, fix="check candidates.sources")
    if kind in ("wat", "warc"):
        return [Partition(kind, path, prefix=prefix)]
    if kind == "parquet":
        return _parquet_partitions(path, prefix, settings)
    source = open_source(path, columns=source_columns(settings))
    if isinstance(source, ParquetSource) and source.paths[0].suffix not in ARROW_SUFFIXES:
        return [one for part in source.paths for one in _parquet_partitions(str(part), prefix, settings)]
    if shards := _shards(source):
        size = len(shards)
    else:
        size = source.count if isinstance(source, ScenesSource) else sum(1 for _ in source.pairs(Counts()))
    rows = settings.partition_rows
    starts = range(0, max(size, 1), rows)
    # The last partition is open, so that what is bad behind the last pair is counted too.
    return [Partition(kind, path, n, n + rows if n != starts[-1] else -1, prefix) for n in starts]


def source_columns(settings: CandidatesSettings) -> Columns:
    """Return the columns as sources take them."""
    return Columns(settings.columns.image, settings.columns.caption, settings.columns.key)


def _shards(source: Source) -> ShardSet | None:
    """Return the shards of a source that can be read from anywhere."""
    return ShardSet.open(source.name) if isinstance(source, ShardSource) and not source.packed() else None


def _parquet_partitions(path: str, prefix: str, settings: CandidatesSettings) -> list[Partition]:
    """Put row groups together until a partition is full; a group is never cut."""
    with ColumnarFile(Path(path)) as file:
        groups = file.group_rows
    partitions, first, rows = [], 0, 0
    for group, group_rows in enumerate(groups):
        if rows and rows + group_rows > settings.partition_rows:
            partitions.append(Partition("parquet", path, first, group, prefix))
            first, rows = group, 0
        rows += group_rows
    return [*partitions, Partition("parquet", path, first, len(groups), prefix)]


def _source_rows(partition: Partition, settings: CandidatesSettings, counts: Counts) -> Iterator[Candidate]:
    columns, first = source_columns(settings), partition.first
    source = open_source(partition.path, columns=columns)
    span = slice(first, partition.last if partition.last >= 0 else None)
    if shards := _shards(source):
        counts.merge(shards.counts if first == 0 else Counts())  # of others' tars: what was bad when listed
        numbers = range(len(shards))[span]
        pairs = shards.pairs(counts, numbers=numbers, on_damage="skip", columns=columns)
    elif isinstance(source, ScenesSource):
        numbers = range(source.count)[span]
        pairs = source.span(numbers.start, numbers.stop)
    else:
        pairs = _span(source, partition, counts)
    for pair in pairs:
        key, fields = partition.prefix + pair.key, dict(pair.fields)
        yield from _captioned(key, pair.image, pair.captions, fields, settings.columns)


def _span(source: Source, partition: Partition, counts: Counts) -> Iterator[Pair]:
    """Yield a span of pairs; a bad row belongs to the span of the next pair."""
    seen = Counts()
    for number, pair in enumerate(source.pairs(seen), start=1):
        if number > partition.first:
            yield pair
        elif number == partition.first:  # what was bad so far belongs to the spans before
            seen.seen = 0
            seen.dropped.clear()
            seen.examples.clear()
        if number == partition.last:
            break
    counts.merge(seen)


def _parquet_rows(partition: Partition, columns: CandidateColumns) -> Iterator[Candidate | BadSampleError]:
    path = Path(partition.path)
    with ColumnarFile(path) as file:
        check_columns(file.names, (columns.caption,), path)
        columns = replace(columns, image=file.columns(Columns(columns.image)).image)
        if not any(file.names.count(name) == 1 for name in (columns.url, columns.image)):
            raise missing_column(columns.url, file.names, path)
        rows = file.rows(astuple(columns), groups=list(range(partition.first, partition.last)))
        for number, cells in enumerate(rows, sum(file.group_rows[: partition.first])):
            try:
                yield from _of_cells(cells, columns, path.parent, partition.prefix)
            except BadSampleError as error:
                error.where = f"{path.name} row {number}"
                yield error


def _of_cells(
    cells: dict[str, Any], columns: CandidateColumns, folder: Path, prefix: str
) -> Iterator[Candidate]:
    if cells.get(columns.image, "") is None:
        require_downloaded(cells)
    captions = captions_of(cells.pop(columns.caption))
    url, cell, image = _text(cells.pop(columns.url, None)), cells.pop(columns.image, None), None
    if cell is None or (url is not None and isinstance(cell, str)):
        url = absolute("", url)
    else:
        image = _image(cell, folder)
    own = cells.pop(columns.key, None)
    is_named = isinstance(own, str | int) and str(own)
    key = f"{prefix}{own}" if is_named else pair_key(image or url or "", captions[0])
    yield from _captioned(key, image, captions, {**fields_of(cells), columns.url: url}, columns)


def _captioned(
    key: str,
    image: bytes | None,
    captions: tuple[str, ...],
    fields: dict[str, Field],
    columns: CandidateColumns,
) -> Iterator[Candidate]:
    names = (columns.url, columns.page, columns.license)
    url, page, license = (_text(fields.pop(name, None)) for name in names)
    encoded = fields_json(fields)
    for number, caption in enumerate(captions):
        own = f"{key}#{number}" if len(captions) > 1 else key
        yield Candidate(own, url, image, caption, page, license, encoded)


def _image(cell: object, folder: Path) -> bytes:
    if isinstance(cell, dict):
        cell = cell.get("path") if cell.get("bytes") is None else cell["bytes"]
    if cell is None or isinstance(cell, str):
        return read_image(image_path(cell, folder))
    if not isinstance(cell, bytes):
        raise BadSampleError(Reason.BAD_ROW, found=f"an image of type {type(cell).__name__}")
    return cell


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
