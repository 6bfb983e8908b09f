"""Take samples out of a shard set for good: no byte of them stays in any file.

A new set is written beside the old one and the two are exchanged whole, so a reader that opens the set sees
the old one or the new one, never a mix. Shards that held none of the samples are linked, not copied; the
bytes of all other samples stay as they are. A removal that was cut off is simply run again.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.core.errors import DataError, Reason, UsageError
from diptych.core.files.durable import BUFFER_BYTES, clean_temporaries, link, staging_folder, writing
from diptych.core.files.locks import locked
from diptych.core.files.reading import read_text
from diptych.core.manifest import (
    MANIFEST_NAME,
    FileEntry,
    Manifest,
    created_by,
    read_manifest,
    write_manifest,
)
from diptych.data.shards import tar
from diptych.data.shards.index import KIND, Index, Shard, range_digest, shard_name, shards_of, write_index
from diptych.data.shards.reader import ShardSet

_SHOWN = 3  # keys or files in a message


def remove(
    folder: str | Path, keys: Iterable[str], *, reason: str = "", drop_others: bool = False
) -> Manifest:
    """Remove samples from a shard set of `write_shards` by their keys, as `ShardSet.key` returns them.

    Removing what an earlier removal took already does nothing.

    Args:
        folder: the set.
        keys: of the samples.
        reason: why, for the record; it must not name what was removed.
        drop_others: delete whatever else lies in the folder, such as the stages of a curation, which may hold
            the samples too; without it such a folder is refused.

    Returns:
        The manifest of what is left. Its `extra` holds `version`, 1 more than before (a set that was never
        changed is version 1), and `removals`: count, reason and SHA-256 of the removed keys.

    Raises:
        UsageError: not a shard set, a key that is and was not in it, other files in the folder, or another
            command at work on it; nothing is changed then.
        DataError: nothing would be left.
    """
    final = Path(folder).resolve()
    if not final.parent.is_dir():
        read_manifest(final, KIND)  # says that there is no such set
    with locked(final, beside=True):
        return _remove(final, set(keys), reason, drop_others=drop_others)


def _remove(final: Path, wanted: set[str], reason: str, *, drop_others: bool) -> Manifest:
    clean_temporaries(final.parent, only=final.name)
    before = read_manifest(final, KIND)
    started = time.monotonic()
    shards = ShardSet.open(final)
    gone, removed = np.zeros(len(shards), np.bool_), set[str]()
    for number in range(len(shards)):
        if (key := shards.key(number)) in wanted:
            gone[number] = True
            removed.add(key)
    shards.close()
    _refuse_unknown(final, wanted - removed, before)
    if not removed:
        return before
    if not drop_others:
        _refuse_others(final, before)
    if gone.all():
        what, fix = "nothing would be left of the shard set", "remove the whole folder instead"
        raise DataError(what, where=final, found=f"{len(gone)} samples, all named", fix=fix)
    record = {"count": len(removed), "reason": reason, "keys_sha256": sorted(map(_key_digest, removed))}
    with staging_folder(final, replace=True) as staging:
        kept = _rewrite(final, staging, before, gone)
        index = write_index([rows for _, rows in kept], staging)
        after = _recorded(before, kept, index, record)
        write_manifest(staging, replace(after, seconds=round(time.monotonic() - started, 3)))
    return read_manifest(final, KIND)


def read_keys(path: str | Path) -> list[str]:
    """Read keys from a text file, one a line; empty lines are none."""
    try:
        lines = read_text(path).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError("cannot read the file of keys", where=path, found=str(error)[:200]) from error
    return [line.strip() for line in lines if line.strip()]


def _refuse_unknown(folder: Path, unknown: set[str], manifest: Manifest) -> None:
    """Refuse keys that were never there: a typing mistake must not look like a removal."""
    removed = {digest for record in manifest.extra.get("removals", ()) for digest in record["keys_sha256"]}
    unknown = {key for key in unknown if _key_digest(key) not in removed}
    if unknown:
        what, fix = "the shard set has no such keys", "check the keys; nothing was removed"
        raise UsageError(what, where=folder, found=_first(unknown), expected="keys of its samples", fix=fix)


def _refuse_others(folder: Path, manifest: Manifest) -> None:
    own = {MANIFEST_NAME, *(entry.name for entry in manifest.outputs)}
    others = {path.name for path in folder.iterdir()} - own
    if others:
        what = "the folder holds more than the shard set, and that may hold the samples too"
        fix = "move what you need elsewhere and allow the rest to be deleted (--drop-others)"
        expected = "tars, an index and a manifest"
        raise UsageError(what, where=folder, found=_first(others), expected=expected, fix=fix)


def _first(names: set[str]) -> str:
    return ", ".join(sorted(names)[:_SHOWN]) + (" …" if len(names) > _SHOWN else "")


def _key_digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _rewrite(folder: Path, staging: Path, manifest: Manifest, gone: npt.NDArray[np.bool_]) -> list[Shard]:
    """Write the shards again without the samples that are gone."""
    shards: list[Shard] = []
    first = 0
    for entry, rows in shards_of(folder, manifest):
        here = gone[first : first + len(rows)]
        first += len(rows)
        if here.all():
            continue
        kept, name = rows[~here], shard_name(len(shards))
        kept["shard"] = len(shards)
        if here.any():
            entry = _copy_samples(folder / entry.name, staging / name, kept)
        else:
            link(folder / entry.name, staging / name)
        shards.append((replace(entry, name=name), kept))
    return shards


def _copy_samples(source: Path, target: Path, rows: Index) -> FileEntry:
    """Copy the byte ranges of the rows into a new shard, end it, and set the rows right."""
    digest, size = hashlib.sha256(), 0
    with source.open("rb", buffering=BUFFER_BYTES) as old, writing(target) as new:
        whole = source.stat().st_size
        for number, row in enumerate(rows):
            old.seek(int(row["offset"]))
            length = int(row["length"])
            if int(row["offset"]) + length == whole:  # the last sample's range takes in the archive's end
                length -= len(tar.END)
            data = old.read(length) + (tar.END if number == len(rows) - 1 else b"")
            if len(data) != int(row["length"]):
                rows["digest"][number] = range_digest(data)
            rows["offset"][number], rows["length"][number] = size, len(data)
            new.write(data)
            digest.update(data)
            size += len(data)
    return FileEntry(target.name, size, digest.hexdigest())


def _recorded(before: Manifest, shards: list[Shard], index: FileEntry, record: dict[str, Any]) -> Manifest:
    """Return the next manifest: version, record, and counts that no longer quote what may be removed."""
    counts, removed = dict(before.counts), record["count"]
    if counts:
        dropped = Counter(counts.get("dropped", {}))
        dropped[str(Reason.REMOVED)] += removed
        counts |= {"out": counts["out"] - removed, "dropped": dict(dropped)}
    samples = [len(rows) for _, rows in shards]
    extra = {
        **before.extra,
        "samples": sum(samples),
        "shard_samples": samples,
        "version": before.extra.get("version", 1) + 1,
        "removals": [*before.extra.get("removals", ()), record],
    }
    outputs = (*(entry for entry, _ in shards), index)
    return replace(before, outputs=outputs, counts=counts, extra=extra, created_by=created_by())
