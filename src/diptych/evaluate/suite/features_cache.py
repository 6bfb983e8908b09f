"""Embed a source's images once, keep the rows on disk, and go on where a killed process stopped.

Rows belong to a model, to data and to a way of reading images; all three name the folder, so rows of two
models can never mix. An unreadable image keeps its place as a row of NaN, and its reason is counted.

Writes: `FOLDER/MODEL-DATA-MODE-KIND/`: `rows.npy` (N, E) float32, opened memory-mapped; `pairs.jsonl` (key,
captions and fields of each row); `manifest.json`, last. While they are made: `part-00000.npz`, ….
"""

import hashlib
import io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from diptych.core.checks import Floats
from diptych.core.errors import EnvironmentFault, IntegrityError, Reason, SettingsError
from diptych.core.files.durable import clean_temporaries, make_folder, remove, write_bytes, writing
from diptych.core.manifest import Manifest, file_entry, is_done, read_manifest, verify, write_manifest
from diptych.core.records import Counts, Pair
from diptych.data.images.limits import DEFAULT_LIMITS, MAX_PIXELS
from diptych.embed.features import EmbeddedPairs
from diptych.models.encode import IMAGE_BATCH, Encoder, EncodeSettings, Precision, image_batches, row_width

if TYPE_CHECKING:
    from diptych.data.sources.open import Source

KIND = "features"
Kind = Literal["embeds", "penultimate"]

PART_ROWS = 1024  # images between two durable steps: minutes on a slow machine, and their files fit in memory
MAX_WAIT_SECONDS = 1800.0  # for the next part of another process: a part of a large model on a slow machine
POLL_SECONDS = 0.2
DIGITS = 16  # of each digest in a folder's name: 64 bits; the manifest holds all of them


@dataclass(frozen=True, slots=True)
class FeatureSettings:
    """How rows are made."""

    precision: Precision = "float32"
    # (rank, world): of `world` processes that fill one folder, this one embeds every world-th part from
    # `rank` on; process 0 joins them. The rows are the same with any number of processes.
    shard: tuple[int, int] = (0, 1)

    def __post_init__(self) -> None:
        rank, world = self.shard
        if not 0 <= rank < world:
            what, found = "no such shard of the images", f"process {rank} of {world}"
            raise SettingsError(what, where="shard", found=found, expected="0 ≤ rank < world")


def cached_pairs(
    model: Encoder,
    source: "Source",
    folder: Path,
    digests: tuple[str, str],
    kind: Kind,
    settings: FeatureSettings,
) -> EmbeddedPairs:
    """Embed a source, or open what was embedded before.

    Args:
        model: the model.
        source: where the images come from; it is read only if something is missing.
        folder: of the rows of all sources and models.
        digests: of the model, and of what `source` reads.
        kind: of rows, see `Encoder.encode_batch`.
        settings: how rows are made.

    Returns:
        The rows, memory-mapped and read-only, with keys, captions and fields in memory.
    """
    # "exact" named rows of files read as they are stored, before there was a choice.
    mode = f"{model.preprocess.reading_name}-{settings.precision}-{kind}"
    if DEFAULT_LIMITS.max_pixels != MAX_PIXELS:
        mode += f"-{DEFAULT_LIMITS.max_pixels}"
    rows_folder = folder / "-".join([*(digest[:DIGITS] for digest in digests), mode])
    facts = {"model": digests[0], "data": digests[1], "rows": mode}
    if not is_done(rows_folder, KIND):
        _fill(model, source, rows_folder, facts, settings, kind)
        if settings.shard[0]:
            _wait(lambda: int(is_done(rows_folder, KIND)), 1, rows_folder)
    elif not settings.shard[0]:
        for leftover in rows_folder.glob("part-*.npz"):  # of a process killed after its last step but one
            remove(leftover)
    return _open(rows_folder, facts)


def _fill(
    model: Encoder,
    source: "Source",
    folder: Path,
    facts: dict[str, Any],
    settings: FeatureSettings,
    kind: Kind,
) -> None:
    started, counts = time.monotonic(), Counts()
    rank, world = settings.shard
    parts: list[Path] = []
    make_folder(folder)
    if world == 1:  # another process may be writing one
        clean_temporaries(folder)
    pairs = source.pairs(counts)
    while chunk := list(islice(pairs, PART_ROWS)):
        part = folder / f"part-{len(parts):05d}.npz"
        if len(parts) % world == rank and not part.is_file():
            write_bytes(part, _embedded(model, chunk, settings.precision, kind))
        parts.append(part)
    if rank:
        return
    _wait(lambda: sum(part.is_file() for part in parts), len(parts), folder)
    files = _join(parts, folder, row_width(model, kind), counts)
    outputs, seconds = tuple(file_entry(path, root=folder) for path in files), time.monotonic() - started
    held = counts.as_dict()
    write_manifest(folder, Manifest(KIND, settings=facts, outputs=outputs, counts=held, seconds=seconds))
    for part in parts:
        remove(part)


