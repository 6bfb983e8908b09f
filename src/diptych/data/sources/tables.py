"""Pairs from tables: CSV, TSV and JSON, Parquet and Arrow."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, suppress
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

_BATCH_ROWS = 64  # rows of Parquet held as Python objects at a time: 64 images of the largest size are 1.3 GB
ARROW_SUFFIXES = (".arrow", ".feather")
COLUMNAR_SUFFIXES = (".parquet", *ARROW_SUFFIXES)
_BYTES = ("binary", "large_binary", "binary_view")
_BROKEN = object()  # stands for a cell whose bytes are not what its column says
# What pyarrow raises for a value: text that is not UTF-8, dates out of range, unknown time zones.
_UNREADABLE = (ValueError, ArithmeticError, LookupError, NotImplementedError)


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
        return {*self.columns.needed(self.need)} <= {*table_header(self.paths[0], self.columns)}

    def inputs(self) -> tuple[FileEntry, ...]:
        """Digest the files, and the images that the rows name; see Source."""
        root = self.paths[0].parent
        files = digest_files(self.KIND, self.paths, root=root)
        return (*files, *digest_files("images", self._images(), root=root))

    def rows(self, counts: Counts) -> Iterator[Row]:
        """Yield one row an image, in the order of first appearance."""
        groups = self._groups(counts)
        for (name, group), short in zip(groups.items(), short_names(list(groups)), strict=True):
            where = f"{self.paths[0].name} row {group.line}: {name[:80]}"
            captions = tuple(group.captions) or BadSampleError(Reason.MISSING_CAPTION)
            yield Row(where, (group.key or short,), group.path, captions, group.fields)

    def _images(self) -> Iterator[Path]:
        groups = self._groups(Counts()).values()
        return (group.path for group in groups if isinstance(group.path, Path))

    def _groups(self, counts: Counts) -> "dict[str, _Group]":
        path, groups = self.paths[0], dict[str, _Group]()
        for row in table_rows(path, self.columns, self.columns.needed(self.need)):
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
            groups[name] = _Group(path, row.line, key, fields_of(cells))
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
    fields: dict[str, Field]
    captions: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ParquetSource(TableSource):
    """Parquet or Arrow files of one layout with image bytes, Hugging Face's {bytes, path}, or image paths."""

    KIND: ClassVar[str] = "Parquet"

    def lists_images(self) -> bool:
        """Tell whether the first file has the columns that make it a list of images."""
        with ColumnarFile(self.paths[0]) as file:
            return {*file.columns(self.columns).needed(self.need)} <= {*file.names}

    def rows(self, counts: Counts) -> Iterator[Row]:
        """Yield the rows in their order."""
        number = 0
        for file, columns in self._files():
            for cells in file.rows((columns.image, columns.caption, columns.key)):
                where = f"{file.path.name} row {number}"
                try:
                    yield _row(cells, columns, file.path, number, where)
                except BadSampleError as error:
                    drop(counts, error, where)
                number += 1

    def _images(self) -> Iterator[Path]:
        for file, columns in self._files():
            holds_bytes = file.kinds.get(columns.image, _BYTES[0]) in _BYTES
            for cells in () if holds_bytes else file.rows((columns.image,), others=False):
                location = cells[columns.image]
                if isinstance(location, dict):
                    location = location.get("path") if location.get("bytes") is None else None
                with suppress(BadSampleError):
                    yield image_path(location, file.path.parent)

    def _files(self) -> "Iterator[tuple[ColumnarFile, Columns]]":
        for path in self.paths:
            with ColumnarFile(path) as file:
                columns = file.columns(self.columns)
                check_columns(file.names, columns.needed(self.need), path)
                yield file, columns


def _row(cells: dict[str, Any], columns: Columns, path: Path, number: int, where: str) -> Row:
    key = cells.pop(columns.key, cells.get("key"))  # img2dataset's name for it
    image = cells.pop(columns.image, None)
    if image is None:
        require_downloaded(cells)
    captions = attempt(lambda: captions_of(cells.pop(columns.caption, None)))
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


