"""Shards: pairs in WebDataset-layout tars, with an index for random access and a digest for every byte.

A shard set is a folder: ``00000.tar`` …, ``index.npy`` (see `index`) and ``manifest.json``, which is
written last. A sample is its members side by side: KEY.jpg (or png, webp, …, by content), KEY.txt (its
first caption) and, where there is more to say, KEY.json. The byte ranges of the samples tile a shard from its
first byte to its last, so reading every sample once proves every byte. WebDataset tars of others are read
too; their samples carry no digests.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from diptych.core.errors import BadSampleError, IntegrityError, Reason, UsageError
from diptych.core.manifest import MANIFEST_NAME, content_digest, is_done, read_manifest
from diptych.core.records import Counts, Need, Pair
from diptych.data.captions import DEFAULT_COLUMNS, Columns, texts_beside
from diptych.data.shards import tar
from diptych.data.shards.index import (
    FORMAT,
    INDEX_NAME,
    KIND,
    Index,
    damaged,
    range_digest,
    read_index,
    scan,
    tar_paths,
)

_MAX_OPEN_SHARDS = 256  # kept open per process, a quarter of the usual limit of 1,024; others are reopened
OnDamage = Literal["error", "skip"]


@dataclass(eq=False, repr=False)
class ShardSet:
    """Random access to the pairs of a shard set; every sample of our own is checked as it is read.

    Opening checks the index against its digest and every shard against its size, so a missing or cut shard
    is an error at once and not after hours. It may be handed to forked and to spawned processes.

    Attributes:
        digest: identity of the content (hex SHA-256): for our own shards that of all file digests, for
            others' that of their index. Neither time nor folder of writing change it.
        counts: samples that were left out of the index when tars of others were opened.
    """

    ref: str
    _paths: list[Path]
    _index: Index
    _keys: list[str] | None  # of others' tars; None for our own, whose keys are not held in memory
    digest: str
    counts: Counts = field(default_factory=Counts)
    _files: dict[int, int] = field(default_factory=dict, init=False)

    @classmethod
    def open(cls, ref: str | Path) -> "ShardSet":
        """Open a shard set, or WebDataset tars of others.

        Args:
            ref: a folder that ``write_shards`` made; or a folder of tars, one tar, a brace range
                (``part-{00000..00123}.tar``), or several of these joined by ``::``.

        Raises:
            IntegrityError: a shard or the index is missing, cut or damaged.
            UsageError: there is nothing to open.
        """
        folder = Path(ref)
        if is_done(folder, KIND):
            return _open_own(folder)
        if (folder / INDEX_NAME).is_file():
            what, found = "a shard set has lost its manifest", "an index without a manifest"
            fix = "fetch the folder again with all its files, or remove its index to read it unchecked"
            raise IntegrityError(what, where=folder, found=found, expected=MANIFEST_NAME, fix=fix)
        return cls.of_tars(str(ref), tar_paths(str(ref)))

    @classmethod
    def of_tars(cls, ref: str, paths: list[Path]) -> "ShardSet":
        """Open plain WebDataset tars of others, called `ref`."""
        counts = Counts()
        index, keys = scan(paths, counts)
        identity = hashlib.sha256(index.tobytes())
        identity.update(json.dumps([[path.name for path in paths], keys]).encode())
        return cls(ref, paths, index, keys, identity.hexdigest(), counts)

    def __len__(self) -> int:
        return len(self._index)

    def __iter__(self) -> Iterator[Pair]:
        return self.pairs(Counts())

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}}  # descriptors are of this process

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Close the shards that are open; they are opened again when needed."""
        while self.__dict__.get("_files"):
            os.close(self._files.popitem()[1])

    def pairs(
        self,
        counts: Counts,
        *,
        numbers: Iterable[int] | None = None,
        on_damage: OnDamage = "error",
        need: Need = Need.PAIR,
        columns: Columns = DEFAULT_COLUMNS,
    ) -> Iterator[Pair]:
        """Read pairs in order, all of them or those of some numbers.

        Args:
            counts: where samples that cannot be used are counted; whoever reads counts what it keeps.
            numbers: of the samples.
            on_damage: what to do at a damaged sample: stop with its error, or count it and go on.
        """
        for number in range(len(self)) if numbers is None else numbers:
            try:
                pair = self.pair(number, need=need, columns=columns)
            except IntegrityError as error:
                if on_damage == "error":
                    raise
                counts.drop(Reason.DAMAGED, error.where)
            except BadSampleError as error:
                counts.drop(error.reason, error.where)
            else:
                yield pair

    def key(self, number: int) -> str:
        """Return the key of a sample (for our own shards it is read from the shard)."""
        return self._keys[number] if self._keys is not None else self.pair(number).key

    def pair(self, number: int, *, need: Need = Need.PAIR, columns: Columns = DEFAULT_COLUMNS) -> Pair:
        """Read one sample, and check it; `columns` name the captions in the JSON of others' tars.

        Raises:
            IntegrityError: its bytes are not what was written.
            BadSampleError: a sample of others' tars cannot be used (no caption, text that is not UTF-8).
        """
        shard, offset, length, image_at, image_size, text_at, text_size, json_at, json_size, digest = (
            self._index[number].item()
        )
        raw = self._read(shard, offset, length)
        if len(raw) != length or (self._keys is None and range_digest(raw) != digest):
            raise self._damage(number, raw)
        image = raw[image_at : image_at + image_size]
        text = raw[text_at : text_at + text_size] if text_at else None
        record = raw[json_at : json_at + json_size] if json_at else None
        path = str(self._paths[shard])
        if self._keys is not None:
            captions, fields = texts_beside(text, record, columns)
            if isinstance(captions, BadSampleError):
                if Need.CAPTION in need:
                    raise BadSampleError(captions.reason, where=self.location(number), found=captions.found)
                captions = ()
            return Pair(self._keys[number], image, captions, fields, path)
        try:
            # As text: half a microsecond less than of bytes, whose codec `loads` guesses.
            more = json.loads(record.decode()) if record else {}
            first = (text.decode(),) if text is not None else ()
            key = more.get("key") or raw[: raw.index(b".", 0, tar.BLOCK)].decode()
        except (ValueError, RecursionError, AttributeError) as error:
            where, found = self.location(number), type(error).__name__
            raise BadSampleError(Reason.CAPTION_NOT_TEXT, where=where, found=found) from None
        return Pair(key, image, tuple(more.get("captions", first)), more.get("fields", {}), path)

    def _read(self, shard: int, offset: int, length: int) -> bytes:
        handle = self._files.get(shard)
        if handle is not None:
            return os.pread(handle, length, offset)
        handle = os.open(self._paths[shard], os.O_RDONLY | os.O_CLOEXEC)
        if len(self._files) < _MAX_OPEN_SHARDS:
            self._files[shard] = handle
            return os.pread(handle, length, offset)
        try:
            return os.pread(handle, length, offset)
        finally:
            os.close(handle)

    def location(self, number: int) -> str:
        """Say where a sample lies (shard, number, byte), for messages; nothing is read."""
        row = self._index[number]
        return f"{self._paths[int(row['shard'])]}, sample {number} at byte {int(row['offset'])}"

    def _damage(self, number: int, raw: bytes) -> IntegrityError:
        row = self._index[number]
        cut = len(raw) != int(row["length"])
        found = f"{len(raw)} bytes" if cut else f"digest {range_digest(raw):016x}"
        expected = f"{int(row['length'])} bytes" if cut else f"digest {int(row['digest']):016x}"
        what, where = "a sample of a shard is damaged", self.location(number)
        fix = "write or fetch this shard again; to go on without the sample, skip damaged samples"
        return IntegrityError(what, where=where, found=found, expected=expected, fix=fix)


def _open_own(folder: Path) -> ShardSet:
    manifest = read_manifest(folder, kind=KIND)
    if manifest.format != FORMAT:
        what = "these shards are of another format"
        fix = "pack them again, or use the version that wrote them"
        found, expected = f"format {manifest.format}", f"format {FORMAT}"
        raise UsageError(what, where=folder, found=found, expected=expected, fix=fix)
    entries = {entry.name: entry for entry in manifest.outputs}
    for entry in entries.values():
        path = folder / entry.name
        actual = path.stat().st_size if entry.name == path.name and path.is_file() else None
        if actual != entry.bytes:
            size = "no file" if actual is None else f"{actual} bytes"
            what = "a file of a shard set is missing or cut short"
            raise damaged(what, path, size, f"{entry.bytes} bytes")
    if INDEX_NAME not in entries:
        raise damaged("a shard set has no index", folder, expected=INDEX_NAME)
    listing = entries.pop(INDEX_NAME)
    index = read_index(folder, listing, [entry.bytes for entry in entries.values()])
    paths = [folder / name for name in entries]
    return ShardSet(str(folder), paths, index, None, content_digest(manifest))
