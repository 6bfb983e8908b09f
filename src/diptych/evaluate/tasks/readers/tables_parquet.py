"""Parquet as Hugging Face publishes data sets: images as structs {bytes, path}, and labels.

Reads: `SPLIT-*.parquet` or `SPLIT.parquet` at any depth, else the files of folders called `SPLIT`; the names
of the classes from what the `datasets` library writes into the schema.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from diptych.core.errors import BadSampleError, unknown_name
from diptych.core.files.listing import is_data
from diptych.data.captions import captions_of, fields_of
from diptych.data.sources.rows import image_path
from diptych.data.sources.table_rows import check_columns
from diptych.data.sources.tables import open_parquet, parquet_rows, plain_columns
from diptych.evaluate.tasks.readers.examples import Example, Label, damaged

IMAGES = ("image", "img", "jpg", "png", "webp")
LABELS = ("label", "labels", "fine_label", "cls", "class", "target", "classes")
CAPTIONS = ("caption", "captions", "sentences", "raw", "txt", "text")
"""Columns by whichever of these names comes first, where a row does not say which."""


@dataclass(frozen=True, slots=True)
class ParquetReader:
    """Parquet files with images.

    Attributes:
        image: the column of the images; empty takes a usual name.
        label: the column of the class, a number, a name or a list of them; empty takes a usual name.
        caption: the column of the texts; empty takes a usual name.
        kind: names this reader in a row.
    """

    image: str = ""
    label: str = ""
    caption: str = ""
    kind: Literal["parquet"] = "parquet"

    def present(self, root: Path, split: str) -> bool:
        """See Reader."""
        return bool(_files(root, split))

    def class_names(self, root: Path, split: str) -> tuple[str, ...]:
        """Return the names in the schema's features; see Reader."""
        with open_parquet(_files(root, split)[0]) as file:
            column = _column(self.label, LABELS, file.schema_arrow.names)
            told = (file.schema_arrow.metadata or {}).get(b"huggingface", b"{}")
        try:
            feature = json.loads(told)["info"]["features"][column]
        except (ValueError, KeyError, TypeError):
            return ()
        while isinstance(feature, dict) and "names" not in feature:  # a list of labels holds the label
            feature = feature.get("feature")
        names = feature[0] if isinstance(feature, list) else feature
        return tuple(map(str, names["names"])) if isinstance(names, dict) and names.get("names") else ()

    def examples(self, root: Path, split: str) -> Iterator[Example]:
        """Yield file by file, row by row; see Reader.

        Raises:
            UnknownNameError: no column of images.
            IntegrityError: a file is damaged, or a cell holds no label.
        """
        number = 0
        for path in _files(root, split):
            with open_parquet(path) as file:
                names = list(file.schema_arrow.names)
                image = _column(self.image, IMAGES, names)
                if not image:
                    raise unknown_name("column of pictures", self.image or IMAGES[0], names, where=path)
                label = _column(self.label, LABELS, names)
                caption = _column(self.caption, CAPTIONS, names)
                check_columns(names, [name for name in (image, label, caption) if name], path)
                names = plain_columns(file, (image, label, caption))
                for cells in parquet_rows(file, names, path):
                    row = dict(zip(names, cells, strict=True))
                    labels = _labels(row.pop(label, None), f"{path} row {number}")
                    captions = _captions(row.pop(caption, None))
                    picture = _picture(row.pop(image), path.parent)
                    yield Example(f"{number:08d}", picture, labels, (), captions, fields_of(row))
                    number += 1


def _files(root: Path, split: str) -> list[Path]:
    found = sorted(path for path in root.rglob("*.parquet") if is_data(path.name))
    named = [path for path in found if path.stem == split or path.name.startswith(f"{split}-")]
    return named or [path for path in found if path.parent != root and path.parent.name == split]


def _column(wanted: str, usual: Sequence[str], names: Sequence[str]) -> str:
    return wanted if wanted in names else next((name for name in usual if name in names), "")


def _labels(value: Any, where: str) -> tuple[Label, ...]:
    values = value if isinstance(value, list) else [] if value is None else [value]
    if any(isinstance(item, bool) or not isinstance(item, int | str) for item in values):
        raise damaged(Path(where), f"a label of type {type(value).__name__}", "numbers or names")
    return tuple(values)


def _captions(value: Any) -> tuple[str, ...]:
    texts = (
        [item.get("raw") if isinstance(item, dict) else item for item in value or ()]
        if (isinstance(value, list))
        else value
    )
    try:
        return captions_of(texts) if texts else ()
    except BadSampleError:
        return ()


def _picture(value: Any, folder: Path) -> bytes | Path:
    """Return the bytes or the path of a cell; no bytes where it is empty, which counts as wrong later."""
    if isinstance(value, dict):
        value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
    if isinstance(value, bytes):
        return value
    try:
        return image_path(value, folder)
    except BadSampleError:
        return b""
