"""Pairs from tables: CSV, TSV and JSON, Parquet and Arrow.

Reads: rows of image path and caption (rows that share an image become one pair with several
captions); Parquet and Arrow with image bytes, Hugging Face image structs {bytes, path}, or image paths, one
row group at a time.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.core.errors import (
    BadSampleError,
    DataError,
    IntegrityError,
    MissingPackageError,
    Reason,
)
from diptych.core.manifest import FileEntry
from diptych.core.records import Counts, Field, Need, Pair
from diptych.data.captions import Columns, attempt, captions_of, fields_of, plain
from diptych.data.sources.rows import (
    build_pair,
    digest_files,
    drop,
    image_path,
    require_downloaded,
    short_names,
    unique,
)
from diptych.data.sources.table_rows import TableRow, check_columns, table_rows

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_BATCH_ROWS = 64  # rows of Parquet held as Python objects at a time: 64 images of the largest size are 1.3 GB
ARROW_SUFFIXES = (".arrow", ".feather")
COLUMNAR_SUFFIXES = (".parquet", *ARROW_SUFFIXES)
_NUMBER_WIDTH = 8  # row numbers as keys sort as numbers up to 100 million rows
_BROKEN = object()  # stands for a cell whose bytes are not what its column says


@dataclass(slots=True)
class _Group:
    """The rows of a table that share an image; without a path, why there is none."""

    path: Path | BadSampleError
    row: int
    key: str
    captions: list[str] = field(default_factory=list)
    fields: dict[str, Field] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TableSource:
    """A text table (see `table_rows`); image paths are relative to its folder, or absolute."""

    path: Path
    columns: Columns
    need: Need = Need.PAIR

    @property
    def name(self) -> str:
        """Return the file's path."""
        return str(self.path)

    def pairs(self, counts: Counts) -> Iterator[Pair]:
        """Yield one pair an image, in the order of first appearance; see Source."""
        return unique(self._pairs(counts), counts)

    def inputs(self) -> tuple[FileEntry, ...]:
        """Digest the table and the images that it names; see Source."""
        groups = self._groups(Counts())
        images = [group.path for group in groups.values() if isinstance(group.path, Path)]
        root = self.path.parent
        return (
            *digest_files("table", [self.path], root=root),
            *digest_files("images", images, root=root),
        )

    def _pairs(self, counts: Counts) -> Iterator[Pair]:
        groups = self._groups(counts)
        for name, short in zip(groups, short_names(list(groups)), strict=True):
            group = groups[name]
            captions = tuple(group.captions) or BadSampleError(Reason.MISSING_CAPTION)
            try:
                yield build_pair(self.need, group.key or short, group.path, captions, group.fields)
            except BadSampleError as error:
                drop(counts, error, f"{self.path.name} row {group.row}: {name[:80]}")

    def _groups(self, counts: Counts) -> dict[str, _Group]:
        """Read all rows; the images are read later, one at a time."""
        groups: dict[str, _Group] = {}
        for row in table_rows(self.path, self.columns, tuple(needed_columns(self.columns, self.need))):
            try:
                self._add(groups, row)
            except BadSampleError as error:
                for _ in range(row.lines if row.cells is error else 1):
                    drop(counts, error, f"{self.path.name} row {row.line}")
        return groups

    def _add(self, groups: dict[str, _Group], row: TableRow) -> None:
        if isinstance(row.cells, BadSampleError):
            raise row.cells
        cells = row.cells
        name = cells.pop(self.columns.image, None)
        path = attempt(lambda: image_path(name, self.path.parent))
        captions = attempt(lambda: captions_of(cells.pop(self.columns.caption, None)))
        for needed, value in ((Need.IMAGE, path), (Need.CAPTION, captions)):
            if needed in self.need and isinstance(value, BadSampleError):
                raise value
        name = str(name or f"row {row.line}")  # so that rows without an image are not taken for one
        if name not in groups:
            key = plain(str(cells.pop(self.columns.key, "")))
            groups[name] = _Group(path, row.line, key, [], fields_of(cells))
        self._check_one_value(groups[name], fields_of(cells), row.line)
        if isinstance(captions, tuple):
            groups[name].captions += captions

    def _check_one_value(self, group: _Group, fields: Mapping[str, Field], line: int) -> None:
        for column in self.columns.one_value:
            first, other = group.fields.get(column), fields.get(column)
            if first != other:
                raise DataError(
                    "an image has two values in a column that may have one",
                    where=f"{self.path}, column {column!r}, rows {group.row} and {line}",
                    found=f"{str(first)[:80]!r} and {str(other)[:80]!r}",
                    expected="one label an image, in each of its rows",
                    fix="remove one of the rows, or list the image under another path",
                )


