"""What every reader of an evaluation set gives, and the checks that all of them share.

A reader is a row's settings and three questions: is the set here, what does it call its classes, and its
examples one by one. An image that is missing or damaged is still an example: it counts as wrong, and it
never leaves the denominator.
"""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diptych.core.errors import IntegrityError, UsageError
from diptych.core.files.json_objects import read_json
from diptych.core.files.text import read_text
from diptych.core.records import Field
from diptych.data.sources.rows import image_path

MAX_JSON_BYTES = 2**30  # CLEVR's training scenes take 260 MB

Label = int | str
"""A class number from 0, or what the data set's files call the class."""


def _no_fields() -> Mapping[str, Field]:
    return {}


@dataclass(frozen=True, slots=True)
class Example:
    """One image with what is known about it.

    Attributes:
        key: its name, unique in the split.
        image: the encoded file, or the path of an image or video.
        labels: its classes: one, in multi-label sets any number, in retrieval sets none.
        ignored: classes of which the annotators could not tell (Pascal VOC's "difficult").
        captions: its texts, in retrieval sets.
        fields: further columns, such as groups to slice a score by.
    """

    key: str
    image: bytes | Path
    labels: tuple[Label, ...] = ()
    ignored: tuple[Label, ...] = ()
    captions: tuple[str, ...] = ()
    fields: Mapping[str, Field] = field(default_factory=_no_fields)


class Reader(Protocol):
    """One form of a data set on disk."""

    @property
    def kind(self) -> str:
        """Name the form, in rows and commands."""

    def present(self, root: Path, split: str) -> bool:
        """Tell whether the folder holds the data set in this form."""

    def class_names(self, root: Path, split: str) -> tuple[str, ...]:
        """Return what the files themselves call class 0, 1, …; nothing where they do not say."""

    def examples(self, root: Path, split: str) -> Iterator[Example]:
        """Yield the examples of a split in a fixed order."""


class Unnamed:
    """For readers of files that do not name their classes."""

    __slots__ = ()

    def class_names(self, root: Path, split: str) -> tuple[str, ...]:
        """Return nothing; see Reader."""
        del root, split
        return ()


class OneFile(Unnamed):
    """For readers of one file that holds all splits."""

    __slots__ = ()
    file: str

    def present(self, root: Path, split: str) -> bool:
        """See Reader."""
        del split
        return (root / self.file).is_file()


def need(path: Path) -> Path:
    """Return a path that must exist.

    Raises:
        UsageError: it does not.
    """
    if not path.exists():
        raise UsageError(
            "a file of the data set is missing",
            where=path,
            expected="the data set as its authors publish it, unpacked",
            fix="check --root, or fetch the data set again",
        )
    return path


def inside(folder: Path, name: str) -> Path:
    """Join a folder and a name that a file of the data set gives.

    Raises:
        BadSampleError: the name is empty or steps out of the folder.
    """
    return image_path(name.lstrip("/"), folder)


def text_lines(path: Path, *, empty: bool = False) -> list[str]:
    """Read the lines of a text file that are not empty, or all of them.

    Raises:
        UsageError: it is missing.
        IntegrityError: it is not UTF-8.
    """
    try:
        text = read_text(need(path))
    except UnicodeDecodeError as error:
        raise damaged(path, f"byte {error.start} is not UTF-8") from None
    return [line.strip() for line in text.splitlines() if empty or line.strip()]


def annotations_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of a data set.

    Raises:
        UsageError: there is no such file.
        IntegrityError: it is no JSON object, or too large.
    """
    return read_json(need(path), max_bytes=MAX_JSON_BYTES, fix="fetch this file again")


def damaged(path: Path, found: object, expected: object = "") -> IntegrityError:
    """Build the error for a file of a data set that is not what it should be."""
    return IntegrityError(
        "a file of the data set is damaged",
        where=path,
        found=found,
        expected=expected,
        fix="fetch this file again",
    )


def png(pixels: NDArray[Any]) -> bytes:
    """Encode pixels without loss.

    Args:
        pixels: (H, W) or (H, W, 3) uint8.

    >>> png(np.zeros((2, 2), dtype=np.uint8))[1:4]
    b'PNG'
    """
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels, dtype=np.uint8)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
