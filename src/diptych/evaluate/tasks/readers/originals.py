"""Data sets with a form of their own (Cars, Flowers, VOC, KITTI, CLEVR, ObjectNet), and MATLAB files.

`read_mat` is ours and not `scipy.io.loadmat`, because these files come from the web: of 1,000 copies of a
file of 848 bytes with one byte changed, SciPy 1.17.1 ended the process by a segmentation fault for 10. 300
such changes are a test of this reader: an error or numbers, each time. SciPy is 140 MB of requirements for
two data sets; it reads the labels of Stanford Cars in 0.2 s, this one in 1.1 s.

Reads: what their authors publish, unpacked; MAT-files of level 5 (`save -v6`, `-v7`), little-endian.
Source: MathWorks, "MAT-File Format", R2023b, chapter "Level 5 MAT-File Format".
"""

import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from diptych.evaluate.prompts.sets import prompt_set
from diptych.evaluate.tasks.readers import (
    Example,
    Reader,
    annotations_json,
    damaged,
    inside,
    need,
    reading,
    text_lines,
)

MAX_MAT_BYTES = 64 * 2**20  # of a variable when unpacked: the largest of these sets takes 1 MiB
MAX_MAT_DEPTH = 8
_HEADER = 128
_NUMBERS = {1: "i1", 2: "u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 9: "<f8", 12: "<i8",
            13: "<u8", 16: "u1", 17: "<u2", 18: "<u4"}  # fmt: skip
_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _CHAR = 1, 2, 4


@dataclass(frozen=True, slots=True)
class CarsReader(Reader):
    """Stanford Cars: a MATLAB struct of file names and class numbers from 1."""

    annotations: str
    images: str
    kind: Literal["cars"] = "cars"
    markers: ClassVar = ("{annotations}",)

    def _examples(self, root: Path, split: str) -> Iterator[Example]:
        path = root / self.annotations.format(split=split)
        rows = read_mat(path).get("annotations")
        if not isinstance(rows, list) or not all(isinstance(row, dict) and "class" in row for row in rows):
            raise damaged(path, "no classes", "annotations with fname and class (the test set's come apart)")
        for row in rows:
            name = str(row["fname"])
            image = inside(root / self.images.format(split=split), name)
            yield Example(name, image, (int(row["class"].item()) - 1,))


@dataclass(frozen=True, slots=True)
class FlowersReader(Reader):
    """Oxford Flowers 102: `imagelabels.mat` and `setid.mat` beside the folder `jpg`; all numbers from 1.

    A split is `trnid`, `valid` or `tstid`.
    """

    kind: Literal["flowers"] = "flowers"
    markers: ClassVar = ("imagelabels.mat",)

    def _examples(self, root: Path, split: str) -> Iterator[Example]:
        labels = read_mat(root / "imagelabels.mat").get("labels")
        numbers = read_mat(root / "setid.mat").get(split)
        if labels is None or numbers is None or (numbers.size and int(numbers.max()) > labels.size):
            raise damaged(root / "setid.mat", f"no usable {split}", "numbers of images")
        for number in sorted(numbers.reshape(-1).tolist()):
            name = f"image_{int(number):05d}"
            label = int(labels.reshape(-1)[int(number) - 1]) - 1
            yield Example(name, root / "jpg" / f"{name}.jpg", (label,))


@dataclass(frozen=True, slots=True)
class VocReader(Reader):
    """Pascal VOC's classification task: `ImageSets/Main/CLASS_SPLIT.txt` with 1, 0 (difficult) and -1."""

    kind: Literal["voc"] = "voc"
    markers: ClassVar = ("VOCdevkit/VOC2007/ImageSets/Main/{split}.txt",)

    def _examples(self, root: Path, split: str) -> Iterator[Example]:
        folder = root / "VOCdevkit" / "VOC2007"
        lists = folder / "ImageSets" / "Main"
        names = [line.split()[0] for line in text_lines(lists / f"{split}.txt")]
        marks: dict[str, dict[str, str]] = {}
        for of_class in prompt_set("voc2007").labels:
            path = lists / f"{of_class}_{split}.txt"
            rows = [line.split() for line in text_lines(path)]
            marks[of_class] = of_image = {cells[0]: cells[1] for cells in rows if len(cells) == 2}
            if not set(names) <= set(of_image) or not set(of_image.values()) <= {"1", "0", "-1"}:
                raise damaged(path, f"{len(of_image)} marks", f"1, 0 or -1 for {len(names)} images")
        for name in names:
            labels = tuple(of_class for of_class in marks if marks[of_class][name] == "1")
            ignored = tuple(of_class for of_class in marks if marks[of_class][name] == "0")
            yield Example(name, folder / "JPEGImages" / f"{name}.jpg", labels, ignored)