def needed_columns(columns: Columns, need: Need) -> Iterator[str]:
    """Name the columns that a table must have: those that are needed, and those that were named."""
    if need != Need.CAPTION or columns.image != Columns().image:
        yield columns.image
    if Need.CAPTION in need or columns.caption != Columns().caption:
        yield columns.caption


@dataclass(frozen=True, slots=True)
class ParquetSource:
    """Parquet files of one layout, read in order."""

    name: str
    paths: tuple[Path, ...]
    columns: Columns
    need: Need = Need.PAIR

    def pairs(self, counts: Counts) -> Iterator[Pair]:
        """Yield the pairs in row order; see Source."""
        return unique(self._pairs(counts), counts)

    def inputs(self) -> tuple[FileEntry, ...]:
        """Digest the files, and the images if the rows name them; see Source."""
        root = self.paths[0].parent
        return (
            *digest_files("Parquet", self.paths, root=root),
            *digest_files("images", self._images(), root=root),
        )

    def _images(self) -> Iterator[Path]:
        """Name the image files, where the rows hold paths."""
        for path, cells in self._rows(only_paths=True):
            location = cells[self.columns.image]
            if isinstance(location, dict):
                location = location.get("path") if location.get("bytes") is None else None
            if isinstance(location, str):
                with suppress(BadSampleError):
                    yield image_path(location, path.parent)

    def _pairs(self, counts: Counts) -> Iterator[Pair]:
        taken: set[str] = set()
        for number, (path, cells) in enumerate(self._rows()):
            try:
                pair = self._pair(cells, path, number, taken)
            except BadSampleError as error:
                drop(counts, error, f"{path.name} row {number}")
            else:
                taken.add(pair.key)
                yield pair

    def _rows(self, *, only_paths: bool = False) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Yield the rows as values by column; `only_paths`: their images, of files that may hold paths."""
        columns = self.columns
        for path in self.paths:
            with open_parquet(path) as file:
                image = image_column(file, columns.image)
                asked = tuple(needed_columns(replace(columns, image=image), self.need))
                check_columns(file.schema_arrow.names, asked, path)
                if only_paths and not _may_hold_paths(file, image):
                    continue
                names = [image] if only_paths else plain_columns(file, (*asked, columns.caption, columns.key))
                keys = [columns.image if name == image else name for name in names]
                for cells in parquet_rows(file, names, path):
                    yield path, dict(zip(keys, cells, strict=True))

    def _pair(self, cells: dict[str, Any], path: Path, number: int, taken: set[str]) -> Pair:
        key = cells.pop(self.columns.key, cells.get("key"))  # img2dataset's name for it
        image = cells.pop(self.columns.image, None)
        if image is None:
            require_downloaded(cells)
        captions = attempt(lambda: captions_of(cells.pop(self.columns.caption, None)))
        stem = ""
        if isinstance(image, dict):
            location = image.get("path")
            stem = Path(location).stem if isinstance(location, str) else ""
            image = location if image.get("bytes") is None else image["bytes"]
        if not isinstance(image, bytes):
            image = attempt(lambda: image_path(image, path.parent))
            stem = image.stem if isinstance(image, Path) else stem
        row = f"{number:0{_NUMBER_WIDTH}d}"
        ways = (plain(stem), row, f"{row}-{plain(stem)}")  # another image's stem may be this row's number
        name = next((way for way in ways if way and way not in taken), row)
        if isinstance(key, str | int) and str(key):
            name = plain(str(key))
        return build_pair(self.need, name, image, captions, fields_of(cells), str(path))


class _ArrowFile:
    """An Arrow file or stream, read as `ParquetFile` reads Parquet."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        self._file = pa.memory_map(str(path))
        try:
            self._reader = pa.ipc.open_stream(self._file)
            self._batches = iter(self._reader)
        except pa.ArrowInvalid:  # the random-access form begins with a mark that no stream has
            self._file.seek(0)
            self._reader = pa.ipc.open_file(self._file)
            self._batches = map(self._reader.get_batch, range(self._reader.num_record_batches))
        self.schema_arrow = self._reader.schema

    def __enter__(self) -> "_ArrowFile":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def iter_batches(self, *, batch_size: int, columns: list[str], **_: object) -> Iterator["pa.RecordBatch"]:
        """Yield batches of at most so many rows; offsets are checked, for Arrow itself trusts them."""
        for batch in self._batches:
            chosen = batch.select(columns)
            chosen.validate(full=True)
            for first in range(0, len(chosen), batch_size):
                yield chosen.slice(first, batch_size)


