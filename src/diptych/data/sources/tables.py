"""Pairs from tables: CSV, TSV and JSON, Parquet and Arrow."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from diptych.core.errors import BadSampleError, DataError, IntegrityError, MissingPackageError, Reason
from diptych.core.manifest import FileEntry
from diptych.core.records import Counts, Field, Need
from diptych.data.captions import Columns, attempt, captions_of, fields_of, plain
from diptych.data.sources.rows import (
    Row,
    RowSource,
    digest_files,
    drop,
    image_path,
    require_downloaded,
    short_names,
)
from diptych.data.sources.table_rows import TableRow, check_columns, table_header, table_rows

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_BATCH_ROWS = 64  # rows of Parquet held as Python objects at a time: 64 images of the largest size are 1.3 GB
ARROW_SUFFIXES = (".arrow", ".feather")
COLUMNAR_SUFFIXES = (".parquet", *ARROW_SUFFIXES)
_BYTES = ("binary", "large_binary", "binary_view")
_BROKEN = object()  # stands for a cell whose bytes are not what its column says


@dataclass(frozen=True, slots=True)
class TableSource(RowSource):
    """A text table (see `table_rows`) of image paths, relative to its folder; one pair an image."""

    KIND: ClassVar[str] = "table"

    name: str
    paths: tuple[Path, ...]
    columns: Columns
    need: Need = Need.PAIR

    def lists_images(self) -> bool:
        """Tell whether the first file has the columns that make it a list of images."""
        return {*needed_columns(self.columns, self.need)} <= {*table_header(self.paths[0], self.columns)}

    def inputs(self) -> tuple[FileEntry, ...]:
        """Digest the files, and the images that the rows name; see Source."""
        root = self.paths[0].parent
        files = digest_files(self.KIND, self.paths, root=root)
        return (*files, *digest_files("images", self._images(), root=root))

    def rows(self, counts: Counts) -> Iterator[Row]:
        """Yield one row an image, in the order of first appearance."""
        groups = self._groups(counts)
        for name, short in zip(groups, short_names(list(groups)), strict=True):
            group = groups[name]
            where = f"{self.paths[0].name} row {group.line}: {name[:80]}"
            captions = tuple(group.captions) or BadSampleError(Reason.MISSING_CAPTION)
            yield Row(where, (group.key or short,), group.path, captions, group.fields)

    def _images(self) -> Iterator[Path]:
        groups = self._groups(Counts()).values()
        return (group.path for group in groups if isinstance(group.path, Path))

    def _groups(self, counts: Counts) -> "dict[str, _Group]":
        """Read all rows; the images are read later, one at a time."""
        path, groups = self.paths[0], dict[str, _Group]()
        for row in table_rows(path, self.columns, tuple(needed_columns(self.columns, self.need))):
            try:
                self._add(groups, row)
            except BadSampleError as error:
                for _ in range(row.lines if row.cells is error else 1):
                    drop(counts, error, f"{path.name} row {row.line}")
        return groups

    def _add(self, groups: "dict[str, _Group]", row: TableRow) -> None:
        if isinstance(row.cells, BadSampleError):
            raise row.cells
        cells = row.cells
        name = cells.pop(self.columns.image, None)
        path = attempt(lambda: image_path(name, self.paths[0].parent))
        captions = attempt(lambda: captions_of(cells.pop(self.columns.caption, None)))
        for needed, value in ((Need.IMAGE, path), (Need.CAPTION, captions)):
            if needed in self.need and isinstance(value, BadSampleError):
                raise value
        name = str(name or f"row {row.line}")  # so that rows without an image are not taken for one
        if name not in groups:
            key = plain(str(cells.pop(self.columns.key, "")))
            groups[name] = _Group(path, row.line, key, [], fields_of(cells))
        group, fields = groups[name], fields_of(cells)
        for column in self.columns.one_value:
            first, other = group.fields.get(column), fields.get(column)
            if first != other:
                raise DataError(
                    "an image has two values in a column that may have one",
                    where=f"{self.paths[0]}, column {column!r}, rows {group.line} and {row.line}",
                    found=f"{str(first)[:80]!r} and {str(other)[:80]!r}",
                    expected="one label an image, in each of its rows",
                    fix="remove one of the rows, or list the image under another path",
                )
        if isinstance(captions, tuple):
            group.captions += captions


@dataclass(slots=True)
class _Group:
    """The rows of a table that share an image; without a path, why there is none."""

    path: Path | BadSampleError
    line: int
    key: str
    captions: list[str] = field(default_factory=list)
    fields: dict[str, Field] = field(default_factory=dict)


def needed_columns(columns: Columns, need: Need) -> Iterator[str]:
    """Name the columns that a table must have: those that are needed, and those that were named."""
    if need != Need.CAPTION or columns.image != Columns().image:
        yield columns.image
    if Need.CAPTION in need or columns.caption != Columns().caption:
        yield columns.caption


@dataclass(frozen=True, slots=True)
class ParquetSource(TableSource):
    """Parquet or Arrow files of one layout with image bytes, Hugging Face's {bytes, path}, or image paths."""

    KIND: ClassVar[str] = "Parquet"

    def lists_images(self) -> bool:
        """Tell whether the first file has the columns that make it a list of images."""
        with open_parquet(self.paths[0]) as file:
            columns = replace(self.columns, image=image_column(file, self.columns.image))
            return {*needed_columns(columns, self.need)} <= {*file.schema_arrow.names}

    def rows(self, counts: Counts) -> Iterator[Row]:
        """Yield the rows in their order."""
        for number, (path, cells) in enumerate(self._cells()):
            where = f"{path.name} row {number}"
            try:
                yield self._row(cells, path, number, where)
            except BadSampleError as error:
                drop(counts, error, where)

    def _images(self) -> Iterator[Path]:
        for path, cells in self._cells(only_paths=True):
            location = cells[self.columns.image]
            if isinstance(location, dict):
                location = location.get("path") if location.get("bytes") is None else None
            if isinstance(location, str):
                with suppress(BadSampleError):
                    yield image_path(location, path.parent)

    def _cells(self, *, only_paths: bool = False) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Yield the rows as values by column; `only_paths`: their images, of files that may hold paths."""
        columns = self.columns
        for path in self.paths:
            with open_parquet(path) as file:
                image = image_column(file, columns.image)
                needed = tuple(needed_columns(replace(columns, image=image), self.need))
                schema = file.schema_arrow
                check_columns(schema.names, needed, path)
                if only_paths and (image not in schema.names or str(schema.field(image).type) in _BYTES):
                    continue  # holds no paths
                wanted = (*needed, columns.caption, columns.key)
                names = [image] if only_paths else plain_columns(file, wanted)
                keys = [columns.image if name == image else name for name in names]
                for cells in parquet_rows(file, names, path):
                    yield path, dict(zip(keys, cells, strict=True))

    def _row(self, cells: dict[str, Any], path: Path, number: int, where: str) -> Row:
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
        row = f"{number:08d}"  # sorts as numbers up to 100 million rows
        keys = [plain(stem) or row, row, f"{row}-{plain(stem)}"]  # another stem may be this row's number
        if isinstance(key, str | int) and str(key):
            keys = [plain(str(key))]
        return Row(where, tuple(keys), image, captions, fields_of(cells), str(path))


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
        for batch in self._batches:
            chosen = batch.select(columns)
            chosen.validate(full=True)  # Arrow itself trusts the offsets
            for first in range(0, len(chosen), batch_size):
                yield chosen.slice(first, batch_size)


def open_parquet(path: Path, needed: Sequence[str] = ()) -> "pq.ParquetFile":
    """Open a Parquet or Arrow file, which must have the columns that are needed."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        fix = "pip install 'diptych[data]'"
        raise MissingPackageError("reading Parquet needs pyarrow", where=path, fix=fix) from None
    try:
        file = _ArrowFile(path) if path.suffix in ARROW_SUFFIXES else pq.ParquetFile(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    check_columns(file.schema_arrow.names, needed, path)
    return file


def plain_columns(file: "pq.ParquetFile", wanted: Sequence[str]) -> list[str]:
    """Return the columns to read: those that are wanted, and others that hold one plain value a row.

    What nobody asked for must not stop the reading: columns of one name, lists and bytes are left out.
    """
    names = file.schema_arrow.names
    return [
        column.name
        for column in file.schema_arrow
        if names.count(column.name) == 1
        and (column.name in wanted or not (column.type.num_fields or str(column.type) in _BYTES))
    ]


def image_column(file: "pq.ParquetFile", wanted: str) -> str:
    """Return the column of images: the one that is wanted, or the one that img2dataset writes them to."""
    kinds = {column.name: str(column.type) for column in file.schema_arrow}
    written = (name for name in ("jpg", "png", "webp") if kinds.get(name) == "binary")
    return wanted if wanted in kinds else next(written, wanted)


def parquet_rows(
    file: "pq.ParquetFile", names: list[str], path: Path, *, row_groups: list[int] | None = None
) -> Iterator[tuple[Any, ...]]:
    """Yield the rows, of all row groups or of some, as tuples of Python values; few are held at a time."""
    import pyarrow as pa

    try:
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, row_groups=row_groups, columns=names):
            yield from zip(*(_values(batch.column(name)) for name in names), strict=True)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> IntegrityError:
    what = f"{'an Arrow' if path.suffix in ARROW_SUFFIXES else 'a Parquet'} file is damaged"
    found = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
    fix = "fetch or write this file again"
    return IntegrityError(what, where=path, found=found, expected="a whole file", fix=fix)


# What pyarrow raises for a value: text that is not UTF-8, dates out of range, unknown time zones.
_UNREADABLE = (ValueError, ArithmeticError, LookupError, NotImplementedError)


def _values(column: "pa.Array") -> list[Any]:
    """Turn a column into Python values; one that Python cannot hold spoils its own cell only."""
    try:
        return list(column.to_pylist())
    except _UNREADABLE:
        cells = (column.slice(number, 1) for number in range(len(column)))
        return [_BROKEN] if len(column) == 1 else [value for cell in cells for value in _values(cell)]
