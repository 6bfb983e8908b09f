"""Stages of a curation and their partitions: finished ones are never run again; a kill costs one partition.

A stage is a folder, `stages/NAME` of a curation. Its work is cut into numbered, independent partitions, which
any engine may run anywhere in any order. A partition writes its tables (`NNNNN….parquet`) and, last, its
manifest (`NNNNN.json`: files with digests, counts, seconds); when all have one, the stage's `manifest.json`
is written. The same input makes the same bytes on every engine.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from diptych.core.checks import Bools
from diptych.core.errors import IntegrityError, Reason, SettingsError, UsageError
from diptych.core.files.durable import make_folder, save_array, write_json, writing
from diptych.core.files.reading import load_array, read_json
from diptych.core.manifest import (
    FileEntry,
    Manifest,
    content_digest,
    file_entry,
    is_done,
    read_manifest,
    write_manifest,
)
from diptych.core.progress import Progress
from diptych.core.records import Counts
from diptych.core.settings import from_mapping
from diptych.curate.candidates.candidates import Partition
from diptych.curate.pipeline.recipe import CurateRecipe

T = TypeVar("T")
STAGES_FOLDER = "stages"
KIND = "curate-"  # followed by the stage's name: the kind in its manifest
PARTITIONS_FILE = "partitions.json"

Write = Callable[[str, pa.Table], None]  # how a partition hands a table over: a name that sorts, and the rows


@dataclass(frozen=True, slots=True)
class CutSources:
    """The partitions that the sources of candidates were cut into."""

    partitions: tuple[Partition, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """One curation: its folder and its recipe, and what its stages hold."""

    folder: Path
    recipe: CurateRecipe

    def stage(self, name: str) -> Path:
        """Return the folder of a stage."""
        return self.folder / STAGES_FOLDER / name

    def partitions(self) -> tuple[Partition, ...]:
        """Return the partitions of the candidates, one table each; all stages after have as many."""
        path, fix = self.stage("candidates") / PARTITIONS_FILE, "begin the curation again in another folder"
        return _read_typed(CutSources, path, fix=fix).partitions

    def table(self, name: str, number: int, columns: list[str] | None = None) -> pa.Table:
        """Read the table of one partition of a finished stage."""
        return read_table(self.stage(name) / f"{number:05d}.parquet", columns)

    def tables(self, name: str, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """Read the tables of all partitions of a finished stage one after the other."""
        return (self.table(name, number, columns) for number in range(len(self.partitions())))

    def array(self, stage: str, name: str) -> NDArray[Any]:
        """Map an array of a stage."""
        return load_array(self.stage(stage) / f"{name}.npy")

    def save_arrays(self, stage: str, **arrays: NDArray[Any]) -> None:
        """Write arrays of a stage under their names."""
        for name, array in arrays.items():
            save_array(self.stage(stage) / f"{name}.npy", array)


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage: how its partitions are prepared, run and finished.

    Attributes:
        needs: stages that must be done before.
        work: does one partition: writes its tables, returns its counts.
        prepare: runs before any partition starts; files it leaves in the folder are the stage's.
        partitions: how many there are; read after `prepare`.
        finish: runs when all partitions are done; returns what else the manifest should hold.
        inputs: files from outside that the stage reads.
    """

    name: str
    needs: tuple[str, ...]
    work: Callable[[Run, int, Write], Counts]
    prepare: Callable[[Run], object] = lambda _: None
    partitions: Callable[[Run], int] = lambda run: len(run.partitions())
    finish: Callable[[Run], dict[str, Any]] = lambda _: {}
    inputs: Callable[[Run], tuple[FileEntry, ...]] = lambda _: ()


@dataclass(frozen=True, slots=True)
class PartitionManifest:
    """The files, counts (`Counts.as_dict`) and seconds of a finished partition."""

    files: tuple[FileEntry, ...]
    counts: dict[str, Any]
    seconds: float


def run_stage(
    run: Run, stage: Stage, run_partitions: Callable[[Stage, Sequence[int]], Iterator[Counts]]
) -> Manifest:
    """Do what is left of one stage, and return its manifest."""
    folder = run.stage(stage.name)
    if is_done(folder, KIND + stage.name):
        return read_manifest(folder, KIND + stage.name)
    missing = next((name for name in stage.needs if not is_done(run.stage(name), KIND + name)), None)
    if missing is not None:
        raise UsageError(
            f"stage {stage.name!r} needs another one first",
            where=run.folder,
            expected=f"stage {missing!r} done",
            fix=f"diptych curate {missing} RECIPE --out {run.folder}",
        )
    started = time.monotonic()
    make_folder(folder)
    stage.prepare(run)
    prepared = time.monotonic() - started
    left = [n for n in range(stage.partitions(run)) if not _manifest_path(folder, n).is_file()]
    with Progress(stage.name) as progress:
        for counts in run_partitions(stage, left):
            progress.advance(counts.seen, dropped=counts.dropped.total())
    manifest = _manifest(run, stage, prepared, started)
    write_manifest(folder, manifest)
    return manifest