class ColumnarFile(AbstractContextManager["ColumnarFile"]):
    """A Parquet file, or an Arrow file or stream; few of its rows are held at a time.

    Attributes:
        names: of the columns.
        kinds: Arrow's types by name.
        metadata: what the schema carries.
        group_rows: rows of each row group; of Arrow there is none.
    """

    def __init__(self, path: Path) -> None:
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError:
            fix = "pip install 'diptych[data]'"
            raise MissingPackageError("reading Parquet needs pyarrow", where=path, fix=fix) from None
        self.path, self.group_rows = path, list[int]()
        try:
            if path.suffix in ARROW_SUFFIXES:
                self._file = pa.memory_map(str(path))
                self._schema, self._batches = _arrow_batches(self._file)
            else:
                self._file = pq.ParquetFile(path)
                self._schema, groups = self._file.schema_arrow, self._file.metadata
                self.group_rows = [groups.row_group(n).num_rows for n in range(groups.num_row_groups)]
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._damaged(error) from None
        self.names: list[str] = self._schema.names
        self.kinds = {column.name: str(column.type) for column in self._schema}
        self.metadata: dict[bytes, bytes] = self._schema.metadata or {}

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def columns(self, wanted: Columns) -> Columns:
        """Return the columns, with that of images which img2dataset writes if there is none of its name."""
        written = (name for name in ("jpg", "png", "webp") if self.kinds.get(name) == "binary")
        return wanted if wanted.image in self.names else replace(wanted, image=next(written, wanted.image))

    def rows(
        self, wanted: Sequence[str], *, others: bool = True, groups: list[int] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yield the rows, of all row groups or of some: the wanted columns, and others of one plain value.

        What nobody asked for must not stop the reading: columns of one name, lists and bytes are left out.
        """
        import pyarrow as pa

        names = [
            column.name
            for column in self._schema
            if column.name in wanted
            or (others and not column.type.num_fields and str(column.type) not in _BYTES)
        ]
        names = [name for name in names if self.names.count(name) == 1]
        try:
            for batch in self._record_batches(names, groups):
                for cells in zip(*(_values(batch.column(name)) for name in names), strict=True):
                    yield dict(zip(names, cells, strict=True))
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(error) from None

    def _record_batches(self, names: list[str], groups: list[int] | None) -> "Iterator[pa.RecordBatch]":
        if self.path.suffix not in ARROW_SUFFIXES:
            yield from self._file.iter_batches(batch_size=_BATCH_ROWS, row_groups=groups, columns=names)
            return
        for batch in self._batches:
            chosen = batch.select(names)
            chosen.validate(full=True)  # Arrow itself trusts the offsets
            for first in range(0, len(chosen), _BATCH_ROWS):
                yield chosen.slice(first, _BATCH_ROWS)

    def _damaged(self, error: Exception) -> IntegrityError:
        what = f"{'an Arrow' if self.path.suffix in ARROW_SUFFIXES else 'a Parquet'} file is damaged"
        found = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        fix = "fetch or write this file again"
        return IntegrityError(what, where=self.path, found=found, expected="a whole file", fix=fix)


def _arrow_batches(file: Any) -> "tuple[pa.Schema, Iterator[pa.RecordBatch]]":
    import pyarrow as pa

    try:
        stream = pa.ipc.open_stream(file)
        return stream.schema, iter(stream)
    except pa.ArrowInvalid:  # the random-access form begins with a mark that no stream has
        file.seek(0)
        whole = pa.ipc.open_file(file)
        return whole.schema, map(whole.get_batch, range(whole.num_record_batches))


def _values(column: "pa.Array") -> list[Any]:
    """Turn a column into Python values; one that Python cannot hold spoils its own cell only."""
    try:
        return list(column.to_pylist())
    except _UNREADABLE:
        cells = (column.slice(number, 1) for number in range(len(column)))
        return [_BROKEN] if len(column) == 1 else [value for cell in cells for value in _values(cell)]
