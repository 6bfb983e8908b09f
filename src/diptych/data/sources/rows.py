"""What every source of pairs shares: the contract, and how rows become pairs."""

import hashlib
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePath
from typing import NamedTuple, Protocol

from diptych.core.errors import BadSampleError, Reason
from diptych.core.files.durable import sha256_file
from diptych.core.manifest import FileEntry
from diptych.core.records import Counts, Field, Need, Pair
from diptych.data.captions import is_unicode, plain

SCENES = "scenes:"  # what references to synthetic scenes begin with; all others are paths
MAX_FILE_BYTES = 64 * 2**20  # no image file larger than this is read into memory; decoding has its own limit
_LISTED_INPUTS = 64  # up to this many input files are listed one by one in a manifest, more as one digest
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_SHOWN = 80  # characters of a path or key in a count's example


def anchored(ref: str, folder: Path) -> str:
    """Return what a file in a folder means by a reference: paths are relative to the folder.

    >>> anchored("a/b.csv", Path("runs")), anchored("scenes:test", Path("runs")), anchored("", Path("runs"))
    ('runs/a/b.csv', 'scenes:test', '')
    """
    return str(folder / ref) if ref and not ref.startswith(SCENES) else ref


class Source(Protocol):
    """Where pairs come from."""

    @property
    def name(self) -> str:
        """What was opened, for messages and manifests."""

    def pairs(self, counts: Counts) -> Iterator[Pair]:
        """Yield the samples in a fixed order, with unique keys.

        One that lacks what the source was opened to need is dropped and counted by reason. An image that is
        not needed and cannot be read is empty, with a `fault` that is for the caller to count.
        """

    def inputs(self) -> tuple[FileEntry, ...]:
        """Digest everything that `pairs` reads; equal inputs give equal pairs."""


class Row(NamedTuple):
    """A row as it stands in a source; for what cannot be used, why.

    `where` names the row in counts, `path` the file that holds the image's bytes. Of `keys` the first one
    is used that no earlier row has.
    """

    where: str
    keys: tuple[str, ...]
    image: bytes | Path | BadSampleError
    captions: tuple[str, ...] | BadSampleError
    fields: Mapping[str, Field]
    path: str = ""

    def pair(self, key: str, need: Need) -> Pair:
        """Read the image and make a pair, or raise BadSampleError if it lacks what is needed."""
        if isinstance(self.captions, BadSampleError) and Need.CAPTION in need:
            raise self.captions
        captions = () if isinstance(self.captions, BadSampleError) else self.captions
        path = str(self.image) if isinstance(self.image, Path) else self.path
        try:
            if isinstance(self.image, BadSampleError):
                raise self.image
            image = read_image(self.image) if isinstance(self.image, Path) else self.image
        except BadSampleError as error:
            if Need.IMAGE in need:
                raise
            return Pair(key, b"", captions, self.fields, path, error.reason)
        return Pair(key, image, captions, self.fields, path)


class RowSource:
    """Base of the sources that are read row by row; a bad row is counted by its reason."""

    __slots__ = ()
    need: Need

    def rows(self, counts: Counts) -> Iterator[Row]:
        """Yield the rows, and count those that are none."""
        raise NotImplementedError

    def pairs(self, counts: Counts) -> Iterator[Pair]:
        """Yield the pairs; see Source."""
        keys: set[str] = set()

        def built() -> Iterator[Pair]:
            for row in self.rows(counts):
                key = next((key for key in row.keys if key not in keys), row.keys[-1])
                try:
                    yield row.pair(key, self.need)
                except BadSampleError as error:
                    drop(counts, error, row.where)

        return unique(built(), counts, keys)