def run_partition(run: Run, stage: Stage, number: int) -> Counts:
    """Run one partition and write its manifest last; running it again writes the same bytes."""
    started = time.monotonic()
    folder = make_folder(run.stage(stage.name))
    files: list[FileEntry] = []

    def write(name: str, table: pa.Table) -> None:
        path = folder / f"{number:05d}{name}.parquet"
        write_table(path, table)
        files.append(file_entry(path, root=folder))

    counts = stage.work(run, number, write)
    counts.check(max_bad_fraction=1.0)
    manifest = PartitionManifest(tuple(files), counts.as_dict(), round(time.monotonic() - started, 3))
    write_json(_manifest_path(folder, number), asdict(manifest))
    return counts


def _manifest(run: Run, stage: Stage, prepared: float, started: float) -> Manifest:
    """Finish a stage whose partitions are all done; interruptions are not in its seconds."""
    folder, counts, partition_seconds = run.stage(stage.name), Counts(), 0.0
    known: dict[str, FileEntry] = {}
    partitions = stage.partitions(run)
    for number in range(partitions):
        path, fix = _manifest_path(folder, number), "remove it, and go on with --resume"
        part = _read_typed(PartitionManifest, path, fix=fix)
        counts.merge(Counts.from_dict(part.counts))
        partition_seconds += part.seconds
        known |= {entry.name: entry for entry in part.files}
    finishing = time.monotonic()
    extra = stage.finish(run)
    extra |= {
        "partitions": partitions,
        "partition_seconds": round(partition_seconds, 3),
        "alone_seconds": round(prepared + time.monotonic() - finishing, 3),
    }
    before = [
        FileEntry(f"{STAGES_FOLDER}/{name}", 0, content_digest(read_manifest(run.stage(name))))
        for name in stage.needs
    ]
    return Manifest(
        KIND + stage.name,
        inputs=(*stage.inputs(run), *before),
        outputs=tuple(
            known.get(path.name) or file_entry(path, root=folder)
            for path in sorted(folder.iterdir())
            if path.is_file() and path.suffix != ".json"
        ),
        counts=counts.as_dict(),
        seconds=round(time.monotonic() - started, 3),
        extra=extra,
    )


def count_rows(keys: pa.Array | pa.ChunkedArray, dropped: Mapping[Reason, Bools]) -> Counts:
    """Count the rows of a partition: by reason which (N,) are dropped, under their keys; the rest is kept."""
    counts = Counts()
    for reason, rows in dropped.items():
        for row in np.flatnonzero(rows).tolist():
            counts.drop(reason, keys[row].as_py())
    counts.keep(len(keys) - counts.seen)
    return counts


def rows_table(rows: NDArray[Any], **columns: pa.Array) -> pa.Table:
    """Return a table of row numbers and what belongs to them."""
    return pa.table({"row": pa.array(rows, pa.int32()), **columns})


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table durably as Parquet; equal tables make equal bytes."""
    with writing(path) as file:
        # Dictionaries pay for neither captions nor images, of which no two are the same; and images are
        # compressed already: trying again took a third of the time of fetching them.
        packing = {one.name: "none" if one.type == pa.binary() else "zstd" for one in table.schema}
        pq.write_table(table, file, compression=packing, use_dictionary=False)


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read one table; an unreadable file is an `IntegrityError`."""
    try:
        return pq.read_table(path, columns=columns)
    except (OSError, pa.ArrowInvalid) as error:
        fix = "remove the folders of this stage and those after it, and go on with --resume"
        what, found = "a table of a stage cannot be read", str(error)[:200]
        raise IntegrityError(what, where=path, found=found, fix=fix) from error


def _read_typed(kind: type[T], path: Path, *, fix: str) -> T:
    """Read a small JSON file of a stage into its dataclass; values of other types are an `IntegrityError`."""
    try:
        return from_mapping(kind, read_json(path, fix=fix))
    except SettingsError as error:
        what = "a file of a stage is damaged"
        raise IntegrityError(what, where=path, found=str(error)[:200], fix=fix) from error


def _manifest_path(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.json"
