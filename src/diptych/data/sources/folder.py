"""Samples from a folder of images, with captions where they lie beside them.

Reads: ``NAME.jpg`` (png, webp, …: `formats`), at any depth, with ``NAME.txt`` (one caption a line) and
``NAME.json`` (``captions`` or ``caption``; other scalar keys become fields; see `data.captions`). An image in
a subfolder has the name of the first subfolder as its field ``label``, unless its JSON says another.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from diptych.core.errors import BadSampleError, Reason
from diptych.core.files.listing import is_data
from diptych.core.manifest import FileEntry
from diptych.core.records import Counts, Field, Need, Pair
from diptych.data.captions import MAX_BYTES_BESIDE, Columns, plain, texts_beside
from diptych.data.images.formats import IMAGE_SUFFIXES
from diptych.data.sources.rows import build_pair, digest_files, drop, read_image, short_names, unique

LABEL = "label"


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
        return list(self.walk())

    def walk(self) -> Iterator[Path]:
        """Yield the image files in sorted order, folder by folder."""
        for place, folders, names in os.walk(self.folder):
            folders[:] = sorted(filter(is_data, folders))
            yield from (
                Path(place, name)
                for name in sorted(filter(is_data, names))
                if Path(name).suffix.lower() in IMAGE_SUFFIXES
            )

    def has_texts(self) -> bool:
        """Tell whether captions lie beside the first image."""
        first = next(self.walk(), self.folder)
        return any(first.with_suffix(suffix).is_file() for suffix in (".txt", ".json"))

    def _pairs(self, counts: Counts) -> Iterator[Pair]:
        images = self.images()
        names = [image.relative_to(self.folder).as_posix() for image in images]
        for image, name, key in zip(images, names, short_names(names), strict=True):
            captions, fields = self._beside(image)
            label, slash, _ = name.partition("/")
            fields = {LABEL: plain(label), **fields} if slash else fields
            try:
                yield build_pair(self.need, key, image, captions, fields)
            except BadSampleError as error:
                drop(counts, error, name)

    def _beside(self, image: Path) -> tuple[tuple[str, ...] | BadSampleError, dict[str, Field]]:
        """Return the captions, or why there are none, and the fields."""
        try:
            text, record = _read_beside(image.with_suffix(".txt")), _read_beside(image.with_suffix(".json"))
        except BadSampleError as error:
            return error, {}
        return texts_beside(text, record, self.columns)


def _read_beside(path: Path) -> bytes | None:
    if not path.is_file():
        return None
    if path.stat().st_size > MAX_BYTES_BESIDE:
        raise BadSampleError(Reason.CAPTION_TOO_LONG, found=f"{path.stat().st_size} bytes")
    return read_image(path)
