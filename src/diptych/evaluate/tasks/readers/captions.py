"""Images with captions: Karpathy's split, COCO, XM3600; SugarCrepe, Winoground, ARO (one is right).

In the last three an example's first caption is the right one. `group` says what the case is about; examples
with one `pair` follow each other, and each one's right caption is the other's wrong one.

Source: Karpathy and Fei-Fei 2015; Thapliyal et al. 2022 (XM3600); Hsieh et al. 2023 (SugarCrepe); Thrush et
al. 2022 (Winoground); Yuksekgonul et al. 2023 (ARO, whose images are cut to the box of the two objects).
"""

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from PIL import Image

from diptych.core.errors import DataError
from diptych.core.files.reading import read_text
from diptych.data.captions import captions_of
from diptych.evaluate.tasks.readers import Example, Reader, annotations_json, damaged, inside

GROUP, PAIR = "group", "pair"
_OBJECTS = ("true_caption", "false_caption", "bbox_x", "bbox_y", "bbox_w", "bbox_h")


@dataclass(frozen=True, slots=True)
class KarpathyReader(Reader):
    """One JSON file with images, their sentences and their split; `image` is made of filename and filepath.

    The first `captions` of an image are taken, all of them if 0; as in the other readers.
    """

    file: str
    image: str
    captions: int = 5
    kind: Literal["karpathy"] = "karpathy"
    markers: ClassVar = ("{file}",)

    def _examples(self, root: Path, split: str) -> Iterator[Example]:
        path = root / self.file
        try:
            for entry in annotations_json(path)["images"]:
                if entry["split"] == split:
                    name = self.image.format(filename=entry["filename"], filepath=entry.get("filepath", ""))
                    texts = [sentence["raw"] for sentence in entry["sentences"]]
                    yield _example(root, name, texts, self.captions)
        except (KeyError, TypeError) as error:
            raise damaged(path, f"{type(error).__name__}: {error}", "images with sentences") from None


@dataclass(frozen=True, slots=True)
class CocoReader(Reader):
    """COCO's captions: images and annotations apart, joined by number."""

    file: str = "annotations/captions_{split}.json"
    images: str = "{split}"
    captions: int = 5
    kind: Literal["coco"] = "coco"
    markers: ClassVar = ("{file}",)

    def _examples(self, root: Path, split: str) -> Iterator[Example]:
        path = root / self.file.format(split=split)
        content = annotations_json(path)
        try:
            texts: dict[Any, list[str]] = {entry["id"]: [] for entry in content["images"]}
            for annotation in sorted(content["annotations"], key=lambda entry: entry["id"]):
                texts[annotation["image_id"]].append(annotation["caption"])
            for entry in content["images"]:
                name = f"{self.images.format(split=split)}/{entry['file_name']}"
                yield _example(root, name, texts[entry["id"]], self.captions)
        except (KeyError, TypeError) as error:
            raise damaged(path, f"{type(error).__name__}: {error}", "images and annotations") from None


@dataclass(frozen=True, slots=True)
class Xm3600Reader(Reader):
    """Crossmodal-3600: a line of JSON an image, with captions in 36 languages; a split is a language."""

    file: str = "captions.jsonl"
    images: str = "images"
    captions: int = 0
    kind: Literal["xm3600"] = "xm3600"
    markers: ClassVar = ("{file}",)

    def _examples(self, root: Path, split: str) -> Iterator[Example]:
        path = root / self.file
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    entry = json.loads(line)
                    name, texts = f"{self.images}/{entry['image/key']}.jpg", entry[split]["caption"]
                except (ValueError, KeyError, TypeError) as error:
                    fault = f"line {number}: {type(error).__name__}: {error}"
                    raise damaged(path, fault, f"image/key, and captions of {split!r}") from None
                yield _example(root, name, texts, self.captions)


def _example(root: Path, name: str, texts: list[str], most: int) -> Example:
    captions = captions_of(texts)
    return Example(name, inside(root, name), captions=captions[:most] if most else captions)


