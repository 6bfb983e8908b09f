"""Images with captions of which one is right: SugarCrepe, Winoground and ARO, as published.

An example's first caption is the right one. `group` says what the case is about; examples with one `pair`
follow each other, and each one's right caption is the other's wrong one.

Reads: SugarCrepe's JSON files, Winoground's examples.jsonl, ARO's JSON files, and the images beside them.
Source: Hsieh et al. 2023 (SugarCrepe); Thrush et al. 2022 (Winoground); Yuksekgonul et al. 2023 (ARO, whose
images are cut to the box of the two objects).
"""

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from diptych.core.errors import DataError
from diptych.core.files.text import read_text
from diptych.evaluate.tasks.readers.examples import Example, OneFile, Unnamed

GROUP, PAIR = "group", "pair"

Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class SugarCrepeReader(Unnamed):
    """A JSON file a category, of rows with filename, caption and negative_caption; a split is a category.

    Attributes:
        images: the folder of COCO's val2017.
        kind: names this reader in a row.
    """

    images: str = "val2017"
    kind: Literal["sugarcrepe"] = "sugarcrepe"

    def present(self, root: Path, split: str) -> bool:
        """See Reader."""
        return bool(self._files(root, split))

    def examples(self, root: Path, split: str) -> Iterator[Example]:
        """Yield category by category; see Reader.

        Raises:
            DataError: a row lacks something.
        """
        for file in self._files(root, split):
            for key, row in _rows(file, ("filename", "caption", "negative_caption")):
                captions = row["caption"], row["negative_caption"]
                image = root / self.images / row["filename"]
                yield Example(f"{file.stem}/{key}", image, captions=captions, fields={GROUP: file.stem})

    def _files(self, root: Path, split: str) -> list[Path]:
        kinds = ("add_", "replace_", "swap_")
        return [file for file in sorted(root.glob(f"{split}.json")) if file.stem.startswith(kinds)]


@dataclass(frozen=True, slots=True)
class WinogroundReader(OneFile):
    """Lines of JSON with two images and two captions of the same words.

    Attributes:
        file: the lines.
        images: the folder of the images, NAME.png each.
        kind: names this reader in a row.
    """

    file: str = "data/examples.jsonl"
    images: str = "data/images"
    kind: Literal["winoground"] = "winoground"

    def examples(self, root: Path, split: str) -> Iterator[Example]:
        """Yield both images of each line; see Reader.

        Raises:
            DataError: a row lacks something.
        """
        del split
        wanted = ("image_0", "image_1", "caption_0", "caption_1")
        for key, row in _rows(root / self.file, wanted):
            name = str(row.get("id", key))
            fields = {PAIR: name, GROUP: str(row.get("collapsed_tag", row.get("tag", "")))}
            captions = row["caption_0"], row["caption_1"]
            for number, texts in enumerate((captions, captions[::-1])):
                image = root / self.images / f"{row[f'image_{number}']}.png"
                yield Example(f"{name}/{number}", image, captions=texts, fields=fields)


@dataclass(frozen=True, slots=True)
class AroReader(OneFile):
    """One of ARO's files: Visual Genome's relations or attributes, or captions in wrong orders.

    Rows hold true_caption, false_caption and a box; or image_path and caption_options, the right one first,
    which is what ARO's order sets are once their shuffles are made.

    Attributes:
        file: the JSON file.
        images: the folder of the images.
        kind: names this reader in a row.
    """

    file: str
    images: str = "images"
    kind: Literal["aro"] = "aro"

    def examples(self, root: Path, split: str) -> Iterator[Example]:
        """Yield in the file's order; see Reader.

        Raises:
            DataError: a row lacks something.
        """
        del split
        file = root / self.file
        for key, row in _rows(file, ("image_path",)):
            image = root / self.images / row["image_path"]
            if "caption_options" in row:
                yield Example(key, image, captions=tuple(row["caption_options"]), fields={GROUP: "order"})
                continue
            _require(
                row, ("true_caption", "false_caption", "bbox_x", "bbox_y", "bbox_w", "bbox_h"), file, key
            )
            left, top = int(row["bbox_x"]), int(row["bbox_y"])
            box = left, top, left + int(row["bbox_w"]), top + int(row["bbox_h"])
            group = (
                str(row["relation_name"]) if "relation_name" in row else "_".join(row.get("attributes", ()))
            )
            captions = row["true_caption"], row["false_caption"]
            yield Example(key, _cut(image, box), captions=captions, fields={GROUP: group})


def _cut(file: Path, box: Box) -> bytes | Path:
    """Return an image cut to its box; a file that cannot be read is left to the decoder to refuse."""
    buffer = io.BytesIO()
    try:
        with Image.open(file) as image:
            image.convert("RGB").crop(box).save(buffer, "PNG", compress_level=1)
    except (OSError, Image.DecompressionBombError, SystemError, ValueError):
        return file
    return buffer.getvalue()


def _rows(file: Path, wanted: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows of a JSON file (a list, or a mapping by key) or of JSON lines, with their names."""
    text = read_text(file)
    try:
        if file.suffix == ".jsonl":
            told: Any = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            told = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError("cannot read these cases", where=file, found=str(error), expected="json") from error
    named = told.items() if isinstance(told, dict) else enumerate(told)
    for key, row in named:
        _require(row, wanted, file, key)
        yield str(key), row


def _require(row: Any, wanted: Sequence[str], file: Path, key: object) -> None:
    missing = [name for name in wanted if name not in row] if isinstance(row, dict) else list(wanted)
    if missing:
        raise DataError("a case lacks something", where=f"{file}, row {key}", expected=", ".join(missing))