@dataclass(frozen=True, slots=True)
class KittiReader(Reader):
    """KITTI's objects, turned into the distance of the nearest car, van or truck, as VTAB does.

    The labeled images are parted by video: a tenth of the videos is for testing, drawn as TFDS draws them,
    which gives the paper's 711 images. The folder `mapping` is that of the object devkit.
    """

    kind: Literal["kitti"] = "kitti"
    markers: ClassVar = ("training/label_2",)

    def _examples(self, root: Path, split: str) -> Iterator[Example]:
        of_image = self._videos(root)
        videos = sorted(set(of_image))
        # The legacy generator, because its draw is what the published split is made of.
        drawn = np.random.RandomState(123).choice(videos, max(1, 10 * len(videos) // 100), replace=False)
        of_test = set(drawn.tolist())
        for number, video in enumerate(of_image):
            if (video in of_test) == (split == "test"):
                name = f"{number:06d}"
                label = _distance_class(root / "training" / "label_2" / f"{name}.txt")
                image = root / "training" / "image_2" / f"{name}.png"
                yield Example(name, image, (label,), fields={"video": video})

    def _videos(self, root: Path) -> list[str]:
        """Return the video of every labeled image."""
        order = root / "mapping" / "train_rand.txt"
        lines = text_lines(root / "mapping" / "train_mapping.txt")
        with reading(order, "numbers of lines of train_mapping.txt"):
            numbers = [int(number) - 1 for number in " ".join(text_lines(order)).replace(",", " ").split()]
            return [lines[number].split()[1] for number in numbers]


def _distance_class(path: Path) -> int:
    """Return 0 for up to 8 m, 1 for up to 20 m, 2 for farther, 3 for no vehicle."""
    objects = [line.split() for line in text_lines(path)]
    with reading(path, "15 cells an object"):
        depths = [float(cells[13]) for cells in objects if cells[0] in ("Car", "Van", "Truck")]
    nearest = min(depths, default=1000.0)
    return sum(nearest > limit for limit in (8.0, 20.0, 999.0))


@dataclass(frozen=True, slots=True)
class ClevrReader(Reader):
    """CLEVR's scenes as VTAB asks: how many objects there are, or how near the nearest one is."""

    asks: Literal["count", "distance"] = "count"
    kind: Literal["clevr"] = "clevr"
    markers: ClassVar = ("CLEVR_v1.0/scenes/CLEVR_{split}_scenes.json",)

    def _examples(self, root: Path, split: str) -> Iterator[Example]:
        folder = root / "CLEVR_v1.0"
        path = folder / "scenes" / f"CLEVR_{split}_scenes.json"
        with reading(path, "scenes with objects"):
            for scene in annotations_json(path)["scenes"]:
                name, objects = str(scene["image_filename"]), scene["objects"]
                label = len(objects) - 3
                if self.asks == "distance":
                    nearest = min(float(item["pixel_coords"][2]) for item in objects)
                    label = sum(nearest > limit for limit in (8.0, 8.5, 9.0, 9.5, 10.0))
                yield Example(name, inside(folder / "images" / split, name), (label,))


@dataclass(frozen=True, slots=True)
class ObjectNetReader(Reader):
    """ObjectNet with its `mappings`; only the classes that ImageNet has too, under ObjectNet's own names.

    The images keep their border of one red pixel, as in the published results of public models.
    """

    kind: Literal["objectnet"] = "objectnet"
    markers: ClassVar = ("mappings/objectnet_to_imagenet_1k.json",)

    def class_names(self, root: Path, split: str) -> tuple[str, ...]:
        """Return the shared classes in the order of their folders; see Reader."""
        del split
        return tuple(self._folders(root).values())

    def _examples(self, root: Path, split: str) -> Iterator[Example]:
        del split
        for folder, name in self._folders(root).items():
            for path in sorted(need(root / "images" / folder).glob("[!.]*.png")):
                yield Example(f"{folder}/{path.name}", path, (name,))

    def _folders(self, root: Path) -> dict[str, str]:
        """Return the name of every folder whose class ImageNet has."""
        shared = annotations_json(root / "mappings" / "objectnet_to_imagenet_1k.json")
        names = annotations_json(root / "mappings" / "folder_to_objectnet_label.json")
        return {folder: str(name).lower() for folder, name in sorted(names.items()) if name in shared}


def read_mat(path: Path) -> dict[str, Any]:
    """Read every variable of a MATLAB file.

    By name: an array of numbers, a text, a list (cell), or a list of one dict for each element (struct);
    elements in the file's order, column by column.
    """
    data = need(path).read_bytes()
    if len(data) < _HEADER or data[124:128] != b"\x00\x01IM":
        raise damaged(path, repr(data[:20]), "a MAT-file of level 5, little-endian")
    variables: dict[str, Any] = {}
    offset = _HEADER
    with reading(path, "a whole MAT-file"):
        while offset < len(data):
            kind, body, offset = _element(data, offset)
            if kind == _COMPRESSED:
                kind, body, _ = _element(zlib.decompressobj().decompress(body, MAX_MAT_BYTES), 0)
            if kind == _MATRIX:
                name, value = _matrix(body, 0)
                variables[name] = value
    return variables


def _element(data: bytes, offset: int) -> tuple[int, bytes, int]:
    """Return the type and body of an element, and where the next one begins."""
    kind, size = struct.unpack_from("<II", data, offset)
    if kind >> 16:  # a small element: up to four bytes stand in the tag itself
        kind, size, start, end = kind & 0xFFFF, kind >> 16, offset + 4, offset + 8
        if size > 4:
            raise ValueError("a small element of more than 4 bytes")
    else:
        start = offset + 8
        end = start + size if kind == _COMPRESSED else start + -(-size // 8) * 8
    if start + size > len(data):
        raise ValueError("an element reaches beyond the end")
    return kind, data[start : start + size], end


def _matrix(body: bytes, depth: int) -> tuple[str, Any]:
    if depth > MAX_MAT_DEPTH:
        raise ValueError("matrices inside each other without end")
    if not body:
        return "", np.empty((0, 0))
    parts: list[tuple[int, bytes]] = []
    offset = 0
    while offset < len(body):
        kind, content, offset = _element(body, offset)
        parts.append((kind, content))
    array_class = parts[0][1][0]
    shape = np.frombuffer(parts[1][1], "<i4").tolist()
    name, rest = parts[2][1].decode("ascii"), parts[3:]
    if array_class == _STRUCT:
        return name, _struct(rest, depth)
    if array_class == _CELL:
        return name, [_matrix(content, depth + 1)[1] for _, content in rest]
    kind, content = rest[0] if rest else (2, b"")
    values = np.frombuffer(content, _NUMBERS[kind])
    if array_class == _CHAR:
        return name, content.decode("utf-8") if kind in (1, 2, 16) else "".join(map(chr, values.tolist()))
    if values.size != math.prod(shape):
        raise ValueError(f"{values.size} numbers for a shape of {shape}")
    return name, values.reshape(shape, order="F")


def _struct(parts: list[tuple[int, bytes]], depth: int) -> list[dict[str, Any]]:
    length = int(np.frombuffer(parts[0][1], "<i4")[0])
    packed = parts[1][1]
    names = [
        packed[start : start + length].split(b"\0")[0].decode("ascii")
        for start in range(0, len(packed), length)
    ]
    values = [_matrix(content, depth + 1)[1] for _, content in parts[2:]]
    if not names or len(values) % len(names):
        raise ValueError("a struct with missing fields")
    return [
        dict(zip(names, values[start : start + len(names)], strict=True))
        for start in range(0, len(values), len(names))
    ]


OriginalReader = CarsReader | FlowersReader | VocReader | KittiReader | ClevrReader | ObjectNetReader
