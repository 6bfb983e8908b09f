"""WebDataset as CLIP_benchmark and DataComp lay it out.

Reads: `SPLIT/0.tar`, `SPLIT/1.tar`, … with `KEY.jpg` (png, webp), `KEY.cls` (a class number), `KEY.npy` (0 or
1 for each class, in multi-label sets; metadata beside a `KEY.cls`) or `KEY.txt` (a caption a line, in
retrieval sets), further `KEY.json`; `SPLIT/nshards.txt`; `classnames.txt` and
`zeroshot_classification_templates.txt` (with `{c}` where the name goes).
"""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from diptych.core.errors import DataError
from diptych.core.files.reading import decode_text
from diptych.data.captions import captions_of, fields_of
from diptych.data.images.formats import IMAGE_SUFFIXES
from diptych.data.shards.tar import read_members
from diptych.data.sources.rows import MAX_FILE_BYTES
from diptych.evaluate.prompts.templates import PLACEHOLDER
from diptych.evaluate.tasks.readers import Example, Reader, damaged, need, reading, text_lines

MAX_BESIDE_BYTES = 2**20  # a label, captions or metadata of one image


@dataclass(frozen=True, slots=True)
class WebDatasetReader(Reader):
    """Tars with class numbers or captions beside the images."""

    kind: Literal["webdataset"] = "webdataset"
    markers: ClassVar = ("{split}/[!.]*.tar",)

    def class_names(self, root: Path, split: str) -> tuple[str, ...]:
        """Return the lines of `classnames.txt`, line c for class c, also an empty one; see Reader."""
        del split
        path = root / "classnames.txt"
        lines = text_lines(path, empty=True) if path.is_file() else []
        while lines and not lines[-1]:
            lines.pop()
        return tuple(lines)

    def templates(self, root: Path) -> tuple[str, ...]:
        """Return the prompts that lie beside the tars, if any, with `{}` where the name goes."""
        path = root / "zeroshot_classification_templates.txt"
        return tuple(line.replace("{c}", PLACEHOLDER) for line in text_lines(path)) if path.is_file() else ()

    def _examples(self, root: Path, split: str) -> Iterator[Example]:
        tars = sorted(need(root / split).glob("[!.]*.tar"), key=lambda path: (len(path.stem), path.stem))
        stated = root / split / "nshards.txt"
        if stated.is_file() and text_lines(stated) != [str(len(tars))]:
            raise damaged(root / split, f"{len(tars)} tars", f"{' '.join(text_lines(stated))} (nshards.txt)")
        for path in tars:
            for key, parts in _samples(path):
                yield _example(key, parts, path)


def _samples(path: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield the members that share a name before its first point, as WebDataset groups them."""
    with path.open("rb") as file:
        key, parts = "", dict[str, bytes]()
        for member in read_members(file, name=str(path)):
            folder, _, name = member.name.rpartition("/")
            stem, _, suffix = name.partition(".")
            suffix = f".{suffix.lower()}"
            if suffix not in IMAGE_SUFFIXES and suffix not in (".cls", ".npy", ".txt", ".json"):
                continue
            if member.size > (MAX_FILE_BYTES if suffix in IMAGE_SUFFIXES else MAX_BESIDE_BYTES):
                raise DataError("a member of a tar is too large", where=path, found=member.name)
            whole = f"{folder}/{stem}" if folder else stem
            if whole != key and parts:
                yield key, parts
                parts = {}
            key = whole
            file.seek(member.offset)
            parts[suffix] = file.read(member.size)
        if parts:
            yield key, parts


def _example(key: str, parts: dict[str, bytes], path: Path) -> Example:
    image = next((parts[suffix] for suffix in sorted(parts) if suffix in IMAGE_SUFFIXES), b"")
    numbers: list[float] = []
    with reading(path, "a class number, marks or captions", key):
        fields = fields_of(json.loads(parts[".json"])) if ".json" in parts else {}
        if ".npy" in parts:
            numbers = np.load(io.BytesIO(parts[".npy"]), allow_pickle=False).reshape(-1).tolist()
        labels = tuple(column for column, number in enumerate(numbers) if number > 0)
        if ".cls" in parts:
            labels = (int(parts[".cls"]),)
            fields |= {f"metadata_{column}": number for column, number in enumerate(numbers)}
        lines = [line for line in decode_text(parts.get(".txt", b"")).splitlines() if line.strip()]
    return Example(key, image, labels, captions=captions_of(lines) if lines else (), fields=fields)
