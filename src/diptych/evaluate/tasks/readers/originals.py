"""Data sets with a form of their own: Stanford Cars, Flowers, Pascal VOC, KITTI, CLEVR, ObjectNet.

Reads: what their authors publish, unpacked.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from diptych.evaluate.prompts.sets import prompt_set
from diptych.evaluate.tasks.readers.examples import (
    Example,
    Label,
    Unnamed,
    annotations_json,
    damaged,
    inside,
    need,
    text_lines,
)
from diptych.evaluate.tasks.readers.matlab import read_mat


@dataclass(frozen=True, slots=True)
class CarsReader(Unnamed):
    """Stanford Cars: a MATLAB struct of file names and class numbers from 1.

    Attributes:
        annotations: the file; `{split}` is replaced.
        images: the folder of the images.
        kind: names this reader in a row.
    """

    annotations: str
    images: str
    kind: Literal["cars"] = "cars"

    def present(self, root: Path, split: str) -> bool:
        """See Reader."""
        return (root / self.annotations.format(split=split)).is_file()

    def examples(self, root: Path, split: str) -> Iterator[Example]:
        """Yield by row; see Reader.

        Raises:
            IntegrityError: the file is damaged, or the one without labels.
        """
        path = root / self.annotations.format(split=split)
        rows = read_mat(path).get("annotations")
        if not isinstance(rows, list) or not all(isinstance(row, dict) and "class" in row for row in rows):
            raise damaged(path, "no classes", "annotations with fname and class (the test set's come apart)")
        for row in rows:
            name = str(row["fname"])
            image = inside(root / self.images.format(split=split), name)
            yield Example(name, image, (int(row["class"].item()) - 1,))


@dataclass(frozen=True, slots=True)
class FlowersReader(Unnamed):
    """Oxford Flowers 102: `imagelabels.mat` and `setid.mat` beside the folder `jpg`; all numbers from 1."""

    kind: Literal["flowers"] = "flowers"

    def present(self, root: Path, split: str) -> bool:
        """See Reader."""
        del split
        return (root / "imagelabels.mat").is_file()

    def examples(self, root: Path, split: str) -> Iterator[Example]:
        """Yield by number; `split` is trnid, valid or tstid; see Reader.

        Raises:
            IntegrityError: a file is damaged.
        """
        labels = read_mat(root / "imagelabels.mat").get("labels")
        numbers = read_mat(root / "setid.mat").get(split)
        if labels is None or numbers is None or (numbers.size and int(numbers.max()) > labels.size):
            raise damaged(root / "setid.mat", f"no usable {split}", "numbers of pictures")
        for number in sorted(numbers.reshape(-1).tolist()):
            name = f"image_{int(number):05d}"
            label = int(labels.reshape(-1)[int(number) - 1]) - 1
            yield Example(name, root / "jpg" / f"{name}.jpg", (label,))


@dataclass(frozen=True, slots=True)
class VocReader(Unnamed):
    """Pascal VOC's classification task: `ImageSets/Main/CLASS_SPLIT.txt` with 1, 0 (difficult) and -1.

    Attributes:
        folder: of the year, below the root.
        kind: names this reader in a row.
    """

    folder: str = "VOCdevkit/VOC2007"
    kind: Literal["voc"] = "voc"

    def present(self, root: Path, split: str) -> bool:
        """See Reader."""
        return (root / self.folder / "ImageSets" / "Main" / f"{split}.txt").is_file()

    def examples(self, root: Path, split: str) -> Iterator[Example]:
        """Yield by the list of the split; see Reader.

        Raises:
            IntegrityError: a list is damaged or lacks an image.
        """
        lists = root / self.folder / "ImageSets" / "Main"
        names = [line.split()[0] for line in text_lines(lists / f"{split}.txt")]
        marks: dict[str, dict[str, str]] = {}
        for of_class in prompt_set("voc2007").labels:
            path = lists / f"{of_class}_{split}.txt"
            found = [line.split() for line in text_lines(path)]
            marks[of_class] = {cells[0]: cells[1] for cells in found if len(cells) == 2}
            if not set(names) <= set(marks[of_class]) or not set(marks[of_class].values()) <= {
                "1",
                "0",
                "-1",
            }:
                raise damaged(path, f"{len(marks[of_class])} marks", f"1, 0 or -1 for {len(names)} pictures")
        for name in names:
            labels = tuple(of_class for of_class in marks if marks[of_class][name] == "1")
            ignored = tuple(of_class for of_class in marks if marks[of_class][name] == "0")
            yield Example(name, root / self.folder / "JPEGImages" / f"{name}.jpg", labels, ignored)


@dataclass(frozen=True, slots=True)
class KittiReader(Unnamed):
    """KITTI's objects, turned into the distance of the nearest car, van or truck, as VTAB does.

    The labelled images are parted by video: a tenth of the videos is for testing, drawn as TFDS draws them,
    which gives the paper's 711 images.

    Attributes:
        mapping: the folder `mapping` of the object devkit, below the root.
        kind: names this reader in a row.

    Source: Zhai et al. 2019, VTAB, task kitti/closest_vehicle_distance; TensorFlow Datasets, kitti.
    """

    mapping: str = "mapping"
    kind: Literal["kitti"] = "kitti"

    def present(self, root: Path, split: str) -> bool:
        """See Reader."""
        del split
        return (root / "training" / "label_2").is_dir()

    def examples(self, root: Path, split: str) -> Iterator[Example]:
        """Yield by number; see Reader.

        Raises:
            IntegrityError: a file is damaged.
        """
        of_image = self._videos(root)
        videos = sorted(set(of_image))
        # The legacy generator, because its draw is what the published split is made of.
        drawn = np.random.RandomState(123).choice(videos, max(1, 10 * len(videos) // 100), replace=False)
        of_test = set(drawn.tolist())
        for number, video in enumerate(of_image):
            if (video in of_test) == (split == "test"):
                name = f"{number:06d}"
                label = _distance_class(root / "training" / "label_2" / f"{name}.txt")
                yield Example(
                    name, root / "training" / "image_2" / f"{name}.png", (label,), fields={"video": video}
                )

    def _videos(self, root: Path) -> list[str]:
        """Return the video of every labelled image."""
        order = root / self.mapping / "train_rand.txt"
        lines = text_lines(root / self.mapping / "train_mapping.txt")
        try:
            places = [int(place) - 1 for place in " ".join(text_lines(order)).replace(",", " ").split()]
            return [lines[place].split()[1] for place in places]
        except (ValueError, IndexError) as error:
            raise damaged(order, error, "numbers of lines of train_mapping.txt") from None


def _distance_class(path: Path) -> int:
    """Return 0 for up to 8 m, 1 for up to 20 m, 2 for farther, 3 for no vehicle."""
    depths = []
    for line in text_lines(path):
        cells = line.split()
        try:
            if cells[0] in ("Car", "Van", "Truck"):
                depths.append(float(cells[13]))
        except (IndexError, ValueError):
            raise damaged(path, repr(line[:80]), "15 cells an object") from None
    nearest = min(depths, default=1000.0)
    return sum(nearest > limit for limit in (8.0, 20.0, 999.0))


@dataclass(frozen=True, slots=True)
class ClevrReader(Unnamed):
    """CLEVR's scenes: how many objects there are, or how near the nearest one is.

    Attributes:
        asks: what the class is.
        folder: of the data set, below the root.
        kind: names this reader in a row.

    Source: Zhai et al. 2019, VTAB, tasks clevr/count_all and clevr/closest_object_distance.
    """

    asks: Literal["count", "distance"] = "count"
    folder: str = "CLEVR_v1.0"
    kind: Literal["clevr"] = "clevr"

    def present(self, root: Path, split: str) -> bool:
        """See Reader."""
        return (root / self.folder / "scenes" / f"CLEVR_{split}_scenes.json").is_file()

    def examples(self, root: Path, split: str) -> Iterator[Example]:
        """Yield scene by scene; see Reader.

        Raises:
            IntegrityError: the file is damaged.
        """
        path = root / self.folder / "scenes" / f"CLEVR_{split}_scenes.json"
        try:
            for scene in annotations_json(path)["scenes"]:
                name, objects = str(scene["image_filename"]), scene["objects"]
                label = len(objects) - 3 if self.asks == "count" else _clevr_distance(objects)
                yield Example(name, inside(root / self.folder / "images" / split, name), (label,))
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise damaged(path, f"{type(error).__name__}: {error}"[:120], "scenes with objects") from None


def _clevr_distance(objects: list[dict[str, Any]]) -> int:
    nearest = min(float(thing["pixel_coords"][2]) for thing in objects)
    return sum(nearest > limit for limit in (8.0, 8.5, 9.0, 9.5, 10.0))


@dataclass(frozen=True, slots=True)
class ObjectNetReader:
    """ObjectNet with its `mappings`; only the classes that ImageNet has too, under ObjectNet's own names.

    The images keep their border of one red pixel, as in the published results of public models.
    """

    kind: Literal["objectnet"] = "objectnet"

    def present(self, root: Path, split: str) -> bool:
        """See Reader."""
        del split
        return (root / "mappings" / "objectnet_to_imagenet_1k.json").is_file()

    def class_names(self, root: Path, split: str) -> tuple[str, ...]:
        """Return the shared classes in the order of their folders; see Reader."""
        del split
        return tuple(self._folders(root).values())

    def examples(self, root: Path, split: str) -> Iterator[Example]:
        """Yield folder by folder; see Reader."""
        del split
        for folder, name in self._folders(root).items():
            label: Label = name
            for path in sorted(need(root / "images" / folder).glob("[!.]*.png")):
                yield Example(f"{folder}/{path.name}", path, (label,))

    def _folders(self, root: Path) -> dict[str, str]:
        """Return the name of every folder whose class ImageNet has."""
        shared = annotations_json(root / "mappings" / "objectnet_to_imagenet_1k.json")
        names = annotations_json(root / "mappings" / "folder_to_objectnet_label.json")
        return {folder: str(name).lower() for folder, name in sorted(names.items()) if name in shared}
