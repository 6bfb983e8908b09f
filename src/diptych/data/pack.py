"""Packing: any source into a shard set, every image decoded once, every bad pair dropped by its reason.

The bytes do not depend on the number of workers.
"""

import json
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from diptych.core.errors import UsageError
from diptych.core.files.durable import make_folder
from diptych.core.files.locks import locked
from diptych.core.manifest import FileEntry, Manifest, is_done, read_manifest
from diptych.core.progress import Progress
from diptych.core.records import Counts, Pair
from diptych.core.settings import to_mapping
from diptych.data.captions import plain
from diptych.data.images.sandbox import DecoderSettings, decode_all
from diptych.data.shards.index import KIND
from diptych.data.shards.writer import ShardSettings, write_shards
from diptych.data.sources.rows import Source

_SHOWN = 80  # characters of a key in an example of a dropped pair


@dataclass(frozen=True, slots=True)
class PackSettings:
    """How a source is packed.

    Attributes:
        decoding: how images are checked, limits and re-encoding included.
        shards: sizes of the shards; its max_bad_fraction is the share of bad pairs that may be dropped.
        verify_decode: decode every image now, so that training meets none that cannot be.
        workers: decoder processes; 0 decodes in this process, where a crash of the decoder ends everything.
    """

    decoding: DecoderSettings = field(default_factory=DecoderSettings)
    shards: ShardSettings = field(default_factory=lambda: ShardSettings(max_bad_fraction=0.1))
    verify_decode: bool = True
    workers: int = 2


DEFAULT_SETTINGS = PackSettings()


def pack(source: Source, folder: str | Path, *, settings: PackSettings = DEFAULT_SETTINGS) -> Manifest:
    """Pack a source into a new shard set; one that is packed already is left as it is.

    Raises:
        UsageError: the folder holds the pack of another source or of other settings, or is being written.
        TooMuchBadDataError: more pairs were dropped than allowed; nothing is written.
    """
    final = Path(folder)
    make_folder(final.absolute().parent)
    with locked(final, beside=True):
        return _pack(source, final, settings)


def _pack(source: Source, final: Path, settings: PackSettings) -> Manifest:
    inputs = source.inputs()
    recorded = to_mapping(settings)
    recorded.pop("workers")  # says who did the work, not what it was: the bytes are the same for any number
    # Through JSON and back, as the manifest's settings went: tuples are lists there.
    recorded = json.loads(json.dumps(recorded))
    if is_done(final, KIND):
        manifest = read_manifest(final, kind=KIND)
        if difference := _difference(manifest, inputs, recorded):
            what, fix = "this folder holds another pack", "choose another folder, or remove this one"
            expected = f"no pack, or that of {source.name} as it is now, with these settings"
            raise UsageError(what, where=final, found=difference, expected=expected, fix=fix)
        return manifest
    counts = Counts()
    # Closed at once after an error: a traceback would keep the decoders alive as long as it is kept itself.
    with closing(_checked(source, counts, settings)) as pairs:
        recorded = {"source": plain(source.name), **recorded}
        return write_shards(
            pairs, final, settings=settings.shards, counts=counts, inputs=inputs, recorded=recorded
        )


def _difference(manifest: Manifest, inputs: tuple[FileEntry, ...], settings: dict[str, Any]) -> str:
    """Say how a pack differs from the one that is asked for; nothing if it does not."""
    if manifest.inputs != inputs:
        source = manifest.settings.get("source", "another source")
        return f"the pack of {source}, or of it before it was changed"
    changed = [name for name, value in settings.items() if manifest.settings.get(name) != value]
    return f"other settings: {', '.join(changed)}" if changed else ""


def _checked(source: Source, counts: Counts, settings: PackSettings) -> Generator[Pair, None, None]:
    pairs = source.pairs(counts)
    with Progress("packing") as progress:
        if not settings.verify_decode:
            yield from pairs
            return
        decoding, workers = settings.decoding, settings.workers
        for pair, result in decode_all(pairs, lambda pair: pair.image, settings=decoding, workers=workers):
            progress.advance(1, dropped=counts.dropped.total())
            if result.reason is not None:
                counts.drop(result.reason, plain(pair.key[:_SHOWN]))
            else:
                yield pair if result.image is None else replace(pair, image=result.image)
