"""Folders of images or videos, one folder a class.

Reads: `PATH/CLASS/**/*.jpg` (or another image format; mp4, avi, mkv, webm).
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from diptych.core.errors import DataError
from diptych.core.files.listing import is_data
from diptych.data.images.formats import IMAGE_SUFFIXES
from diptych.evaluate.tasks.readers.examples import Example, Unnamed, need
from diptych.evaluate.tasks.readers.images import VIDEO_SUFFIXES

SUFFIXES = IMAGE_SUFFIXES | VIDEO_SUFFIXES


@dataclass(frozen=True, slots=True)
class FolderReader(Unnamed):
    """A folder a class.

    Attributes:
        path: the folder of the classes; `{split}` is replaced.
        train_per_class: where the authors publish no split, so many of each class are for training, drawn by
            the digest of their names: the same ones everywhere.
        test_per_class: so many of the others are for testing; 0 means all of them.
        classes: how many folders there must be; 0 does not check. Parts of a set would be easier than the
            whole.
        kind: names this reader in a row.
    """

    path: str = "{split}"
    train_per_class: int = 0
    test_per_class: int = 0
    classes: int = 0
    kind: Literal["folder"] = "folder"

    def present(self, root: Path, split: str) -> bool:
        """See Reader."""
        folder = root / self.path.format(split=split)
        return folder.is_dir() and any(_folders(folder))

    def examples(self, root: Path, split: str) -> Iterator[Example]:
        """Yield class by class; see Reader.

        Raises:
            DataError: not the stated number of classes.
        """
        folder = need(root / self.path.format(split=split))
        classes = _folders(folder)
        if self.classes and len(classes) != self.classes:
            raise DataError(
                "a data set is not whole",
                where=folder,
                found=f"{len(classes)} folders of classes",
                expected=f"{self.classes}",
                fix="unpack the whole data set: with fewer classes the task would be easier",
            )
        for of_class in classes:
            files = self._of_split(_files(of_class), folder, split)
            yield from (
                Example(path.relative_to(folder).as_posix(), path, (of_class.name,)) for path in files
            )

    def _of_split(self, files: list[Path], folder: Path, split: str) -> list[Path]:
        if not self.train_per_class:
            return files
        drawn = sorted(files, key=lambda path: _digest(path.relative_to(folder).as_posix()))
        first, last = self.train_per_class, self.train_per_class + self.test_per_class
        of_test = drawn[first : last if self.test_per_class else None]
        return sorted(of_test if split == "test" else drawn[:first])


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and is_data(path.name))


def _files(folder: Path) -> list[Path]:
    return sorted(
        Path(place, name)
        for place, _, names in os.walk(folder)
        for name in names
        if Path(name).suffix.lower() in SUFFIXES and is_data(name)
    )
