"""Rows of text tables: CSV with any usual delimiter, JSON lines, JSON lists and COCO captions.

Reads: files as spreadsheets, pandas and annotation tools write them, gzip included.
"""

import csv
import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from io import BufferedReader, TextIOWrapper
from pathlib import Path, PurePath
from typing import Any, NamedTuple, cast

from diptych.core.errors import (
    BadSampleError,
    DataError,
    DiptychError,
    IntegrityError,
    Reason,
    UsageError,
    unknown_name,
)
from diptych.core.files.durable import writing
from diptych.core.files.reading import UTF16
from diptych.data.captions import Columns, attempt, json_object
from diptych.data.images.formats import IMAGE_SUFFIXES

LINES_SUFFIXES = (".jsonl", ".ndjson")
TABLE_SUFFIXES = (".csv", ".tsv", *LINES_SUFFIXES)
_GZIP = b"\x1f\x8b"
_CHUNK = 1 << 20
_MAX_RATIO = 100  # images hardly get smaller; gzip can make a terabyte of zeros out of a gigabyte
_DELIMITERS = (",", "\t", ";", "|")
_MAX_LINE = 4 * 2**20  # characters; a longer line is cut, so that one line of 10 GB cannot fill the memory
_MAX_DOCUMENT_BYTES = 2**30  # COCO's captions take 0.1 GB; the document is held whole
_END = "\x1fend of the table\x1f"  # follows the last line: a quote that is still open swallows it

Cells = dict[str, Any] | BadSampleError  # values by column, or why they cannot be read


class TableRow(NamedTuple):
    """A row: its first line in the file, from 1 (in a JSON document its number), and how many it took."""

    line: int
    cells: Cells
    lines: int = 1


def table_suffix(path: Path) -> str:
    """Return a name's ending in lower case, without that of gzip.

    >>> table_suffix(Path("a/Captions.CSV.gz"))
    '.csv'
    """
    return Path(path.name.lower().removesuffix(".gz")).suffix


def table_header(path: Path, columns: Columns) -> list[str]:
    """Return the names of a table's columns; of JSON lines, the keys of the first row."""
    with _open(path) as file:
        if table_suffix(path) in LINES_SUFFIXES:
            first = next(_json_lines(file), TableRow(1, {})).cells
            return list(first) if isinstance(first, dict) else []
        return _header(_lines(file), path, columns)[0]


def table_rows(path: Path, columns: Columns, needed: Sequence[str]) -> Iterator[TableRow]:
    """Yield the rows of a table; its suffix says whether it is JSON.

    A CSV row whose quotes swallowed rows that follow it is bad, for every line that it took. The delimiter is
    the one by which most `columns` are there; the `needed` ones must be.

    Raises:
        UsageError: the table is empty or not UTF-8, lacks a column or has it twice.
        DataError: a quote is never closed.
        IntegrityError: the gzip stream is damaged.
    """
    suffix = table_suffix(path)
    with _open(path) as file:
        if suffix == ".json":
            rows = _document_rows(file, path, columns)
        elif suffix in LINES_SUFFIXES:
            rows = _json_lines(file)
        else:
            yield from _csv_rows(file, path, columns, needed)
            return
        for number, row in enumerate(rows):
            if number == 0 and isinstance(row.cells, dict):
                check_columns(list(row.cells), needed, path)
            yield row


