"""Embed a source's images once, keep the rows on disk, and go on where a killed process stopped.

Rows belong to a model, to data and to a way of making pixels; all three name the folder, so rows of two
models can never mix. An unreadable image keeps its place as a row of NaN, and its reason is counted.

Writes: `FOLDER/MODEL-DATA-MODE-KIND/`: `rows.npy` (N, E) float32, opened memory-mapped; `pairs.jsonl` (key,
captions and fields of each row); `manifest.json`, last. While they are made: `part-00000.npz`, ….
"""

import hashlib
import io
import json
import time
from collections.abc import Callable, Iterator, Sequence
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
from diptych.data.images.transforms import Mode
from diptych.embed.features import EmbeddedPairs
from diptych.models.encode import (
    IMAGE_BATCH,
    Encoder,
    EncodeSettings,
    Precision,
    image_batches,
    row_width,
)

if TYPE_CHECKING:
    from diptych.data.sources.open import Source

KIND = "features"
Kind = Literal["embeds", "penultimate"]

PART_ROWS = 1024
"""Images between two durable steps: minutes of work on a slow machine, and their files fit in memory."""

PATIENCE_SECONDS = 1800.0
"""How long a process waits for the next part of another one: a part of a large model on a slow machine."""

POLL_SECONDS = 0.2

DIGITS = 16
"""Of each digest in a folder's name: 64 bits; the receipt holds all of them."""


@dataclass(frozen=True, slots=True)
class FeatureSettings:
    """How rows are made.

    Attributes:
        preprocessing: "exact" where scores are compared with published ones.
        precision: what the image tower computes in.
        batch_size: images per step; no row depends on it beyond rounding.
        workers: decoding threads.
        shard: (rank, world): of `world` processes that fill one folder, this one embeds every world-th part
            from `rank` on; process 0 joins them. The rows are the same with any number of processes.
    """

    preprocessing: Mode = "exact"
    precision: Precision = "float32"
    batch_size: int = IMAGE_BATCH
    workers: int = 2
    shard: tuple[int, int] = (0, 1)

    def __post_init__(self) -> None:
        rank, world = self.shard
        if not 0 <= rank < world:
            raise SettingsError(
                "no such shard of the images",
                where="shard",
                found=f"process {rank} of {world}",
                expected="0 ≤ rank < world",
            )


def cached_pairs(
    model: Encoder,
    source: "Source",
    folder: Path,
    *,
    model_digest: str,
    data_digest: str,
    kind: Kind = "embeds",
    settings: FeatureSettings | None = None,
) -> EmbeddedPairs:
    """Embed a source, or open what was embedded before.

    Args:
        model: the model.
        source: where the images come from; it is read only if something is missing.
        folder: that keeps the rows of all sources and models.
        model_digest: of the model.
        data_digest: of what `source` reads.
        kind: which rows, see `Encoder.encode_batch`.
        settings: how rows are made.

    Returns:
        The rows, memory-mapped and read-only, with keys, captions and fields in memory.

    Raises:
        IntegrityError: kept rows are damaged, or belong to something else.
    """
    settings = settings or FeatureSettings()
    mode = f"{settings.preprocessing}-{settings.precision}-{kind}"
    if DEFAULT_LIMITS.max_pixels != MAX_PIXELS:
        mode += f"-{DEFAULT_LIMITS.max_pixels}"
    place = folder / f"{model_digest[:DIGITS]}-{data_digest[:DIGITS]}-{mode}"
    told = {"model": model_digest, "data": data_digest, "rows": mode}
    if not is_done(place, KIND):
        _fill(model, source, place, told, settings, kind)
        if settings.shard[0]:
            _wait(lambda: int(is_done(place, KIND)), 1, place)
    elif not settings.shard[0]:
        for leftover in place.glob("part-*.npz"):  # of a process that was killed after its last step but one
            remove(leftover)
    return _open(place, told)


def _fill(
    model: Encoder,
    source: "Source",
    place: Path,
    told: dict[str, Any],
    settings: FeatureSettings,
    kind: Kind,
) -> None:
    started = time.monotonic()
    (rank, world), parts = settings.shard, []
    make_folder(place)
    if world == 1:  # another process may be writing one
        clean_temporaries(place)
    counts = Counts()
    for number, chunk in enumerate(_chunks(source.pairs(counts))):
        part = place / f"part-{number:05d}.npz"
        parts.append(part)
        if number % world == rank and not part.is_file():
            write_bytes(part, _embedded(model, chunk, settings, kind))
    if rank:
        return
    _wait(lambda: sum(part.is_file() for part in parts), len(parts), place)
    entries = _assemble(parts, place, row_width(model, kind), counts)
    manifest = Manifest(
        KIND,
        settings=told,
        outputs=tuple(entries),
        counts=counts.as_dict(),
        seconds=time.monotonic() - started,
    )
    write_manifest(place, manifest)
    for part in parts:
        remove(part)


