"""An index: images as rows of unit length, in a folder that changes while others read it.

Rows stand in segments that are never changed. `manifest.json` lists the segments and is replaced in one step:
whoever opened the index before sees what it saw then, whoever opens it later the new state, and a killed
writer leaves the old one. A change writes one new segment and takes small ones into it, so there are few. An
image that changed, moved or was found at a second place gets a new row; its old one is listed as removed.

Rows can be compared only with what the same model embeds: an index remembers its model, and how images were
read. Writes: `manifest.json` and `segments/NAME/` (see `segments`).
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diptych.core import checks
from diptych.core.errors import EnvironmentFault, IntegrityError, UsageError
from diptych.core.files.durable import clean_temporaries, make_folder, remove
from diptych.core.files.locks import locked
from diptych.core.manifest import MANIFEST_NAME, Manifest, is_done, read_manifest, write_manifest
from diptych.core.settings import from_mapping
from diptych.search.items import Item, Place
from diptych.search.segments import Halves, Segment, SegmentEntry, write_segment

if TYPE_CHECKING:
    from diptych.models.model import Model

KIND, FORMAT = "index", 3  # formats 1 and 2 were made of one source, and could not change
SEGMENTS = "segments"
MAX_ROWS = 1 << 20  # of a segment
ABSORB = 2  # a change takes in the newest segments as long as each is at most so many times what it has
WAIT_SECONDS = 60.0  # for another writer's commit
TRIES = 5  # a writer may remove a segment between the reading of the manifest and its opening


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """What the manifest says besides its common parts.

    Attributes:
        model: as it was named when the index was made.
        model_digest: of the model, with the way it reads images.
        width: E.
        segments: the live ones, oldest first.
        next_segment: number of the next one.
        sources: what was indexed, name -> how it is read.
    """

    model: str
    model_digest: str
    width: int
    segments: tuple[SegmentEntry, ...] = ()
    next_segment: int = 1
    sources: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Change:
    """What one commit changes.

    Attributes:
        items: new ones, or known ones with other places or facts.
        vectors: (n, E) float16 of unit length, their rows.
        vanished: places that no longer hold an image.
        sources: sources to remember, name -> how it is read.
        forgotten: sources to forget with all that was in them.
    """

    items: Sequence[Item] = ()
    vectors: Halves = field(default_factory=lambda: np.empty((0, 0), np.float16))
    vanished: frozenset[tuple[str, str]] = frozenset()
    sources: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    forgotten: frozenset[str] = frozenset()


class Index:
    """An open index, as it was when it was opened or refreshed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.segments = folder, list[Segment]()
        self._load()

    @classmethod
    def open(cls, folder: str | Path) -> "Index":
        """Open an index.

        Raises:
            UsageError: there is none, or it is of an earlier format.
            IntegrityError: a file is not what was written.
        """
        return cls(Path(folder))

    @classmethod
    def create(cls, folder: str | Path, model: "Model", name: str) -> "Index":
        """Make an empty index for a model, or open the one that is there if it is the same model's."""
        folder = Path(folder)
        if is_done(folder, KIND):
            index = cls(folder)
            index.read_alike(model)
            return index
        if folder.is_dir() and any(folder.iterdir()):
            what, fix = "this folder holds something else", "name a new one"
            raise UsageError(what, where=folder, expected="an index, or nothing", fix=fix)
        make_folder(folder)
        entry = IndexEntry(name, model.digest, int(model.config.embed_dim))
        settings = dict(model.preprocess.reading)
        with locked(folder):
            write_manifest(folder, Manifest(KIND, FORMAT, settings=settings, extra=asdict(entry)))
        return cls(folder)

    def __len__(self) -> int:
        return sum(segment.entry.live for segment in self.segments)

    def close(self) -> None:
        """Close all files."""
        for segment in self.segments:
            segment.close()
        self.segments = []

    def refresh(self) -> None:
        """Show what the index holds now; segments that are still listed stay open."""
        if _read(self.folder).extra != self.manifest.extra:
            self._load()

    def read_alike(self, model: "Model") -> "Model":
        """Return the model, with images read as those of this index were.

        Raises:
            IntegrityError: another model made the index.
        """
        settings = self.manifest.settings
        alike = model.reading(settings["orientation"], scaled_jpeg=settings["scaled_jpeg"])
        if alike.digest != self.entry.model_digest:
            raise IntegrityError(
                "this index was made by another model, so its rows cannot be compared with this one's",
                where=self.folder,
                found=f"model {self.entry.model_digest}",
                expected=alike.digest,
                fix=f"use the model that made it ({self.entry.model}), or make another index",
            )
        return alike

    def commit(self, change: Change) -> None:
        """Add and remove, in one step; what another writer did meanwhile is kept.

        Raises:
            UsageError: another command is writing in the index.
            ArrayError: a row is not of unit length.
        """
        if len(change.items):
            checks.rows(change.vectors, "vectors", width=self.entry.width, unit=True)
            checks.same_length(change.vectors, "vectors", len(change.items))
        with _held(self.folder):
            self.refresh()
            clean_temporaries(self.folder)
            self._sweep()
            self._commit(change)
        self.refresh()

    def compact(self) -> None:
        """Write all rows anew in as few segments as can be, without the removed ones."""
        with _held(self.folder):
            self.refresh()
            rows = _Rows()
            entries: list[SegmentEntry] = []
            number = self.entry.next_segment
            for segment in self.segments:
                rows.add_segment(segment)
                while len(rows) > MAX_ROWS:
                    entries.append(self._segment(number, rows.take(MAX_ROWS)))
                    number += 1
            if len(rows):
                entries.append(self._segment(number, rows))
                number += 1
            self._replace(replace(self.entry, segments=tuple(entries), next_segment=number))
            self.refresh()
            self._sweep()

    def verify(self) -> None:
        """Hold every byte of the index against its manifest."""
        for segment in self.segments:
            segment.verify()

    def items(self) -> Iterator[Item]:
        """Yield every item of the index."""
        for segment in self.segments:
            yield from segment.items.get(np.flatnonzero(segment.is_live()).tolist())

    def columns(self) -> list[str]:
        """Return the names of the sources' columns."""
        return list(dict.fromkeys(name for segment in self.segments for name in segment.items.columns))

    def _load(self) -> None:
        for attempt in range(TRIES):
            self.manifest = _read(self.folder)
            self.entry = from_mapping(IndexEntry, self.manifest.extra, where=self.folder / MANIFEST_NAME)
            try:
                self._open_segments()
                return
            except (IntegrityError, EnvironmentFault, FileNotFoundError):
                if attempt == TRIES - 1 or _read(self.folder).extra == self.manifest.extra:
                    self.close()
                    raise

    def _open_segments(self) -> None:
        before = {segment.entry.name: segment for segment in self.segments}
        listed = {entry.name for entry in self.entry.segments}
        for name in before.keys() - listed:
            before[name].close()
        self.segments = [before[name] for name in before if name in listed]
        for entry in self.entry.segments:
            if entry.name in before:
                before[entry.name].entry = entry
            else:
                self.segments.append(Segment(self.folder / SEGMENTS / entry.name, entry))

    def _commit(self, change: Change) -> None:
        new = _Rows()
        taken: dict[str, int] = {}
        for item, vector in zip(change.items, change.vectors, strict=True):
            if item.digest in taken and item.seconds is None:
                new.join(taken[item.digest], item.places)
                continue
            taken[item.digest] = len(new)
            new.add(item, vector)
        gone = change.vanished | {place.id for item in change.items for place in item.places}
        removed: dict[str, set[int]] = {}
        for segment in self.segments:
            alive = segment.is_live()
            touched = {row for row in segment.items.rows_of(gone) if alive[row]}
            for name in change.forgotten:
                touched |= {row for row, _, _ in segment.items.places(name) if alive[row]}
            known = {d: row for d, row in segment.items.rows_with(list(taken)).items() if alive[row]}
            rows = sorted(touched | set(known.values()))
            for row, item in zip(rows, segment.items.get(rows), strict=True):
                left = tuple(p for p in item.places if p.id not in gone and p.source not in change.forgotten)
                if item.digest in known and item.seconds is None:
                    new.join(taken[item.digest], left)
                elif left:
                    new.add(replace(item, places=left), segment.read(np.array([row]))[0])
            removed[segment.entry.name] = set(rows)
        self._write_change(change, new, removed)

    def _write_change(self, change: Change, new: "_Rows", removed: Mapping[str, set[int]]) -> None:
        kept = [
            replace(s.entry, removed=tuple(sorted({*s.entry.removed, *removed[s.entry.name]})))
            for s in self.segments
        ]
        by_name = {segment.entry.name: segment for segment in self.segments}
        while kept and (not kept[-1].live or (len(new) and kept[-1].live <= ABSORB * len(new))):
            if kept[-1].live + len(new) > MAX_ROWS:
                break
            entry = kept.pop()
            new.add_segment(by_name[entry.name], entry)
        number = self.entry.next_segment
        if len(new):
            kept.append(self._segment(number, new))
        sources = {name: how for name, how in self.entry.sources.items() if name not in change.forgotten}
        self._replace(
            replace(
                self.entry,
                segments=tuple(entry for entry in kept if entry.live),
                next_segment=number + 1,
                sources={**sources, **change.sources},
            )
        )

    def _segment(self, number: int, rows: "_Rows") -> SegmentEntry:
        return write_segment(self.folder / SEGMENTS / f"{number:06}", np.stack(rows.vectors), rows.items)

    def _replace(self, entry: IndexEntry) -> None:
        write_manifest(self.folder, replace(self.manifest, extra=asdict(entry)))

    def _sweep(self) -> None:
        """Remove segments that no manifest lists: those of killed writers, and those that were taken in."""
        listed = {entry.name for entry in self.entry.segments}
        for path in sorted((self.folder / SEGMENTS).glob("*")):
            if path.name not in listed:
                with suppress(FileNotFoundError):
                    remove(path)


