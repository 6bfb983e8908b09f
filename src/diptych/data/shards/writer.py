"""Writing shards: pairs in, WebDataset-layout tars, their index and their manifest out.

The bytes depend on the pairs and the settings alone, so equal pairs make equal shards.
"""

import hashlib
import json
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from diptych.core.errors import BadSampleError, DataError, Reason
from diptych.core.files import durable as files
from diptych.core.manifest import FileEntry, Manifest, read_manifest, write_manifest
from diptych.core.records import Counts, Pair
from diptych.core.settings import to_mapping
from diptych.data.captions import fields_of
from diptych.data.images.formats import image_extension
from diptych.data.shards import tar
from diptych.data.shards.index import (
    FORMAT,
    INDEX_DTYPE,
    KIND,
    MAX_SAMPLE_BYTES,
    Shard,
    range_digest,
    shard_name,
    shards_of,
    write_index,
)

_MAX_KEY_BYTES = 80  # leaves room for the extension in ustar's 100 bytes, so our own names never need pax
_UNSAFE = re.compile(r"[^A-Za-z0-9_\-]+")


@dataclass(frozen=True, slots=True)
class ShardSettings:
    """How shards are cut.

    Attributes:
        max_bytes: a shard is closed before it passes this size; one larger sample still gets a shard of its
            own.
        max_samples: a shard is closed at this many samples.
        max_bad_fraction: share of dropped pairs above which nothing is written.
    """

    max_bytes: int = 256 * 2**20
    max_samples: int = 10_000
    max_bad_fraction: float = 1.0


DEFAULT_SETTINGS = ShardSettings()


def write_shards(
    pairs: Iterable[Pair],
    folder: str | Path,
    *,
    settings: ShardSettings = DEFAULT_SETTINGS,
    counts: Counts | None = None,
    inputs: tuple[FileEntry, ...] = (),
    recorded: Mapping[str, Any] | None = None,
    seed: int | None = None,
) -> Manifest:
    """Write pairs, in their order, into a new shard set, all of it or nothing.

    Args:
        pairs: read once.
        folder: must not exist yet, or be empty.
        settings: sizes of the shards and the allowed rate of dropped pairs.
        counts: where kept and dropped pairs are counted; the pairs' source may count its own drops there.
        inputs: the files that the pairs came from, for the manifest.
        recorded: the settings that the manifest should carry; those of the shards when left out.
        seed: the seed behind the pairs, if one was.
    """
    started = time.monotonic()
    counts = Counts() if counts is None else counts
    final = Path(folder)
    with files.staging_folder(final) as staging:
        with ExitStack() as stack:
            writer = _Writer(staging, settings, stack)
            for pair in pairs:
                writer.add(pair, counts)
            writer.close()
        counts.check(settings.max_bad_fraction)
        if not writer.shards:
            found = f"{counts.seen} seen, all dropped ({counts.reasons()})" if counts.seen else "none seen"
            what, fix = "no pair is left to write", f"repair the source{counts.settings()}"
            raise DataError(what, where=final, found=found, expected="at least one", fix=fix)
        return _finish(
            staging,
            writer.shards,
            settings=dict(recorded) if recorded is not None else to_mapping(settings),
            inputs=inputs,
            counts=counts.as_dict(),
            seed=seed,
            seconds=round(time.monotonic() - started, 3),
        )


def _finish(folder: Path, shards: Sequence[Shard], **manifest_fields: Any) -> Manifest:
    outputs = (*(entry for entry, _ in shards), write_index([rows for _, rows in shards], folder))
    samples = [len(rows) for _, rows in shards]
    extra = {"samples": sum(samples), "shard_samples": samples}
    manifest = Manifest(KIND, format=FORMAT, outputs=outputs, extra=extra, **manifest_fields)
    write_manifest(folder, manifest)
    return manifest


