"""Samples from a folder of images, with captions where they lie beside them.

Reads: ``NAME.jpg`` (png, webp, …: `image_formats`), at any depth, with ``NAME.txt`` (one caption a line) or
``NAME.json`` (``caption`` or ``captions``; other scalar keys become fields). An image in a subfolder has the
name of the first subfolder as its field ``label``, unless its JSON says another.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from diptych.core.errors import BadSampleError
from diptych.core.manifest import FileEntry
from diptych.core.records import Counts, Field, Need, Pair, Reason
from diptych.data.image_formats import IMAGE_SUFFIXES
from diptych.data.sources_rows import (
    Columns,
    attempt,
    build_pair,
    captions_of,
    digest_files,
    drop,
    fields_of,
    plain,
    read_image,
    short_names,
    unique,
)

LABEL = "label"
_MAX_SIDECAR_BYTES = 2**20  # a hundred times the longest honest caption file


@dataclass(frozen=True, slots=True)
class FolderSource:
    """A folder of images with side-car captions, in sorted order; links to folders are not followed."""

    folder: Path
    columns: Columns
    need: Need = Need.PAIR

    @property
    def name(self) -> str:
        """Return the folder's path."""
        return str(self.folder)

    def pairs(self, counts: Counts) -> Iterator[Pair]:
        """Yield the pairs; see Source."""
        return unique(self._pairs(counts), counts)

    def inputs(self) -> tuple[FileEntry, ...]:
        """Digest images and side-cars; see Source."""
        images = self.images()
        sidecars = [image.with_suffix(suffix) for image in images for suffix in (".txt", ".json")]
        return digest_files("images and captions", [*images, *sidecars], root=self.folder)

    def images(self) -> list[Path]:
        """List the image files in sorted order."""
        found: list[Path] = []
        for place, folders, names in os.walk(self.folder):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            found += [
                Path(place, name)
                for name in sorted(names)
                if Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith(".")
            ]
        return found

    def _pairs(self, counts: Counts) -> Iterator[Pair]:
        images = self.images()
        names = [image.relative_to(self.folder).as_posix() for image in images]
        for image, name, key in zip(images, names, short_names(names), strict=True):
            captions, fields = self._sidecar(image)
            label, slash, _ = name.partition("/")
            fields = {LABEL: plain(label), **fields} if slash else fields
            try:
                yield build_pair(self.need, key, image, captions, fields)
            except BadSampleError as error:
                drop(counts, error, name)

    def _sidecar(self, image: Path) -> tuple[tuple[str, ...] | BadSampleError, dict[str, Field]]:
        """Return the captions, or why there are none, and the fields."""
        told, lines = image.with_suffix(".json"), image.with_suffix(".txt")
        if told.is_file():
            body = attempt(lambda: _json_object(_sidecar_bytes(told)))
            if isinstance(body, BadSampleError):
                return body, {}
            names = (self.columns.caption, "caption", "captions")
            text = next((body[name] for name in names if name in body), None)
            return attempt(lambda: captions_of(text)), fields_of(
                {name: value for name, value in body.items() if name not in names}
            )
        if not lines.is_file():
            return BadSampleError(Reason.MISSING_CAPTION, found="no .txt and no .json beside it"), {}
        return attempt(lambda: _captions_of_lines(lines)), {}


def _captions_of_lines(path: Path) -> tuple[str, ...]:
    try:
        text = _sidecar_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadSampleError(Reason.CAPTION_NOT_TEXT, found="not UTF-8") from None
    return captions_of([line for line in text.splitlines() if line.strip()] or "")


def _sidecar_bytes(path: Path) -> bytes:
    if path.stat().st_size > _MAX_SIDECAR_BYTES:
        raise BadSampleError(Reason.CAPTION_TOO_LONG, found=f"{path.stat().st_size} bytes")
    return read_image(path)


def _json_object(data: bytes) -> dict[str, object]:
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadSampleError(Reason.BAD_ROW, found=f"no JSON: {type(error).__name__}") from None
    if not isinstance(body, dict):
        raise BadSampleError(Reason.BAD_ROW, found="JSON without an object")
    return body
