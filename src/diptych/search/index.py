"""An index: the images of a source as rows of unit length, in files that are opened where they lie.

Writes, in the index's folder:

- `vectors.npy`    (N, E) float16 or float32, unit length
- `entries.jsonl`  one line per row: key, place in the source, first caption, path
- `manifest.json`  last: digests of both, of the model and of the source, and the counts

Rows can be compared only with what the same model embeds, so an index remembers its model's digest, and how
images were read: queries are read like that.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from diptych.core.errors import DataError, IntegrityError, UsageError
from diptych.core.files.durable import staging_folder, writing
from diptych.core.manifest import Manifest, file_entry, is_done, read_manifest, verify, write_manifest
from diptych.core.records import Counts, Pair
from diptych.data.images.limits import DEFAULT_LIMITS
from diptych.models.encode import IMAGE_BATCH, image_batches

if TYPE_CHECKING:
    from diptych.data.sources.open import Source
    from diptych.models.model import Model

KIND = "index"
FORMAT = 2  # Format 1 did not say where the images' files are
VECTORS, ENTRIES = "vectors.npy", "entries.jsonl"

# float16 halves the file and moves a cosine by less than 0.001; scores are float32 either way
Dtype = Literal["float16", "float32"]


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of an index: key and position in its source, first caption and file, or "" for none."""

    key: str
    position: int
    caption: str
    path: str


@dataclass(frozen=True, slots=True)
class Index:
    """An open index; its vectors (N, E), float16 or float32 of unit length, are mapped from the file."""

    folder: Path
    vectors: NDArray[Any]
    entries: tuple[Entry, ...]
    manifest: Manifest

    @property
    def model_digest(self) -> str:
        """The digest of the model that made the rows."""
        return str(self.manifest.extra["model_digest"])

    def read_alike(self, model: "Model") -> "Model":
        """Return the model, with images read as those of this index were.

        Raises:
            IntegrityError: another model made the index.
        """
        settings = {"orientation": "upright", "scaled_jpeg": False, **self.manifest.settings}
        alike = model.reading(settings["orientation"], scaled_jpeg=settings["scaled_jpeg"])
        if alike.digest != self.model_digest:
            raise IntegrityError(
                "this index was made by another model, so its rows cannot be compared with this one's",
                where=self.folder,
                found=f"model {self.model_digest}",
                expected=alike.digest,
                fix="search with the model that made it, or build the index again",
            )
        stated = "scaled_jpeg" in self.manifest.settings
        return alike if stated else alike.reading(scaled_jpeg=True)  # as all were before it was a setting

    @classmethod
    def open(cls, folder: str | Path) -> "Index":
        """Open a finished index and check every byte of it."""
        folder = Path(folder)
        manifest = read_manifest(folder, KIND)
        if manifest.format != FORMAT:
            raise UsageError(
                "this index is of another format",
                where=folder,
                found=f"format {manifest.format}",
                expected=f"format {FORMAT}",
                fix="build it again: diptych search does",
            )
        verify(folder)
        vectors = np.load(folder / VECTORS, mmap_mode="r", allow_pickle=False)
        lines = (folder / ENTRIES).read_text(encoding="utf-8").splitlines()
        entries = tuple(Entry(**json.loads(line)) for line in lines)
        if vectors.ndim != 2 or len(vectors) != len(entries):
            raise IntegrityError(
                "an index does not fit itself",
                where=folder,
                found=f"vectors of shape {vectors.shape} and {len(entries)} entries",
                expected="as many rows as entries",
                fix="build it again",
            )
        return cls(folder, vectors, entries, manifest)

    @classmethod
    def build(
        cls,
        model: "Model",
        source: "Source",
        folder: str | Path,
        *,
        batch_size: int = IMAGE_BATCH,
        dtype: Dtype = "float16",
    ) -> "Index":
        """Embed a source into a folder, or open what is there if the same model made it from the same source.

        Rows go to the file batch by batch: memory grows with keys and captions only, not with images.

        Args:
            model: what embeds the images.
            source: where they come from, best opened with `need=Need.IMAGE`: captions are not needed.
                Unreadable images are counted and left out.
            folder: of the index; an index that was made from something else is replaced.
            batch_size: images per step.
            dtype: of the file.
        """
        folder = Path(folder)
        settings = {
            "dtype": dtype, "max_pixels": DEFAULT_LIMITS.max_pixels, **model.preprocess.reading
        }  # fmt: skip
        extra = {"model_digest": model.digest, "source": source.name}
        inputs = source.inputs()
        there = is_done(folder, KIND)
        if there:
            made = read_manifest(folder, KIND)
            same = made.settings == settings and dict(made.extra) == extra and made.inputs == inputs
            if same and made.format == FORMAT:
                return cls.open(folder)
        begun = time.monotonic()
        counts = Counts()
        with staging_folder(folder, replace=there) as staged:
            with writing(staged / VECTORS) as vectors, writing(staged / ENTRIES) as entries:
                _write_rows(
                    model, source, vectors, entries, counts=counts, batch_size=batch_size, dtype=dtype
                )
            write_manifest(
                staged,
                Manifest(
                    kind=KIND,
                    format=FORMAT,
                    settings=settings,
                    inputs=inputs,
                    outputs=tuple(file_entry(staged / name, root=staged) for name in (VECTORS, ENTRIES)),
                    counts=counts.as_dict(),
                    seconds=round(time.monotonic() - begun, 3),
                    extra=extra,
                ),
            )
        return cls.open(folder)


def _write_rows(
    model: "Model",
    source: "Source",
    vectors: IO[bytes],
    entries: IO[bytes],
    *,
    counts: Counts,
    batch_size: int,
    dtype: Dtype,
) -> None:
    """Write the rows of all readable images, then the number of rows into the header."""
    passed: list[Entry] = []

    def pairs() -> Iterator[Pair]:
        for position, pair in enumerate(source.pairs(counts)):
            passed.append(Entry(pair.key, position, next(iter(pair.captions), ""), pair.path))
            yield pair

    width = model.config.embed_dim
    _write_header(vectors, (0, width), dtype)
    rows = done = 0
    for batch, _ in image_batches(model, pairs(), batch_size=batch_size, counts=counts):
        readable = ~np.isnan(batch[:, 0])
        vectors.write(batch[readable].astype(dtype).tobytes())
        for entry, kept in zip(passed[done : done + len(batch)], readable, strict=True):
            if kept:
                entries.write(f"{json.dumps(asdict(entry))}\n".encode())
        rows, done = rows + int(readable.sum()), done + len(batch)
    if not rows:
        raise DataError(
            "there is nothing to search",
            where=source.name,
            found=f"{counts.seen} samples, none with an image that can be read",
            expected="at least one",
            fix="check the source's columns and files",
        )
    vectors.seek(0)
    _write_header(vectors, (rows, width), dtype)


def _write_header(file: IO[bytes], shape: tuple[int, int], dtype: Dtype) -> None:
    """Write a header whose length does not depend on the number of rows: NumPy leaves room for it."""
    npy.write_array_header_1_0(file, {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape})
