"""Readers of evaluation sets: what every reader gives, and the checks that all of them share.

An image that is missing or damaged is still an example: it counts as wrong, and never leaves the denominator.
"""

import csv
import glob
import io
import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diptych.core.errors import BadSampleError, IntegrityError, MissingPackageError, Reason, UsageError
from diptych.core.files.reading import read_json, read_text
from diptych.core.records import Field
from diptych.data.captions import Columns
from diptych.data.images.limits import MAX_PIXELS
from diptych.data.sources.rows import image_path, read_image
from diptych.data.sources.table_rows import table_rows

MAX_JSON_BYTES = 2**30  # CLEVR's training scenes take 260 MB
VIDEO_SUFFIXES = frozenset({".avi", ".mp4", ".mkv", ".webm"})

Label = int | str  # a class number from 0, or what the data set's files call the class


@dataclass(frozen=True, slots=True)
class Example:
    """One image with what is known about it."""

    key: str  # its name, unique in the split
    image: bytes | Path  # the encoded file, or the path of an image or video
    labels: tuple[Label, ...] = ()  # its classes: one, in multi-label sets any number, in retrieval sets none
    ignored: tuple[Label, ...] = ()  # classes of which the annotators could not tell (VOC's "difficult")
    captions: tuple[str, ...] = ()  # in retrieval sets; in sets of caption choices the first one is right
    fields: Mapping[str, Field] = field(default_factory=dict)  # further columns, such as groups to slice by


class Reader(ABC):
    """One form of a data set on disk: a dataclass with the settings of a row of `tasks.toml`."""

    __slots__ = ()
    kind: str  # names the form, in rows and commands
    # Globs of files or folders of which one tells the form; `{split}` and settings are replaced.
    markers: ClassVar[tuple[str, ...]] = ()

    def present(self, root: Path, split: str) -> bool:
        """Tell whether the folder holds the data set in this form."""
        settings = {item.name: getattr(self, item.name) for item in fields(cast(Any, self))}
        texts = {name: glob.escape(value) for name, value in settings.items() if isinstance(value, str)}
        patterns = (marker.format(split=split, **texts).format(split=split) for marker in self.markers)
        return any(path for pattern in patterns for path in root.glob(pattern.lstrip("/")))

    def class_names(self, root: Path, split: str) -> tuple[str, ...]:
        """Return what the files themselves call class 0, 1, …; nothing where they do not say."""
        del root, split
        return ()

    def examples(self, root: Path, split: str) -> Iterator[Example]:
        """Yield the examples of a split in a fixed order."""
        return self._examples(root, split)

    @abstractmethod
    def _examples(self, root: Path, split: str) -> Iterator[Example]: ...


def need(path: Path) -> Path:
    """Return a path that must exist."""
    if not path.exists():
        what, expected = (
            "a file of the data set is missing",
            "the data set as its authors publish it, unpacked",
        )
        raise UsageError(what, where=path, expected=expected, fix="check --root, or fetch the data set again")
    return path


def inside(folder: Path, name: str) -> Path:
    """Join a folder and a name that a file of the data set gives; refuse one that steps out of it."""
    return image_path(name.lstrip("/"), folder)


def text_lines(path: Path, *, empty: bool = False) -> list[str]:
    """Read the lines of a text file that are not empty, or all of them."""
    try:
        text = read_text(need(path))
    except UnicodeDecodeError as error:
        raise damaged(path, f"byte {error.start} is not UTF-8") from None
    return [line.strip() for line in text.splitlines() if empty or line.strip()]


def annotations_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of a data set."""
    return read_json(need(path), max_bytes=MAX_JSON_BYTES, fix="fetch this file again")


def rows_of(path: Path, column: str = "image") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows of a CSV table, which has this column, or of lines of JSON, each with its line."""
    for line, cells, _ in table_rows(need(path), Columns(column), ()):
        if isinstance(cells, BadSampleError):
            raise damaged(path, f"line {line}: {cells.found}", "a table of whole rows")
        yield f"line {line}", {name.strip(): value for name, value in cells.items()}


@contextmanager
def reading(path: Path, expected: str, at: str = "") -> Iterator[None]:
    """Turn what a damaged file makes its reader trip over into the error for it; `at` says where in it."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, OSError, EOFError, zlib.error, struct.error,
            csv.Error) as error:  # fmt: skip
        found = f"{type(error).__name__}: {error}"
        raise damaged(path, f"{at}: {found}" if at else found, expected) from None


def damaged(path: Path, found: object, expected: object = "") -> IntegrityError:
    """Build the error for a file of a data set that is not what it should be."""
    what, fix = "a file of the data set is damaged", "fetch this file again"
    return IntegrityError(what, where=path, found=str(found)[:160], expected=expected, fix=fix)


def png(pixels: NDArray[Any]) -> bytes:
    """Encode pixels (H, W) or (H, W, 3) uint8 without loss."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels, dtype=np.uint8)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def image_bytes(image: bytes | Path) -> bytes:
    """Return the encoded image of an example: of a video its middle frame, of a PPM (GTSRB) a PNG.

    Source: Radford et al. 2021, appendix A.1, for the frame.
    """
    if isinstance(image, Path) and image.suffix.lower() in VIDEO_SUFFIXES:
        return middle_frame(image)
    data = read_image(image) if isinstance(image, Path) else image
    if data.startswith(b"P6"):
        try:
            with Image.open(io.BytesIO(data), formats=("PPM",)) as opened:
                return png(np.asarray(opened)) if opened.width * opened.height <= MAX_PIXELS else data
        except (OSError, ValueError, Image.DecompressionBombError):
            pass  # left as it is, and refused by the decoder
    return data


def middle_frame(path: Path) -> bytes:
    """Return the frame in the middle of a video as PNG: frame n // 2 of n."""
    try:
        import av
    except ImportError:
        fix = "pip install 'diptych[video]'"
        raise MissingPackageError("reading videos needs PyAV", where=path, fix=fix) from None
    if not path.is_file():
        raise BadSampleError(Reason.MISSING_IMAGE, where=path)
    try:
        with av.open(str(path)) as video:
            total = sum(1 for _ in video.decode(video=0))  # what the header says is often wrong
        with av.open(str(path)) as video:
            frame = next(islice(video.decode(video=0), total // 2, None))
            return png(frame.to_ndarray(format="rgb24"))
    except (av.FFmpegError, IndexError, ValueError, StopIteration) as error:
        found = str(error) or "a video without frames"
        raise BadSampleError(Reason.UNREADABLE_IMAGE, where=path, found=found) from None
