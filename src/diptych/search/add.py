"""Bring an index up to date with its sources: new, changed, moved and vanished images.

A folder's files are compared by size and time, which reads none of them. What differs is read; if its digest
is known, only its name is new: the row that is there gets the new name, and no model runs. Rows of tables and
shards are known by their digests alone.
"""

import hashlib
import os
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from diptych.core import checks
from diptych.core.errors import BadSampleError, Reason, UsageError
from diptych.core.files.reading import is_data
from diptych.core.progress import Progress
from diptych.core.records import Counts, Need, Pair
from diptych.core.settings import from_mapping
from diptych.data.captions import Columns, is_unicode, plain
from diptych.data.images.formats import IMAGE_SUFFIXES
from diptych.data.sources.open import FolderSource, open_source
from diptych.data.sources.rows import SCENES, Source
from diptych.models.encode import IMAGE_BATCH, EncodeSettings, image_batches
from diptych.search.index import Change, Index
from diptych.search.items import Item, Place
from diptych.search.photos import HEIF_SUFFIXES, RAW_SUFFIXES, describe, has_own_decoder, preview

if TYPE_CHECKING:
    from diptych.models.model import Model

COMMIT_ROWS, COMMIT_SECONDS = 8192, 60.0  # what a killed command loses at most
SUFFIXES = IMAGE_SUFFIXES | HEIF_SUFFIXES | RAW_SUFFIXES
SIDECARS = (".txt", ".json")


