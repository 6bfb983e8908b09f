"""Images with several captions each: Karpathy's split of COCO and Flickr30k, COCO's own files, XM3600.

Reads: `dataset_coco.json`, `dataset_flickr30k.json` (Karpathy and Fei-Fei 2015); `captions_val2017.json`;
`captions.jsonl` (Thapliyal et al. 2022).
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from diptych.data.captions import captions_of
from diptych.evaluate.tasks.readers.examples import (
    Example,
    OneFile,
    Unnamed,
    annotations_json,
    damaged,
    inside,
)


@dataclass(frozen=True, slots=True)
class KarpathyReader(OneFile):
    """One JSON file with images, their sentences and their split.

    Attributes:
        file: the JSON file.
        image: a picture's path, made of its `filename` and `filepath`.
        captions: so many of an image's captions are taken, the first ones; 0 takes all.
        kind: names this reader in a row.
    """

    file: str
    image: str
    captions: int = 5
    kind: Literal["karpathy"] = "karpathy"

    def examples(self, root: Path, split: str) -> Iterator[Example]:
        """Yield in the file's order; see Reader.

        Raises:
            IntegrityError: the file is damaged.
        """
        path = root / self.file
        try:
            for entry in annotations_json(path)["images"]:
                if entry["split"] == split:
                    names = {"filename": entry["filename"], "filepath": entry.get("filepath", "")}
                    name = self.image.format(**names)
                    texts = [sentence["raw"] for sentence in entry["sentences"]]
                    yield _example(root, name, texts, self.captions)
        except (KeyError, TypeError) as error:
            raise damaged(path, f"{type(error).__name__}: {error}", "images with sentences") from None


@dataclass(frozen=True, slots=True)
class CocoReader(Unnamed):
    """COCO's captions: images and annotations apart, joined by number.

    Attributes:
        file: the JSON file; `{split}` is replaced.
        images: the folder of the pictures; `{split}` is replaced.
        captions: so many of an image's captions are taken, the first ones; 0 takes all.
        kind: names this reader in a row.
    """

    file: str = "annotations/captions_{split}.json"
    images: str = "{split}"
    captions: int = 5
    kind: Literal["coco"] = "coco"

    def present(self, root: Path, split: str) -> bool:
        """See Reader."""
        return (root / self.file.format(split=split)).is_file()

    def examples(self, root: Path, split: str) -> Iterator[Example]:
        """Yield by the list of images; see Reader.

        Raises:
            IntegrityError: the file is damaged.
        """
        path = root / self.file.format(split=split)
        content = annotations_json(path)
        try:
            texts: dict[Any, list[str]] = {entry["id"]: [] for entry in content["images"]}
            for annotation in sorted(content["annotations"], key=lambda told: told["id"]):
                texts[annotation["image_id"]].append(annotation["caption"])
            for entry in content["images"]:
                name = f"{self.images.format(split=split)}/{entry['file_name']}"
                yield _example(root, name, texts[entry["id"]], self.captions)
        except (KeyError, TypeError) as error:
            raise damaged(path, f"{type(error).__name__}: {error}", "images and annotations") from None


@dataclass(frozen=True, slots=True)
class Xm3600Reader(OneFile):
    """Crossmodal-3600: a line of JSON for each image, with captions in 36 languages; a split is a language.

    Attributes:
        file: the file of captions.
        images: the folder of the images, KEY.jpg each.
        captions: so many of an image's captions are taken, the first ones; 0 takes all.
        kind: names this reader in a row.
    """

    file: str = "captions.jsonl"
    images: str = "images"
    captions: int = 0
    kind: Literal["xm3600"] = "xm3600"

    def examples(self, root: Path, split: str) -> Iterator[Example]:
        """Yield in the file's order; see Reader.

        Raises:
            IntegrityError: the file is damaged.
        """
        path = root / self.file
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    entry = json.loads(line)
                    name, texts = f"{self.images}/{entry['image/key']}.jpg", entry[split]["caption"]
                except (ValueError, KeyError, TypeError) as error:
                    told = f"line {number}: {type(error).__name__}: {error}"
                    raise damaged(path, told, f"image/key, and captions of {split!r}") from None
                yield _example(root, name, texts, self.captions)


def _example(root: Path, name: str, texts: list[str], most: int) -> Example:
    captions = captions_of(texts)
    return Example(name, inside(root, name), captions=captions[:most] if most else captions)
