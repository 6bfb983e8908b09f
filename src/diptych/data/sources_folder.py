"""Pairs from a folder of images, each with its captions beside it.

Reads: ``NAME.jpg`` (png, webp, gif, bmp), at any depth, with ``NAME.txt`` (one caption a line) or
``NAME.json`` (``caption`` or ``captions``; other scalar keys become fields).
"""

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from diptych.core.errors import BadSampleError
from diptych.core.manifest import FileEntry
from diptych.core.records import Counts, Field, Pair, Reason
from diptych.data.sources_rows import (
    IMAGE_SUFFIXES,
    Columns,
    captions_of,
    digest_files,
    drop,
    fields_of,
    read_image,
    unique,
)

_MAX_SIDECAR_BYTES = 2**20  # a hundred times the longest honest caption file


@dataclass(frozen=True, slots=True)
class FolderSource:
    """A folder of images with side-car captions, in sorted order; links to folders are not followed."""

    folder: Path
    columns: Columns

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
                Path(place, name) for name in sorted(names) if Path(name).suffix.lower() in IMAGE_SUFFIXES
            ]
        return found

    def _pairs(self, counts: Counts) -> Iterator[Pair]:
        images = self.images()
        stems = Counter(image.stem for image in images)
        for image in images:
            relative = image.relative_to(self.folder).with_suffix("").as_posix()
            key = image.stem if stems[image.stem] == 1 else relative
            try:
                captions, fields = self._sidecar(image)
                yield Pair(key, read_image(image), captions, fields)
            except BadSampleError as error:
                drop(counts, error, relative)

    def _sidecar(self, image: Path) -> tuple[tuple[str, ...], dict[str, Field]]:
        told = image.with_suffix(".json")
        if told.is_file():
            body = _json_object(_sidecar_bytes(told))
            names = (self.columns.caption, "caption", "captions")
            text = next((body[name] for name in names if name in body), None)
            return captions_of(text), fields_of({k: v for k, v in body.items() if k not in names})
        lines = image.with_suffix(".txt")
        if not lines.is_file():
            raise BadSampleError(Reason.MISSING_CAPTION, found="no .txt and no .json beside it")
        try:
            text = _sidecar_bytes(lines).decode("utf-8-sig")
        except UnicodeDecodeError:
            raise BadSampleError(Reason.CAPTION_NOT_TEXT, found="not UTF-8") from None
        return captions_of([line for line in text.splitlines() if line.strip()] or ""), {}


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