def short_names(names: Sequence[str]) -> list[str]:
    """Name N different paths as shortly as tells them apart: by stem, else with folder, else with suffix too.

    >>> short_names(["a/1.jpg", "b/1.jpg", "b/2.jpg", "3.jpg", "3.png"])
    ['a/1', 'b/1', '2', '3.jpg', '3.png']
    """
    stems = [PurePath(name).stem for name in names]
    bare = [name.removesuffix(PurePath(name).suffix) for name in names]
    whole = dict.fromkeys(names, 2)  # "a.jpg" is also the stem of "a.jpg.png"
    of_stem, of_bare = Counter(stems) + Counter(whole), Counter(bare) + Counter(whole)
    return [
        plain(stem if of_stem[stem] == 1 else short if of_bare[short] == 1 else name)
        for stem, short, name in zip(stems, bare, names, strict=True)
    ]


def require_downloaded(cells: Mapping[str, object]) -> None:
    """Refuse a row of img2dataset's whose image was not fetched."""
    if cells.get("status") in ("failed_to_download", "failed_to_resize"):
        raise BadSampleError(Reason.NOT_DOWNLOADED)


def read_image(path: Path) -> bytes:
    """Read an image file that a row names, or raise BadSampleError."""
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):  # a pipe would hang, /dev/zero never end
                raise BadSampleError(Reason.MISSING_IMAGE, where=path, found="no regular file")
            if status.st_size > MAX_FILE_BYTES:
                raise BadSampleError(Reason.TOO_MANY_BYTES, where=path, found=f"{status.st_size} bytes")
            return file.read(MAX_FILE_BYTES)
    except (OSError, ValueError) as error:
        raise BadSampleError(Reason.MISSING_IMAGE, where=path, found=type(error).__name__) from None


def image_path(value: object, folder: Path) -> Path:
    """Turn an image column's value into a path, relative to the table's folder; or raise BadSampleError."""
    if value is None or value == "":
        raise BadSampleError(Reason.MISSING_IMAGE)
    if not isinstance(value, str):
        raise BadSampleError(Reason.BAD_ROW, found=f"an image path of type {type(value).__name__}")
    if "\0" in value or not is_unicode(value) or ".." in Path(value).parts:
        raise BadSampleError(Reason.UNSAFE_PATH, found=repr(value[:_SHOWN]))
    if _ADDRESS.match(value):
        raise BadSampleError(Reason.REMOTE_IMAGE, found="an address", expected="a file that was fetched")
    return folder / value


def unique(pairs: Iterable[Pair], counts: Counts, keys: set[str] | None = None) -> Iterator[Pair]:
    """Pass pairs on, the first of each key only; the keys are added to `keys`."""
    keys = set() if keys is None else keys
    for pair in pairs:
        if pair.key in keys:
            counts.drop(Reason.DUPLICATE_KEY, plain(pair.key[:_SHOWN]))
        else:
            keys.add(pair.key)
            yield pair


def drop(counts: Counts, error: BadSampleError, where: str) -> None:
    """Count a bad row under the reason that its check gave."""
    counts.drop(error.reason, plain(f"{where} ({error.found})" if error.found else where))


def digest_files(name: str, paths: Iterable[Path], *, root: Path) -> tuple[FileEntry, ...]:
    """Digest input files: one entry each when they are few, one for all together, called `name`, when many.

    Files that cannot be read are left out, as they are dropped as pairs too. Names are relative to the folder
    `root`, so that another way of writing a path changes nothing.
    """
    entries: list[FileEntry] = []
    for path in dict.fromkeys(paths):
        relative = path.relative_to(root) if path.is_relative_to(root) else path
        with suppress(OSError):
            if path.is_file():  # a pipe would hang, /dev/zero never end
                entries.append(FileEntry(plain(relative.as_posix()), path.stat().st_size, sha256_file(path)))
    if len(entries) <= _LISTED_INPUTS:
        return tuple(entries)
    listing = hashlib.sha256()
    for entry in entries:
        listing.update(f"{entry.name}\0{entry.bytes}\0{entry.sha256}\n".encode())
    total = sum(entry.bytes for entry in entries)
    return (FileEntry(f"{name} ({len(entries)} files)", total, listing.hexdigest()),)
