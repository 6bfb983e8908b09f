"""Lists and tables of images: text files with one example a line, CSV, TSV and JSON lines.

Reads: text matched by a pattern; tables with a header, or JSON objects, by column.
"""

import csv
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np

from diptych.data.captions import fields_of
from diptych.data.sources.table_rows import missing_column
from diptych.evaluate.tasks.readers.examples import Example, Unnamed, damaged, inside, need, png, text_lines


@dataclass(frozen=True, slots=True)
class ListReader(Unnamed):
    """A text file with one example a line.

    Attributes:
        file: the list; `{split}` is replaced.
        pattern: regular expression for a whole line, with a group `label`; the other groups are for `image`.
        image: the image's path, made of the groups.
        header: lines to pass over.
        but_not: another list of the same kind whose images are left out.
        kind: names this reader in a row.
    """

    file: str
    pattern: str
    image: str
    header: int = 0
    but_not: str = ""
    kind: Literal["list"] = "list"

    def present(self, root: Path, split: str) -> bool:
        """See Reader."""
        return (root / self.file.format(split=split)).is_file()

    def examples(self, root: Path, split: str) -> Iterator[Example]:
        """Yield line by line; see Reader.

        Raises:
            IntegrityError: a line does not fit the pattern.
        """
        path = root / self.file.format(split=split)
        others = root / self.but_not if self.but_not else path
        left_out = set() if others == path else {image for image, _ in self._lines(others)}
        for image, label in self._lines(path):
            if image not in left_out:
                yield Example(image, inside(root, image), (label,))

    def _lines(self, path: Path) -> Iterator[tuple[str, str]]:
        pattern = re.compile(self.pattern)
        for number, line in enumerate(text_lines(path)[self.header :], start=self.header + 1):
            match = pattern.fullmatch(line)
            if match is None:
                raise damaged(path, f"line {number}: {line[:80]!r}", "a picture and its class")
            yield self.image.format(**match.groupdict()), match["label"]


@dataclass(frozen=True, slots=True)
class TableReader(Unnamed):
    """A table with one example a row; further columns become fields.

    Attributes:
        file: the table; `.jsonl` holds JSON objects, everything else is CSV; `{split}` is replaced.
        image: the image's path, with columns in braces.
        label: the column of the class; numbers count from 0.
        pixels: a column of grey values instead of `image`, separated by spaces, of a square picture.
        delimiter: between cells.
        where: columns that must have these values; `{split}` is replaced.
        kind: names this reader in a row.
    """

    file: str
    label: str
    image: str = ""
    pixels: str = ""
    delimiter: str = ","
    where: Mapping[str, str] = field(default_factory=dict)
    kind: Literal["table"] = "table"

    def present(self, root: Path, split: str) -> bool:
        """See Reader."""
        return (root / self.file.format(split=split)).is_file()

    def examples(self, root: Path, split: str) -> Iterator[Example]:
        """Yield row by row; see Reader.

        Raises:
            IntegrityError: a row cannot be parsed.
            UnknownNameError: a column is missing.
        """
        path = need(root / self.file.format(split=split))
        wanted = {column: value.format(split=split) for column, value in self.where.items()}
        for number, row in enumerate(_rows(path, self.delimiter), start=1):
            for column in (self.label, *wanted, *((self.pixels,) if self.pixels else ())):
                if column not in row:
                    raise missing_column(column, list(row), path)
            if any(str(row[column]).strip() != value for column, value in wanted.items()):
                continue
            label = row[self.label]
            number_or_name = int(label) if str(label).strip().isdecimal() else str(label)
            kept = {name: value for name, value in row.items() if name not in (self.label, self.pixels)}
            if self.pixels:
                key, image = f"{number:08d}", _square(str(row[self.pixels]), path, number)
                yield Example(key, image, (number_or_name,), fields=fields_of(kept))
            else:
                key = self._image(row, path)
                yield Example(key, inside(root, key), (number_or_name,), fields=fields_of(kept))

    def _image(self, row: Mapping[str, Any], path: Path) -> str:
        try:
            return self.image.format(**row)
        except KeyError as error:
            raise missing_column(str(error.args[0]), list(row), path) from None


def _rows(path: Path, delimiter: str) -> Iterator[Mapping[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            yield from _objects(file, path) if path.suffix == ".jsonl" else _cells(file, path, delimiter)
        except (csv.Error, ValueError) as error:
            raise damaged(path, str(error)[:120], "a table") from None


def _objects(file: TextIO, path: Path) -> Iterator[Mapping[str, Any]]:
    for line in file:
        row = json.loads(line)
        if not isinstance(row, dict):
            raise damaged(path, type(row).__name__, "one JSON object a line")
        yield row


def _cells(file: TextIO, path: Path, delimiter: str) -> Iterator[Mapping[str, Any]]:
    reader = csv.DictReader(file, delimiter=delimiter, restkey="", strict=True)
    for row in reader:
        if None in row.values() or "" in row:
            raise damaged(path, f"line {reader.line_num}", f"{len(reader.fieldnames or ())} cells")
        yield {name.strip(): value for name, value in row.items()}


def _square(text: str, path: Path, number: int) -> bytes:
    values = text.split()
    side = math.isqrt(len(values))
    if side * side != len(values) or not side or not all(v.isdecimal() and int(v) < 256 for v in values):
        raise damaged(path, f"row {number}: {len(values)} pixels", "a square of grey values below 256")
    return png(np.array(values, dtype=np.uint8).reshape(side, side))
