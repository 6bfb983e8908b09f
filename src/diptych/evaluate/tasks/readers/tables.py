"""Forms that many data sets share: a folder a class, lists, tables, and Parquet as Hugging Face publishes it.

Reads: images in folders; text matched by a pattern; CSV and JSON lines by column; `SPLIT-*.parquet` or
`SPLIT.parquet` at any depth, else the files of folders called `SPLIT`.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from diptych.core.errors import BadSampleError, DataError, unknown_name
from diptych.core.files.reading import is_data
from diptych.data.captions import captions_of, fields_of
from diptych.data.images.formats import IMAGE_SUFFIXES
from diptych.data.sources.rows import image_path
from diptych.data.sources.table_rows import check_columns, missing_column
from diptych.data.sources.tables import ColumnarFile
from diptych.evaluate.tasks.readers import (
    VIDEO_SUFFIXES,
    Example,
    Label,
    Reader,
    damaged,
    inside,
    need,
    png,
    rows_of,
    text_lines,
)

# Columns of Parquet by whichever of these names comes first, where a row does not say which.
IMAGES = ("image", "img", "jpg", "png", "webp")
LABELS = ("label", "labels", "fine_label", "cls", "class", "target", "classes")
CAPTIONS = ("caption", "captions", "sentences", "raw", "txt", "text")


@dataclass(frozen=True, slots=True)
class FolderReader(Reader):
    """Folders of images or videos, one folder a class, in `path`."""

    path: str = "{split}"
    # Where the authors publish no split, so many of each class are for training, drawn by the digest of their
    # names: the same ones everywhere.
    train_per_class: int = 0
    test_per_class: int = 0  # so many of the others are for testing; 0: all of them
    classes: int = (
        0  # how many folders there must be: parts of a set are easier than the whole; 0: any number
    )
    kind: Literal["folder"] = "folder"

    def present(self, root: Path, split: str) -> bool:
        """See Reader."""
        folder = root / self.path.format(split=split)
        return folder.is_dir() and bool(_folders(folder))

    def _examples(self, root: Path, split: str) -> Iterator[Example]:
        folder = need(root / self.path.format(split=split))
        classes = _folders(folder)
        if self.classes and len(classes) != self.classes:
            what, found = "a data set is not whole", f"{len(classes)} folders of classes"
            fix = "unpack the whole data set: with fewer classes the task would be easier"
            raise DataError(what, where=folder, found=found, expected=f"{self.classes}", fix=fix)
        for of_class in classes:
            paths = sorted(
                Path(parent, name)
                for parent, _, names in os.walk(of_class)
                for name in names
                if Path(name).suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES and is_data(name)
            )
            keys = {path.relative_to(folder).as_posix(): path for path in paths}
            for key in self._of_split(list(keys), split):
                yield Example(key, keys[key], (of_class.name,))

    def _of_split(self, keys: list[str], split: str) -> list[str]:
        if not self.train_per_class:
            return keys
        drawn = sorted(keys, key=lambda key: hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest())
        first, last = self.train_per_class, self.train_per_class + self.test_per_class
        of_test = drawn[first : last if self.test_per_class else None]
        chosen = set(of_test if split == "test" else drawn[:first])
        return [key for key in keys if key in chosen]


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and is_data(path.name))


@dataclass(frozen=True, slots=True)
class ListReader(Reader):
    """A text file with one example a line."""

    file: str
    pattern: (
        str  # regular expression for a whole line, with a group `label`; the other groups are for `image`
    )
    image: str  # the image's path, made of the groups
    header: int = 0  # lines to pass over
    but_not: str = ""  # another list of the same kind whose images are left out
    kind: Literal["list"] = "list"
    markers: ClassVar = ("{file}",)

    def _examples(self, root: Path, split: str) -> Iterator[Example]:
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
                raise damaged(path, f"line {number}: {line[:80]!r}", "an image and its class")
            yield self.image.format(**match.groupdict()), match["label"]


@dataclass(frozen=True, slots=True)
class TableReader(Reader):
    """A table (JSON objects in `.jsonl`, else CSV) with one example a row; further columns become fields."""

    file: str
    label: str  # the column of the class; numbers count from 0
    image: str = ""  # the image's path, with columns in braces
    pixels: str = ""  # a column of gray values instead, separated by spaces, of a square image
    where: Mapping[str, str] = field(
        default_factory=dict
    )  # columns that must have these values; `{split}` too
    kind: Literal["table"] = "table"
    markers: ClassVar = ("{file}",)

    def _examples(self, root: Path, split: str) -> Iterator[Example]:
        path = root / self.file.format(split=split)
        wanted = {column: value.format(split=split) for column, value in self.where.items()}
        needed = (self.label, *wanted, *((self.pixels,) if self.pixels else ()))
        for number, (_, row) in enumerate(rows_of(path, self.label), start=1):
            for column in needed:
                if column not in row:
                    raise missing_column(column, list(row), path)
            if any(str(row[column]).strip() != value for column, value in wanted.items()):
                continue
            label = row[self.label]
            number_or_name = int(label) if str(label).strip().isdecimal() else str(label)
            key = f"{number:08d}" if self.pixels else self._image(row, path)
            image = _square(str(row[self.pixels]), path, number) if self.pixels else inside(root, key)
            kept = {name: value for name, value in row.items() if name not in (self.label, self.pixels)}
            yield Example(key, image, (number_or_name,), fields=fields_of(kept))

    def _image(self, row: Mapping[str, Any], path: Path) -> str:
        try:
            return self.image.format(**row)
        except KeyError as error:
            raise missing_column(str(error.args[0]), list(row), path) from None


def _square(text: str, path: Path, number: int) -> bytes:
    values = text.split()
    side = math.isqrt(len(values))
    if side * side != len(values) or not side or not all(v.isdecimal() and int(v) < 256 for v in values):
        raise damaged(path, f"row {number}: {len(values)} pixels", "a square of gray values below 256")
    return png(np.array(values, dtype=np.uint8).reshape(side, side))


@dataclass(frozen=True, slots=True)
class ParquetReader(Reader):
    """Parquet with images as structs {bytes, path}, in columns of a usual name."""

    label: str = ""
    kind: Literal["parquet"] = "parquet"

    def present(self, root: Path, split: str) -> bool:
        """See Reader."""
        return bool(_parquet_files(root, split))

    def class_names(self, root: Path, split: str) -> tuple[str, ...]:
        """Return the names that the `datasets` library writes into the schema; see Reader."""
        with ColumnarFile(_parquet_files(root, split)[0]) as file:
            column = _column(self.label, LABELS, file.names)
            metadata = file.metadata.get(b"huggingface", b"{}")
        try:
            feature = json.loads(metadata)["info"]["features"][column]
        except (ValueError, KeyError, TypeError):
            return ()
        while isinstance(feature, dict) and "names" not in feature:  # a list of labels holds the label
            feature = feature.get("feature")
        names = feature[0] if isinstance(feature, list) else feature
        return tuple(map(str, names["names"])) if isinstance(names, dict) and names.get("names") else ()

    def _examples(self, root: Path, split: str) -> Iterator[Example]:
        number = 0
        for path in _parquet_files(root, split):
            with ColumnarFile(path) as file:
                names = file.names
                image, caption = _column("", IMAGES, names), _column("", CAPTIONS, names)
                if not image:
                    raise unknown_name("column of images", IMAGES[0], names, where=path)
                label = _column(self.label, LABELS, names)
                check_columns(names, [name for name in (image, label, caption) if name], path)
                for row in file.rows((image, label, caption)):
                    labels = _labels(row.pop(label, None), f"{path} row {number}")
                    captions = _captions(row.pop(caption, None))
                    content = _image(row.pop(image), path.parent)
                    yield Example(f"{number:08d}", content, labels, (), captions, fields_of(row))
                    number += 1


def _parquet_files(root: Path, split: str) -> list[Path]:
    paths = sorted(path for path in root.rglob("*.parquet") if is_data(path.name))
    named = [path for path in paths if path.stem == split or path.name.startswith(f"{split}-")]
    return named or [path for path in paths if path.parent != root and path.parent.name == split]


def _column(wanted: str, usual: Sequence[str], names: Sequence[str]) -> str:
    return wanted if wanted in names else next((name for name in usual if name in names), "")


def _labels(value: Any, where: str) -> tuple[Label, ...]:
    values = value if isinstance(value, list) else [] if value is None else [value]
    if any(isinstance(item, bool) or not isinstance(item, int | str) for item in values):
        raise damaged(Path(where), f"a label of type {type(value).__name__}", "numbers or names")
    return tuple(values)


def _captions(value: Any) -> tuple[str, ...]:
    if isinstance(value, list):
        value = [item.get("raw") if isinstance(item, dict) else item for item in value]
    try:
        return captions_of(value) if value else ()
    except BadSampleError:
        return ()


def _image(value: Any, folder: Path) -> bytes | Path:
    """Return the bytes or the path of a cell; no bytes where it is empty, which counts as wrong later."""
    if isinstance(value, dict):
        value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
    if isinstance(value, bytes):
        return value
    try:
        return image_path(value, folder)
    except BadSampleError:
        return b""


ListingReader = FolderReader | ListReader | TableReader | ParquetReader
