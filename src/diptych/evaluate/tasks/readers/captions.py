"""Images with captions: Karpathy's split, COCO, XM3600; SugarCrepe, Winoground, ARO (one is right).

In the last three an example's first caption is the right one. `group` says what the case is about; examples
with one `pair` follow each other, and each one's right caption is the other's wrong one.

Source: Karpathy and Fei-Fei 2015; Thapliyal et al. 2022 (XM3600); Hsieh et al. 2023 (SugarCrepe); Thrush et
al. 2022 (Winoground); Yuksekgonul et al. 2023 (ARO, whose images are cut to the box of the two objects).
"""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from PIL import Image

from diptych.core.files.reading import read_text
from diptych.data.captions import captions_of
from diptych.evaluate.tasks.readers import Example, Reader, annotations_json, inside, reading, rows_of

GROUP, PAIR = "group", "pair"
CAPTIONS = 5  # of an image that are taken, the first ones: most have five, as in the published splits


@dataclass(frozen=True, slots=True)
class KarpathyReader(Reader):
    """A JSON file with images, their sentences and their split; `image` is made of filename and filepath."""

    file: str
    image: str
    kind: Literal["karpathy"] = "karpathy"
    markers: ClassVar = ("{file}",)

    def _examples(self, root: Path, split: str) -> Iterator[Example]:
        path = root / self.file
        with reading(path, "images with sentences"):
            for entry in annotations_json(path)["images"]:
                if entry["split"] == split:
                    name = self.image.format(filename=entry["filename"], filepath=entry.get("filepath", ""))
                    captions = captions_of([sentence["raw"] for sentence in entry["sentences"]])
                    yield Example(name, inside(root, name), captions=captions[:CAPTIONS])


@dataclass(frozen=True, slots=True)
class CocoReader(Reader):
    """COCO's captions: images and annotations apart, joined by number."""

    kind: Literal["coco"] = "coco"
    markers: ClassVar = ("annotations/captions_{split}.json",)

    def _examples(self, root: Path, split: str) -> Iterator[Example]:
        path = root / "annotations" / f"captions_{split}.json"
        content = annotations_json(path)
        with reading(path, "images and annotations"):
            texts: dict[Any, list[str]] = {entry["id"]: [] for entry in content["images"]}
            for annotation in sorted(content["annotations"], key=lambda entry: entry["id"]):
                texts[annotation["image_id"]].append(annotation["caption"])
            for entry in content["images"]:
                name, captions = f"{split}/{entry['file_name']}", captions_of(texts[entry["id"]])
                yield Example(name, inside(root, name), captions=captions[:CAPTIONS])


@dataclass(frozen=True, slots=True)
class Xm3600Reader(Reader):
    """Crossmodal-3600: a line of JSON an image, with captions in 36 languages; a split is a language."""

    kind: Literal["xm3600"] = "xm3600"
    markers: ClassVar = ("captions.jsonl",)

    def _examples(self, root: Path, split: str) -> Iterator[Example]:
        path = root / "captions.jsonl"
        for line, entry in rows_of(path):
            with reading(path, f"image/key, and captions of {split!r}", line):
                name, captions = f"images/{entry['image/key']}.jpg", captions_of(entry[split]["caption"])
                yield Example(name, inside(root, name), captions=captions)


@dataclass(frozen=True, slots=True)
class SugarCrepeReader(Reader):
    """A JSON file a category, of rows with filename, caption and negative_caption; a split is a category."""

    kind: Literal["sugarcrepe"] = "sugarcrepe"

    def present(self, root: Path, split: str) -> bool:
        """See Reader."""
        return bool(self._files(root, split))

    def _examples(self, root: Path, split: str) -> Iterator[Example]:
        for file in self._files(root, split):
            for key, row in annotations_json(file).items():
                with reading(file, "filename, caption and negative_caption", f"row {key}"):
                    captions = row["caption"], row["negative_caption"]
                    image, fields = root / "val2017" / row["filename"], {GROUP: file.stem}
                    yield Example(f"{file.stem}/{key}", image, captions=captions, fields=fields)

    def _files(self, root: Path, split: str) -> list[Path]:
        kinds = ("add_", "replace_", "swap_")
        return [file for file in sorted(root.glob(f"{split}.json")) if file.stem.startswith(kinds)]


@dataclass(frozen=True, slots=True)
class WinogroundReader(Reader):
    """Lines of JSON with two images (NAME.png) and two captions of the same words."""

    kind: Literal["winoground"] = "winoground"
    markers: ClassVar = ("data/examples.jsonl",)

    def _examples(self, root: Path, split: str) -> Iterator[Example]:
        del split
        file = root / "data" / "examples.jsonl"
        for line, row in rows_of(file):
            with reading(file, "image_0, image_1, caption_0 and caption_1", line):
                name = str(row.get("id", line))
                fields = {PAIR: name, GROUP: str(row.get("collapsed_tag", row.get("tag", "")))}
                captions = row["caption_0"], row["caption_1"]
                for number, texts in enumerate((captions, captions[::-1])):
                    image = root / "data" / "images" / f"{row[f'image_{number}']}.png"
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
        with reading(file, "a list of cases"):
            rows = list(json.loads(read_text(file)))
        for key, row in enumerate(rows):
            with reading(file, "an image, its captions and a box", f"row {key}"):
                image = root / self.images / row["image_path"]
                if "caption_options" in row:
                    captions, group = tuple(row["caption_options"]), "order"
                    yield Example(str(key), image, captions=captions, fields={GROUP: group})
                    continue
                left, top, width, height = (int(row[f"bbox_{side}"]) for side in "xywh")
                group = str(row.get("relation_name", "_".join(row.get("attributes", ()))))
                captions = row["true_caption"], row["false_caption"]
                cut = _cut(image, (left, top, left + width, top + height))
                yield Example(str(key), cut, captions=captions, fields={GROUP: group})


def _cut(file: Path, box: tuple[int, int, int, int]) -> bytes | Path:
    """Return an image cut to its box; a file that cannot be read is left to the decoder to refuse."""
    buffer = io.BytesIO()
    try:
        with Image.open(file) as image:
            image.convert("RGB").crop(box).save(buffer, "PNG", compress_level=1)
    except (OSError, Image.DecompressionBombError, SystemError, ValueError):
        return file
    return buffer.getvalue()


CaptionReader = KarpathyReader | CocoReader | Xm3600Reader | SugarCrepeReader | WinogroundReader | AroReader