@contextmanager
def _open(path: Path) -> Iterator[TextIOWrapper]:
    """Open a text file, unpacked; bytes that are not UTF-8 become lone surrogates, which are no text."""
    with path.open("rb") as raw, _gzip_damage(path):
        packed = raw.peek(2).startswith(_GZIP)
        data = cast(BufferedReader, gzip.GzipFile(fileobj=raw)) if packed else raw
        if data.peek(2)[:2] in UTF16:
            fix = "save it as CSV with UTF-8"
            raise UsageError("a table is not UTF-8", where=path, found="UTF-16", fix=fix)
        with TextIOWrapper(data, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            yield file


def _lines(file: TextIOWrapper) -> Iterator[str]:
    """Yield lines, each cut at a length that fits the memory."""
    while line := file.readline(_MAX_LINE):
        rest = line
        while len(rest) == _MAX_LINE and not rest.endswith("\n"):
            rest = file.readline(_MAX_LINE)
        yield line


def _header(lines: Iterator[str], path: Path, columns: Columns) -> tuple[list[str], str, int]:
    """Return the names of the columns, the delimiter, and how many lines end with the header's."""
    number, stated = 0, ""
    for line in lines:
        number += 1
        if line.strip().lower()[:-1] == "sep=":  # how spreadsheets state their delimiter
            stated = line.strip()[-1]
        elif line.strip():
            break
    else:
        raise UsageError("a table is empty", where=path, expected="a header line and rows")
    tried = stated or (_DELIMITERS if table_suffix(path) != ".tsv" else ("\t", *_DELIMITERS))
    wanted = {columns.image, columns.caption, columns.key}
    split = {delimiter: next(csv.reader([line], delimiter=delimiter)) for delimiter in tried}
    best = max(split, key=lambda one: (len(wanted.intersection(split[one])), len(split[one])))
    return split[best], best, number


def check_columns(names: Sequence[str], needed: Sequence[str], path: Path) -> None:
    """Refuse a table that lacks a column or has it twice; the error names the nearest one."""
    for wanted in needed:
        if wanted not in names:
            raise missing_column(wanted, names, path)
        if names.count(wanted) > 1:
            what = "two columns of a table have one name"
            raise UsageError(what, where=path, found=wanted[:40], fix="rename one of them")


def missing_column(wanted: str, columns: Sequence[str], path: Path) -> DiptychError:
    """Build the error for a column that a table lacks: what it has, and the nearest name."""
    error = unknown_name("column", wanted, [name[:40] for name in columns], where=path)
    error.fix = error.fix or "say which it is: --columns image=NAME,caption=NAME (data.image, data.caption)"
    return error


def _csv_rows(file: TextIOWrapper, path: Path, columns: Columns, needed: Sequence[str]) -> Iterator[TableRow]:
    lines = _lines(file)
    names, delimiter, number = _header(lines, path, columns)
    check_columns(names, needed, path)
    times = [names[:column].count(name) for column, name in enumerate(names)]
    header = [f"{name}.{time}" if time else name for name, time in zip(names, times, strict=True)]
    image_at = header.index(columns.image) if columns.image in header else 0
    current: list[str] = []  # the lines of the row that is being read

    def remembered() -> Iterator[str]:
        for line in lines:
            current.append(line)
            yield line
        yield _END

    reader = csv.reader(remembered(), delimiter=delimiter)
    while True:
        number += len(current)
        current.clear()
        try:
            row = next(reader)
        except csv.Error as error:
            # The csv module's limit of 131,072 characters a cell is left alone: the process shares it.
            long = "field larger" in str(error) and len(current) == 1
            fault = BadSampleError(Reason.CAPTION_TOO_LONG if long else Reason.BAD_ROW, found=str(error))
            yield TableRow(number + 1, fault, len(current))
            continue
        if row == [_END]:
            return
        if row and row[-1].endswith(_END):
            where, found = f"{path} line {number + 1}", f"{len(current)} lines up to the end of the file"
            expected = "a closing quote, or no opening one at the start of a cell"
            fix = "double each quote inside a cell and enclose the cell in quotes, or remove it"
            what = "a quote in a table is never closed"
            raise DataError(what, where=where, found=found, expected=expected, fix=fix)
        if row:
            yield TableRow(number + 1, _cells(row, header, delimiter, image_at), len(current))


def _cells(row: list[str], header: list[str], delimiter: str, image_at: int) -> Cells:
    if len(row) != len(header):
        return BadSampleError(Reason.BAD_ROW, found=f"{len(row)} cells for {len(header)} columns")
    if any(_swallows(row, column, delimiter, image_at) for column in range(len(row))):
        return BadSampleError(Reason.BAD_ROW, found="a cell that holds rows: a quote is not closed")
    return dict(zip(header, row, strict=True))


def _swallows(row: list[str], column: int, delimiter: str, image_at: int) -> bool:
    """Tell whether a cell with line breaks holds the end of its row and the beginning of another.

    Its first line is then this row from the cell on, its last line the other row up to the cell, and the one
    of the two that has the image's column names an image. Captions with delimiters and line breaks do not.
    """
    lines = row[column].replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if len(lines) == 1:
        return False
    after = image_at > column
    part = lines[0 if after else -1].split(delimiter)
    if len(part) != (len(row) - column if after else column + 1):
        return False
    suffix = PurePath(part[image_at - column if after else image_at]).suffix.lower()
    return suffix in {*IMAGE_SUFFIXES, PurePath(row[image_at]).suffix.lower()}


def _json_lines(file: TextIOWrapper) -> Iterator[TableRow]:
    for number, line in enumerate(_lines(file), start=1):
        if line.strip():
            yield TableRow(number, attempt(partial(json_object, line)))


def _document_rows(file: TextIOWrapper, path: Path, columns: Columns) -> Iterator[TableRow]:
    """Yield the objects of a JSON list, or the images of a document in COCO's form with their captions."""
    text = file.read(_MAX_DOCUMENT_BYTES)
    try:
        document = json.loads(text)
        rows = document if isinstance(document, list) else list(_coco_rows(document, path, columns))
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        found = f"{type(error).__name__}: {str(error)[:80]}"
        expected = "a list of objects, or COCO captions: images and annotations"
        raise UsageError("this JSON holds no table", where=path, found=found, expected=expected) from None
    for number, row in enumerate(rows, start=1):
        fault = BadSampleError(Reason.BAD_ROW, found=f"a row of type {type(row).__name__}")
        yield TableRow(number, row if isinstance(row, dict) else fault)


def _coco_rows(document: dict[str, Any], path: Path, columns: Columns) -> Iterator[dict[str, Any]]:
    captions: dict[Any, list[Any]] = {}
    for note in document["annotations"]:
        captions.setdefault(note["image_id"], []).append(note.get("caption"))
    images = document["images"]
    root = _image_root(path, str(images[0]["file_name"])) if images else path.parent
    for image in images:
        yield {columns.image: str(root / image["file_name"]), columns.caption: captions.get(image["id"])}


def _image_root(path: Path, name: str) -> Path:
    folder = path.absolute().parent
    near = (folder, *sorted(folder.glob("*/")), *sorted(folder.parent.glob("*/")))
    return next((root for root in near if (root / name).is_file()), folder)


@contextmanager
def _gzip_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        fix = "fetch or write it again"
        raise IntegrityError("a compressed file is damaged", where=path, found=str(error), fix=fix) from None


def unpack(path: Path, target: Path) -> Path:
    """Write the plain content of a gzip file, at most a hundred times its size, and return the target."""
    allowed = _MAX_RATIO * path.stat().st_size + _CHUNK
    with _gzip_damage(path), gzip.open(path) as packed, writing(target) as plain:
        while chunk := packed.read(_CHUNK):
            allowed -= len(chunk)
            if allowed < 0:
                what = "refused: a compressed tar unpacks to far more than its size"
                expected = f"at most {_MAX_RATIO} times its size"
                raise DataError(what, where=path, expected=expected, fix="unpack it yourself if you trust it")
            plain.write(chunk)
    return target