def open_parquet(path: Path, needed: Sequence[str] = ()) -> "pq.ParquetFile":
    """Open a Parquet or Arrow file that has certain columns.

    Raises:
        MissingPackageError: pyarrow is not installed.
        IntegrityError: the file is damaged.
        UnknownNameError: a column is missing.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingPackageError(
            "reading Parquet needs pyarrow", where=path, fix="pip install 'diptych[data]'"
        ) from None
    try:
        file = _ArrowFile(path) if path.suffix in ARROW_SUFFIXES else pq.ParquetFile(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise unreadable(path, error) from None
    check_columns(file.schema_arrow.names, needed, path)
    return file


def plain_columns(file: "pq.ParquetFile", asked: Sequence[str]) -> list[str]:
    """Return the columns to read: those that are asked for, and others that hold one plain value a row.

    What nobody asked for must not stop the reading: columns of one name, lists and bytes are left out.
    """
    import pyarrow as pa

    names = file.schema_arrow.names
    return [
        field.name
        for field in file.schema_arrow
        if names.count(field.name) == 1
        and (field.name in asked or not (pa.types.is_nested(field.type) or _is_bytes(field.type)))
    ]


def image_column(file: "pq.ParquetFile", wanted: str) -> str:
    """Return the column of images: the one that is asked for, or the one that img2dataset writes them to."""
    import pyarrow as pa

    kinds = {field.name: field.type for field in file.schema_arrow}
    written = (name for name in ("jpg", "png", "webp") if pa.types.is_binary(kinds.get(name, pa.null())))
    return wanted if wanted in kinds else next(written, wanted)


def parquet_rows(
    file: "pq.ParquetFile", names: list[str], path: Path, *, row_groups: list[int] | None = None
) -> Iterator[tuple[Any, ...]]:
    """Yield the rows (of all row groups, or of some) as tuples of Python values, a few in memory at a time.

    Raises:
        IntegrityError: the file is damaged.
    """
    import pyarrow as pa

    try:
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, row_groups=row_groups, columns=names):
            yield from zip(*(cells_of(batch.column(name)) for name in names), strict=True)
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path, error) from None


def unreadable(path: Path, error: Exception) -> IntegrityError:
    """Build the error for a Parquet file that cannot be read."""
    return IntegrityError(
        f"{'an Arrow' if path.suffix in ARROW_SUFFIXES else 'a Parquet'} file is damaged",
        where=path,
        found=str(error).splitlines()[0][:160] if str(error) else type(error).__name__,
        expected="a whole file",
        fix="fetch or write this file again",
    )


def _may_hold_paths(file: "pq.ParquetFile", column: str) -> bool:
    return column in file.schema_arrow.names and not _is_bytes(file.schema_arrow.field(column).type)


def _is_bytes(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


_UNREADABLE = (ValueError, ArithmeticError, LookupError, NotImplementedError)
"""What pyarrow raises for a value: text that is not UTF-8, dates out of range, unknown time zones."""


def cells_of(column: "pa.Array") -> list[Any]:
    """Turn a column into Python values; one that Python cannot hold spoils its own cell only."""
    try:
        values: list[Any] = column.to_pylist()
        return values
    except _UNREADABLE:
        return [_cell(value) for value in column]


def _cell(value: Any) -> Any:
    try:
        return value.as_py()
    except _UNREADABLE:
        return _BROKEN