class _Writer:
    """Cuts the stream of samples into shards; the range of a shard's last sample takes in the tar's end."""

    def __init__(self, folder: Path, settings: ShardSettings, stack: ExitStack) -> None:
        self.folder, self.settings, self.stack = folder, settings, stack
        self.shards: list[Shard] = []
        self._names: set[bytes] = set()
        self._file: IO[bytes] | None = None
        self._begin()

    def _begin(self) -> None:
        self._rows: list[tuple[int, ...]] = []
        self._last = b""
        self._sha256, self._size = hashlib.sha256(), 0

    def add(self, pair: Pair, counts: Counts) -> None:
        where = pair.key[:_MAX_KEY_BYTES].encode("utf-8", "backslashreplace").decode()
        try:
            name = member_key(pair.key)
            blob, spans = _sample(pair, name)
        except BadSampleError as error:
            counts.drop(error.reason, where)
            return
        # Eight bytes of digest a name: 100 million names fit into memory, the names themselves might not.
        digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
        if digest in self._names:
            counts.drop(Reason.DUPLICATE_KEY, where)
            return
        self._names.add(digest)
        counts.keep()
        full = self._size + len(blob) + len(tar.END) > self.settings.max_bytes
        if full or len(self._rows) >= self.settings.max_samples:
            self.close()
        if self._file is None:
            path = self.folder / shard_name(len(self.shards))
            self._file = self.stack.enter_context(files.writing(path))
        self._rows.append((len(self.shards), self._size, len(blob), *spans, range_digest(blob)))
        self._write(self._file, blob)
        self._last = blob

    def close(self) -> None:
        """End the current shard, if one is begun."""
        if self._file is None:
            return
        last, row = self._last + tar.END, self._rows[-1]
        self._rows[-1] = (*row[:2], len(last), *row[3:-1], range_digest(last))
        self._write(self._file, tar.END)
        self._file = None
        self.stack.close()
        entry = FileEntry(shard_name(len(self.shards)), self._size, self._sha256.hexdigest())
        self.shards.append((entry, np.array(self._rows, dtype=INDEX_DTYPE)))
        self._begin()

    def _write(self, file: IO[bytes], data: bytes) -> None:
        file.write(data)
        self._sha256.update(data)
        self._size += len(data)


def member_key(key: str) -> str:
    """Make a key fit for a member name: letters, digits, "_", "-"; a changed one gets the old one's digest.

    >>> member_key("000123"), member_key("a/b.c")
    ('000123', 'a_b_c-032db57f')
    """
    try:
        raw = key.encode()
    except UnicodeEncodeError:
        raise BadSampleError(Reason.BAD_ROW, "a key holds half a character") from None
    safe = _UNSAFE.sub("_", key)
    if safe == key and 0 < len(raw) <= _MAX_KEY_BYTES:
        return key
    return f"{safe[: _MAX_KEY_BYTES - 9]}-{hashlib.blake2b(raw, digest_size=4).hexdigest()}"


def _sample(pair: Pair, name: str) -> tuple[bytes, list[int]]:
    """Lay a pair out as tar members; returns the bytes and (image, text, json) offsets and sizes in them."""
    extension = image_extension(pair.image)
    if extension is None:
        raise BadSampleError(Reason.FORMAT_NOT_ALLOWED if pair.image else Reason.MISSING_IMAGE)
    if not pair.captions:
        raise BadSampleError(Reason.MISSING_CAPTION)
    try:
        text = pair.captions[0].encode()
        more = _more(pair, name)
    except UnicodeEncodeError:
        raise BadSampleError(Reason.CAPTION_NOT_TEXT) from None
    if len(pair.image) + len(text) + len(more) + 8 * tar.BLOCK > MAX_SAMPLE_BYTES:
        raise BadSampleError(Reason.TOO_MANY_BYTES)
    parts: list[bytes] = []
    spans: list[int] = []
    size = 0
    for suffix, data in ((extension, pair.image), ("txt", text), ("json", more)):
        if suffix == "json" and not data:
            spans += (0, 0)
            continue
        head, tail = tar.header(f"{name}.{suffix}", len(data)), tar.padding(len(data))
        parts += (head, data, tail)
        spans += (size + len(head), len(data))
        size += len(head) + len(data) + len(tail)
    return b"".join(parts), spans


def _more(pair: Pair, name: str) -> bytes:
    """Say as JSON what image and first caption do not: the key as it was, all captions, the fields."""
    record: dict[str, object] = {}
    if name != pair.key:
        record["key"] = pair.key
    if len(pair.captions) > 1:
        record["captions"] = pair.captions
    if pair.fields:
        record["fields"] = fields_of(pair.fields)
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode() if record else b""


def join_shards(parts: Sequence[Path], folder: Path, **manifest_fields: Any) -> Manifest:
    """Join finished shard sets in their order; keys must be unique over all of them.

    The bytes of the tars stay as they are; where the file system allows it they are linked, not copied.
    `manifest_fields` (settings, inputs, counts, seed, seconds) go into the manifest.
    """
    files.make_folder(folder)
    shards: list[Shard] = []
    for part in parts:
        for entry, rows in shards_of(part, read_manifest(part, KIND)):
            rows["shard"], name = len(shards), shard_name(len(shards))
            files.link(part / entry.name, folder / name)
            shards.append((replace(entry, name=name), rows))
    if not shards:
        fix = "look at the reasons why pairs were dropped"
        raise DataError("no pair is left to write", where=folder, fix=fix)
    return _finish(folder, shards, **manifest_fields)