def _wait(count: Callable[[], int], wanted: int, folder: Path) -> None:
    """Wait until other processes have embedded their shards."""
    done, since = count(), time.monotonic()
    while done < wanted:
        time.sleep(POLL_SECONDS)
        before, done = done, count()
        if done > before:
            since = time.monotonic()
        elif time.monotonic() - since > MAX_WAIT_SECONDS:
            what, found = (
                "another process that shares the work has not done its part",
                f"{done} of {wanted} parts",
            )
            fix = "start it again; or run without --shard, which uses the parts that are there"
            raise EnvironmentFault(what, where=folder, found=found, fix=fix)


def _embedded(model: Encoder, chunk: Sequence[Pair], precision: Precision, kind: Kind) -> bytes:
    """Return one part as the bytes of an NPZ: rows, the reason of each row that is NaN, the pairs as JSON."""
    rows: list[Floats] = []
    reasons: list[str] = []
    settings = EncodeSettings(precision)
    for batch, bad in image_batches(model, chunk, batch_size=IMAGE_BATCH, settings=settings, output=kind):
        rows.append(batch)
        reasons += [str(bad[row].reason) if row in bad else "" for row in range(len(batch))]
    lines = (json.dumps([pair.key, pair.captions, dict(pair.fields)]) + "\n" for pair in chunk)
    text = np.frombuffer("".join(lines).encode(), dtype=np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, rows=np.concatenate(rows), reasons=np.array(reasons), pairs=text)
    return buffer.getvalue()


def _join(parts: Sequence[Path], folder: Path, width: int, counts: Counts) -> tuple[Path, Path]:
    """Join the parts into the two files, and count the images in them."""
    reasons = [reason for path in parts for reason in _read(path, "reasons").tolist()]
    rows, pairs = folder / "rows.npy", folder / "pairs.jsonl"
    with writing(rows) as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (len(reasons), width)}
        np.lib.format.write_array_header_1_0(file, header)
        for path in parts:
            file.write(np.ascontiguousarray(_read(path, "rows"), dtype="<f4").tobytes())
    with writing(pairs) as file:
        for path in parts:
            file.write(_read(path, "pairs").tobytes())
    for row, reason in enumerate(reasons):
        if reason:
            counts.drop(Reason(reason), where=f"image {row}")
        else:
            counts.keep()
    return rows, pairs


def _read(part: Path, name: str) -> NDArray[Any]:
    with np.load(part, allow_pickle=False) as file:
        array: NDArray[Any] = file[name]
        return array


def _open(folder: Path, facts: dict[str, Any]) -> EmbeddedPairs:
    manifest = verify(folder, read_manifest(folder, KIND))
    if dict(manifest.settings) != facts:
        what, fix = "kept features belong to something else", "remove this folder"
        raise IntegrityError(what, where=folder, found=manifest.settings, expected=facts, fix=fix)
    lines = (folder / "pairs.jsonl").read_text(encoding="utf-8").splitlines()
    keys, captions, fields = zip(*map(json.loads, lines), strict=True) if lines else ((), (), ())
    rows: Floats = np.load(folder / "rows.npy", mmap_mode="r", allow_pickle=False)
    return EmbeddedPairs(keys, rows, tuple(map(tuple, captions)), fields, Counts.from_dict(manifest.counts))


def data_digest(source: "Source", *choices: str) -> str:
    """Return one digest of all that a source reads, wherever it is: equal digests give equal pairs.

    `choices` are what else decides about its pairs, such as the columns of a table.
    """
    entries = [(PurePath(entry.name).name, entry.bytes, entry.sha256) for entry in source.inputs()]
    return hashlib.sha256(json.dumps([entries, choices]).encode()).hexdigest()


def parse_shard(text: str) -> tuple[int, int]:
    """Read a shard as a command takes it.

    >>> parse_shard("1/4")
    (1, 4)
    """
    rank, slash, world = text.partition("/")
    if not (slash and rank.isdecimal() and world.isdecimal()):
        what, expected = "cannot read a shard", "RANK/WORLD, such as 0/2"
        raise SettingsError(what, where="--shard", found=text, expected=expected)
    return int(rank), int(world)