class _Rows:
    """Rows and their items on their way into a segment."""

    def __init__(self) -> None:
        self.vectors: list[Any] = []
        self.items: list[Item] = []

    def __len__(self) -> int:
        return len(self.items)

    def add(self, item: Item, vector: Any) -> None:
        self.items.append(item)
        self.vectors.append(np.asarray(vector, np.float16))

    def join(self, row: int, places: Sequence[Place]) -> None:
        """Give an item further places."""
        own = {place.id: place for place in (*self.items[row].places, *places)}
        self.items[row] = replace(self.items[row], places=tuple(own.values()))

    def add_segment(self, segment: Segment, entry: SegmentEntry | None = None) -> None:
        """Take over the live rows of a segment."""
        removed = set((entry or segment.entry).removed)
        rows = [row for row in range(segment.rows) if row not in removed]
        for part in segment.vectors(np.array(rows, np.int64)):
            self.vectors.extend(part)
        self.items.extend(segment.items.get(rows))

    def take(self, count: int) -> "_Rows":
        """Split off the first rows."""
        first = _Rows()
        first.vectors, self.vectors = self.vectors[:count], self.vectors[count:]
        first.items, self.items = self.items[:count], self.items[count:]
        return first


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold the index, after another writer's commit if there is one."""
    end = time.monotonic() + WAIT_SECONDS
    with ExitStack() as held:
        while not _entered(held, folder, last=time.monotonic() > end):
            time.sleep(0.02)
        yield


def _entered(held: ExitStack, folder: Path, *, last: bool) -> bool:
    try:
        held.enter_context(locked(folder))
    except UsageError:
        if last:
            raise
        return False
    return True


def _read(folder: Path) -> Manifest:
    manifest = read_manifest(folder, KIND)
    if manifest.format != FORMAT:
        raise UsageError(
            "this index is of another format",
            where=folder,
            found=f"format {manifest.format}",
            expected=f"format {FORMAT}",
            fix="make it again: diptych index add INDEX SOURCE --model MODEL",
        )
    return manifest
