"""Make one shard set of several: their tars get new numbers, their indexes are put together.

The bytes of the tars stay as they are; where the file system allows it they are linked, not copied.

Reads: finished shard sets. Writes: `NNNNN.tar`, `index.npy` and, last, `manifest.json` in a folder that may
hold other files too.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diptych.core.errors import DataError
from diptych.core.files.durable import link, make_folder
from diptych.core.manifest import FileEntry, Manifest, read_manifest, write_manifest
from diptych.data.shards.index import FORMAT, INDEX_DTYPE, INDEX_NAME, KIND
from diptych.data.shards.writer import shard_name, write_index


def join_shards(parts: Sequence[Path], folder: Path, **manifest_fields: Any) -> Manifest:
    """Join shard sets in their order; keys must be unique over all of them.

    Args:
        parts: folders of finished sets.
        folder: where the joined set is to be.
        told: further fields of the manifest (settings, inputs, counts, seed, seconds).

    Raises:
        DataError: no part has a sample.
        IntegrityError: a part is damaged.
    """
    make_folder(folder)
    entries: list[FileEntry] = []
    samples: list[int] = []
    rows = []
    for part in parts:
        manifest = read_manifest(part, KIND)
        index = np.load(part / INDEX_NAME, allow_pickle=False)
        index["shard"] += len(entries)
        rows.append(index)
        samples += manifest.extra["shard_samples"]
        for entry in manifest.outputs:
            if entry.name == INDEX_NAME:
                continue
            name = shard_name(len(entries))
            link(part / entry.name, folder / name)
            entries.append(FileEntry(name, entry.bytes, entry.sha256))
    if not entries:
        raise DataError(
            "no pair is left to write", where=folder, fix="look at the reasons why pairs were dropped"
        )
    index = write_index(np.concatenate(rows).astype(INDEX_DTYPE), folder)
    joined = Manifest(
        KIND,
        format=FORMAT,
        outputs=(*entries, index),
        extra={"samples": sum(samples), "shard_samples": samples},
        **manifest_fields,
    )
    write_manifest(folder, joined)
    return joined