@dataclass(frozen=True, slots=True)
class SugarCrepeReader(Reader):
    """A JSON file a category, of rows with filename, caption and negative_caption; a split is a category."""

    images: str = "val2017"
    kind: Literal["sugarcrepe"] = "sugarcrepe"

    def present(self, root: Path, split: str) -> bool:
        """See Reader."""
        return bool(self._files(root, split))

    def _examples(self, root: Path, split: str) -> Iterator[Example]:
        for file in self._files(root, split):
            for key, row in _rows(file, ("filename", "caption", "negative_caption")):
                captions = row["caption"], row["negative_caption"]
                image = root / self.images / row["filename"]
                yield Example(f"{file.stem}/{key}", image, captions=captions, fields={GROUP: file.stem})

    def _files(self, root: Path, split: str) -> list[Path]:
        kinds = ("add_", "replace_", "swap_")
        return [file for file in sorted(root.glob(f"{split}.json")) if file.stem.startswith(kinds)]


@dataclass(frozen=True, slots=True)
class WinogroundReader(Reader):
    """Lines of JSON with two images (NAME.png) and two captions of the same words."""

    file: str = "data/examples.jsonl"
    images: str = "data/images"
    kind: Literal["winoground"] = "winoground"
    markers: ClassVar = ("{file}",)

    def _examples(self, root: Path, split: str) -> Iterator[Example]:
        del split
        for key, row in _rows(root / self.file, ("image_0", "image_1", "caption_0", "caption_1")):
            name = str(row.get("id", key))
            fields = {PAIR: name, GROUP: str(row.get("collapsed_tag", row.get("tag", "")))}
            captions = row["caption_0"], row["caption_1"]
            for number, texts in enumerate((captions, captions[::-1])):
                image = root / self.images / f"{row[f'image_{number}']}.png"
                yield Example(f"{name}/{number}", image, captions=texts, fields=fields)


@dataclass(frozen=True, slots=True)
class AroReader(Reader):
    """One of ARO's files: Visual Genome's relations or attributes, or captions in wrong orders.

    Rows hold true_caption, false_caption and a box; or image_path and caption_options, the right one first,
    which is what ARO's order sets are once their shuffles are made.
    """

    file: str
    images: str = "images"
    kind: Literal["aro"] = "aro"
    markers: ClassVar = ("{file}",)

    def _examples(self, root: Path, split: str) -> Iterator[Example]:
        del split
        file = root / self.file
        for key, row in _rows(file, ("image_path",)):
            image = root / self.images / row["image_path"]
            if "caption_options" in row:
                yield Example(key, image, captions=tuple(row["caption_options"]), fields={GROUP: "order"})
                continue
            _require(row, _OBJECTS, file, key)
            left, top, width, height = (int(row[f"bbox_{side}"]) for side in "xywh")
            group = str(row.get("relation_name", "_".join(row.get("attributes", ()))))
            captions = row["true_caption"], row["false_caption"]
            cut = _cut(image, (left, top, left + width, top + height))
            yield Example(key, cut, captions=captions, fields={GROUP: group})


def _cut(file: Path, box: tuple[int, int, int, int]) -> bytes | Path:
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
        lines = [line for line in text.splitlines() if line.strip()]
        content: Any = list(map(json.loads, lines)) if file.suffix == ".jsonl" else json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError("cannot read these cases", where=file, found=str(error), expected="json") from error
    for key, row in content.items() if isinstance(content, dict) else enumerate(content):
        _require(row, wanted, file, key)
        yield str(key), row


def _require(row: Any, wanted: Sequence[str], file: Path, key: object) -> None:
    missing = [name for name in wanted if name not in row] if isinstance(row, dict) else list(wanted)
    if missing:
        raise DataError("a case lacks something", where=f"{file}, row {key}", expected=", ".join(missing))