@dataclass(slots=True)
class Report:
    """What became of the images of the sources.

    Attributes:
        counts: seen = kept + dropped by reason; kept ones are `added`, `moved` and `unchanged`.
        moved: known images with a new name or at a further place, or with other captions.
        vanished: places that no longer hold an image.
        bad: (file or row, reason) of every dropped one.
    """

    counts: Counts = field(default_factory=Counts)
    added: int = 0
    moved: int = 0
    unchanged: int = 0
    vanished: int = 0
    bad: list[tuple[str, str]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        names = ("added", "moved", "unchanged", "vanished")
        return {**{name: getattr(self, name) for name in names}, **self.counts.as_dict()}


@dataclass(frozen=True, slots=True)
class _Sample:
    """A sample to be indexed: its place, and its pair or why there is none."""

    place: Place
    pair: Pair | BadSampleError


def add(
    index: Index,
    model: "Model",
    refs: Sequence[str | Path] = (),
    *,
    columns: Columns | None = None,
    batch_size: int = IMAGE_BATCH,
    workers: int = 2,
) -> Report:
    """Add sources to an index, and bring those up to date that it has.

    Args:
        index: the index.
        model: what made it.
        refs: folders, tables, shards, …: see `open_source`; none: all that it has.
        columns: names of a table's columns.
        batch_size: images per step.
        workers: decoding threads.

    Raises:
        UsageError: a source is not there, or a folder that held images holds none: a disk that is not
            mounted must not empty an index.
    """
    model = index.read_alike(model)
    report = Report()
    how_given = _written(columns or Columns())
    names: dict[str, Mapping[str, str]] = {_name(ref): how_given for ref in refs} or dict(index.entry.sources)
    if not names:
        what, fix = "there is nothing to index", "name a source: diptych index add INDEX SOURCE"
        raise UsageError(what, where=index.folder, fix=fix)
    with Progress("indexing") as progress:
        for name, how in names.items():
            writer = _Writer(index, name, how, report, progress)
            known = {place.key: (digest, place) for digest, place in _known(index, name)}
            source = _opened(name, from_mapping(Columns, how), bool(known))
            if isinstance(source, FolderSource):
                samples = _of_folder(source, known, writer)
            else:
                samples = _of_rows(source, known, writer)
            _embed(model, samples, writer, EncodeSettings(workers=workers), batch_size)
            if known and not writer.seen:
                what, fix = (
                    "a source that held images holds none",
                    "is its disk there? diptych index remove forgets it",
                )
                raise UsageError(what, where=name, fix=fix)
            gone = frozenset((name, key) for key in known.keys() - writer.seen)
            report.vanished += len(gone)
            writer.commit(vanished=gone)
    return report


def remove(index: Index, names: Sequence[str | Path]) -> int:
    """Forget sources, or single files of theirs; the number of places that are gone is returned.

    Raises:
        UsageError: a name is neither.
    """
    forgotten, vanished = set(), set()
    places = [place for source in index.entry.sources for _, place in _known(index, source)]
    for ref in names:
        name = _name(ref)
        in_file = [place.id for place in places if place.path == name]
        if name in index.entry.sources:
            forgotten.add(name)
        elif in_file:
            vanished.update(in_file)
        else:
            listed = ", ".join(index.entry.sources) or "no source"
            what = "the index has nothing of this name"
            raise UsageError(what, where=index.folder, found=name, expected=f"a file of it, or {listed}")
    count = len(vanished) + sum(place.source in forgotten for place in places)
    index.commit(Change(vanished=frozenset(vanished), forgotten=frozenset(forgotten)))
    return count


def _name(ref: str | Path) -> str:
    """Return the name of a source wherever the command runs."""
    text = checks.path(ref, "the source")
    if not is_unicode(text):
        what, fix = "the name of a source is no UTF-8", "give it another name, or name the folder above it"
        raise UsageError(what, where=ascii(text), fix=fix)
    return text if text.startswith(SCENES) or "{" in text or "::" in text else str(Path(text).absolute())


def _opened(name: str, columns: Columns, known: bool) -> Source:
    """Open a source; a folder may hold HEIC and RAW files only, or nothing any more."""
    folder = Path(name)
    try:
        return open_source(name, columns=columns, need=Need.IMAGE)
    except UsageError:
        if not folder.is_dir() or not (known or next(folder_files(folder), None)):
            raise
        return FolderSource(folder, columns, Need.IMAGE)


def _written(columns: Columns) -> dict[str, str]:
    """Return the names of columns that are not the usual ones."""
    usual = asdict(Columns())
    return {name: value for name, value in asdict(columns).items() if value != usual[name]}


def _known(index: Index, source: str) -> Iterator[tuple[str, Place]]:
    for segment in index.segments:
        alive = segment.is_live()
        yield from ((digest, place) for row, digest, place in segment.items.places(source) if alive[row])


def _of_folder(
    source: FolderSource, known: Mapping[str, tuple[str, Place]], writer: "_Writer"
) -> Iterator[_Sample]:
    """Yield the files that are new or differ in size or time."""
    for path, key, size, modified in folder_files(source.folder):
        place = Place(writer.source, key, str(path), size, modified)
        writer.seen.add(key)
        if key in known and known[key][1] == place:
            writer.unchanged()
            continue
        try:
            yield _Sample(place, source.row(path, key, key).pair(key, Need.IMAGE))
        except BadSampleError as error:
            yield _Sample(place, error)


def folder_files(folder: Path) -> Iterator[tuple[Path, str, int, int]]:
    """Yield the image files below a folder: path, name below it, bytes, time in nanoseconds.

    The time is that of the newest of the file and its captions. Hidden files, what programs leave behind and
    links to folders are not followed.
    """
    waiting = [(folder, "")]
    while waiting:
        below, prefix = waiting.pop()
        entries = {entry.name: entry for entry in os.scandir(below) if is_data(entry.name)}
        for name, entry in sorted(entries.items()):
            if entry.is_dir(follow_symlinks=False):
                waiting.append((below / name, f"{prefix}{name}/"))
                continue
            stem, dot, suffix = name.rpartition(".")
            if (dot + suffix).lower() not in SUFFIXES:
                continue
            beside = [entries[stem + sidecar] for sidecar in SIDECARS if stem + sidecar in entries]
            try:
                modified = max(part.stat().st_mtime_ns for part in (entry, *beside))
                yield below / name, prefix + name, entry.stat().st_size, modified
            except OSError:  # a link to nothing; reading it says so
                yield below / name, prefix + name, 0, 0


def _of_rows(source: Any, known: Mapping[str, tuple[str, Place]], writer: "_Writer") -> Iterator[_Sample]:
    """Yield the rows that are new, or whose image or texts differ."""
    counts = Counts()
    for pair in source.pairs(counts):
        texts = xxhash.xxh3_64_intdigest(
            repr((pair.captions, sorted(pair.fields.items()))).encode("utf-8", "replace")
        )
        place = Place(writer.source, pair.key, pair.path, len(pair.image), texts >> 1)
        writer.seen.add(pair.key)
        if pair.key in known and known[pair.key] == (_digest(pair.image), place):
            writer.unchanged()
            continue
        yield _Sample(place, pair)
    writer.report.counts.merge(counts)
    for reason, places in counts.examples.items():
        writer.report.bad.extend((where, str(reason)) for where in places)


def _embed(
    model: "Model", samples: Iterator[_Sample], writer: "_Writer", settings: EncodeSettings, batch_size: int
) -> None:
    """Embed what is not known, batch by batch, and hand all rows to the writer."""
    waiting: deque[Item] = deque()

    def images() -> Iterator[Any]:
        for sample in samples:
            try:
                item, image = _item(sample)
            except BadSampleError as error:
                writer.drop(sample.place, error.reason)
                continue
            if (vector := writer.known_vector(item.digest)) is not None:
                writer.add(item, vector, is_new=False)
                continue
            waiting.append(item)
            yield image

    for rows, bad in image_batches(model, images(), batch_size=batch_size, settings=settings):
        for number, row in enumerate(rows):
            item = waiting.popleft()
            if number in bad:
                writer.drop(item.places[0], bad[number].reason)
            elif not np.isfinite(row).all() or not row.any():
                writer.drop(item.places[0], Reason.UNREADABLE_IMAGE)
            else:
                writer.add(item, row, is_new=True)


def _item(sample: _Sample) -> tuple[Item, Any]:
    """Return what is known about a sample, and what the model's transform reads."""
    if isinstance(sample.pair, BadSampleError):
        raise sample.pair
    pair, path = sample.pair, Path(sample.place.path)
    image, facts = preview(pair.image, path) if has_own_decoder(path) else (pair.image, describe(pair.image))
    caption = plain(next(iter(pair.captions), ""))
    return Item(_digest(pair.image), (sample.place,), caption, fields=dict(pair.fields), **facts), image


def _digest(image: bytes) -> str:
    return hashlib.sha256(image).hexdigest()


class _Writer:
    """Collects the rows of one source, and commits them in portions."""

    def __init__(
        self, index: Index, source: str, how: Mapping[str, str], report: Report, progress: Progress
    ) -> None:
        self.index, self.source, self.how, self.report, self.progress = index, source, how, report, progress
        self.seen: set[str] = set()
        self._items: list[Item] = []
        self._vectors: list[Any] = []
        self._since = time.monotonic()

    def unchanged(self) -> None:
        self.report.unchanged += 1
        self.report.counts.keep()
        self.progress.advance()

    def drop(self, place: Place, reason: Reason) -> None:
        where = plain(place.path or place.key)
        self.seen.discard(place.key)  # what cannot be read any more is no longer found
        self.report.counts.drop(reason, where)
        self.report.bad.append((where, str(reason)))
        self.progress.advance()

    def known_vector(self, digest: str) -> Any:
        for segment in self.index.segments:
            row = segment.items.rows_with([digest]).get(digest)
            if row is not None and segment.is_live()[row]:
                return segment.read(np.array([row]))[0]
        return None

    def add(self, item: Item, vector: Any, *, is_new: bool) -> None:
        self._items.append(item)
        self._vectors.append(np.asarray(vector, np.float16))
        self.report.counts.keep()
        self.report.added += is_new
        self.report.moved += not is_new
        self.progress.advance()
        if len(self._items) >= COMMIT_ROWS or time.monotonic() - self._since > COMMIT_SECONDS:
            self.commit()

    def commit(self, vanished: frozenset[tuple[str, str]] = frozenset()) -> None:
        remembered = self.index.entry.sources.get(self.source) == self.how
        if not self._items and not vanished and remembered:
            return
        width = self.index.entry.width
        vectors = np.stack(self._vectors) if self._vectors else np.empty((0, width), np.float16)
        self.index.commit(Change(self._items, vectors, vanished, {self.source: self.how}))
        self._items, self._vectors, self._since = [], [], time.monotonic()