def _wait(count: Callable[[], int], wanted: int, place: Path) -> None:
    """Wait until other processes have done their share.

    Raises:
        EnvironmentFault: nothing has come for a long time.
    """
    found, since = count(), time.monotonic()
    while found < wanted:
        time.sleep(POLL_SECONDS)
        before, found = found, count()
        if found > before:
            since = time.monotonic()
        elif time.monotonic() - since > PATIENCE_SECONDS:
            raise EnvironmentFault(
                "another process that shares the work has not done its part",
                where=place,
                found=f"{found} of {wanted} parts",
                fix="start it again; or run without --shard, which uses the parts that are there",
            )


def _chunks(pairs: Iterator[Pair]) -> Iterator[list[Pair]]:
    while chunk := list(islice(pairs, PART_ROWS)):
        yield chunk


def _embedded(model: Encoder, chunk: Sequence[Pair], settings: FeatureSettings, kind: Kind) -> bytes:
    """Return one part as the bytes of an NPZ: rows, the reason of each row that is NaN, the pairs as JSON."""
    encoding = EncodeSettings(settings.precision, settings.preprocessing, workers=settings.workers)
    rows: list[Floats] = []
    reasons = [""] * len(chunk)
    start = 0
    for batch, bad in image_batches(
        model, chunk, batch_size=settings.batch_size, settings=encoding, output=kind
    ):
        for row, image in bad.items():
            reasons[start + row] = str(image.reason)
        start += len(batch)
        rows.append(batch)
    lines = [json.dumps([pair.key, pair.captions, dict(pair.fields)]) for pair in chunk]
    buffer = io.BytesIO()
    text = np.frombuffer("".join(f"{line}\n" for line in lines).encode(), dtype=np.uint8)
    np.savez(buffer, rows=np.concatenate(rows), reasons=np.array(reasons), pairs=text)
    return buffer.getvalue()


def _assemble(parts: Sequence[Path], place: Path, width: int, counts: Counts) -> list[Any]:
    """Join the parts into the two files, and count the images in them."""
    reasons: list[str] = []
    for path in parts:
        reasons += _part(path)["reasons"].tolist()
    rows = place / "rows.npy"
    with writing(rows) as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (len(reasons), width)}
        np.lib.format.write_array_header_1_0(file, header)
        for path in parts:
            file.write(np.ascontiguousarray(_part(path)["rows"], dtype="<f4").tobytes())
    with writing(place / "pairs.jsonl") as file:
        for path in parts:
            file.write(_part(path)["pairs"].tobytes())
    for row, reason in enumerate(reasons):
        if reason:
            counts.drop(Reason(reason), where=f"image {row}")
        else:
            counts.keep()
    return [file_entry(path, root=place) for path in (rows, place / "pairs.jsonl")]


def _part(path: Path) -> dict[str, NDArray[Any]]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in ("rows", "reasons", "pairs")}


def _open(place: Path, told: dict[str, Any]) -> EmbeddedPairs:
    manifest = verify(place, read_manifest(place, KIND))
    if dict(manifest.settings) != told:
        raise IntegrityError(
            "kept features belong to something else",
            where=place,
            found=manifest.settings,
            expected=told,
            fix="remove this folder",
        )
    lines = (place / "pairs.jsonl").read_text(encoding="utf-8").splitlines()
    keys, captions, fields = [], [], []
    for line in lines:
        key, of_pair, columns = json.loads(line)
        keys.append(key)
        captions.append(tuple(of_pair))
        fields.append(columns)
    rows: Floats = np.load(place / "rows.npy", mmap_mode="r", allow_pickle=False)
    return EmbeddedPairs(tuple(keys), rows, tuple(captions), tuple(fields), Counts.from_dict(manifest.counts))


def data_digest(source: "Source", *choices: str) -> str:
    """Return one digest of everything that a source reads: equal digests give equal pairs.

    Args:
        source: the source; where it lies does not count.
        choices: what else decides about its pairs, such as the columns of a table.
    """
    entries = [(PurePath(entry.name).name, entry.bytes, entry.sha256) for entry in source.inputs()]
    told = json.dumps([entries, choices])
    return hashlib.sha256(told.encode()).hexdigest()


def parse_shard(text: str) -> tuple[int, int]:
    """Read a shard as a command takes it.

    Raises:
        SettingsError: it is none.

    >>> parse_shard("1/4")
    (1, 4)
    """
    rank, slash, world = text.partition("/")
    if not (slash and rank.isdecimal() and world.isdecimal()):
        raise SettingsError(
            "cannot read a shard", where="--shard", found=text, expected="RANK/WORLD, such as 0/2"
        )
    return int(rank), int(world)
