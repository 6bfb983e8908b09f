"""What every source of pairs shares: the contract, and the checks that a row has to pass.

A row that fails a check raises BadSampleError inside its source, which counts it by reason and goes on.
"""

import hashlib
import math
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Protocol, TypeVar

from diptych.core.errors import BadSampleError, Reason
from diptych.core.files.durable import sha256_file
from diptych.core.manifest import FileEntry
from diptych.core.records import Counts, Field, Need, Pair

MAX_CAPTION_CHARACTERS = 16_384  # 77 tokens are kept; a longer "caption" is a page of text or an attack
MAX_FILE_BYTES = 64 * 2**20  # no image file larger than this is read into memory; decoding has its own limit
_LISTED_INPUTS = 64  # up to this many input files are told one by one in a receipt, more as one digest
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_SHOWN = 80  # characters of a path or key in a count's example


DRAWN = "scenes:"
"""What references to drawn scenes begin with; all others are paths."""


def anchored(ref: str, folder: Path) -> str:
    """Return what a file in a folder means by a reference: paths are relative to the folder.

    >>> anchored("a/b.csv", Path("runs")), anchored("scenes:test", Path("runs")), anchored("", Path("runs"))
    ('runs/a/b.csv', 'scenes:test', '')
    """
    return str(folder / ref) if ref and not ref.startswith(DRAWN) else ref


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of a table, or names in its JSON, hold what.

    Attributes:
        image: path of the image file, or in Parquet its bytes.
        caption: the text; a list of texts where the format has lists.
        key: the name of a pair. Where this column is missing, the image's file name is used, or the row's
            number.
        one_value: columns that may say one thing only of an image, also where several rows share it.
    """

    image: str = "image"
    caption: str = "caption"
    key: str = "id"
    one_value: tuple[str, ...] = ()


DEFAULT_COLUMNS = Columns()


class Source(Protocol):
    """Where pairs come from."""

    @property
    def name(self) -> str:
        """What was opened, for messages and receipts."""

    def pairs(self, counts: Counts) -> Iterator[Pair]:
        """Yield the samples in a fixed order, with unique keys.

        One that lacks what the source was opened to need is dropped and counted by reason. An image that is
        not needed and cannot be read is empty, with a `fault` that is for the caller to count.
        """

    def inputs(self) -> tuple[FileEntry, ...]:
        """Digest everything that `pairs` reads; equal inputs give equal pairs."""


def build_pair(
    need: Need,
    key: str,
    image: bytes | Path | BadSampleError,
    captions: tuple[str, ...] | BadSampleError,
    fields: Mapping[str, Field],
    path: str = "",
) -> Pair:
    """Put together what a row holds, if it holds what is needed.

    Args:
        need: without it there is no pair.
        key: name of the sample.
        image: the encoded file, its path, or why there is neither.
        captions: the texts, or why there are none.
        fields: further columns.
        path: the file that the image was read from, where `image` does not say it.

    Raises:
        BadSampleError: what is needed is missing.
    """
    if isinstance(captions, BadSampleError):
        if Need.CAPTION in need:
            raise captions
        captions = ()
    path = str(image) if isinstance(image, Path) else path
    try:
        if isinstance(image, BadSampleError):
            raise image
        data = read_image(image) if isinstance(image, Path) else image
    except BadSampleError as error:
        if Need.IMAGE in need:
            raise
        return Pair(key, b"", captions, fields, path, error.reason)
    return Pair(key, data, captions, fields, path)


def attempt(read: Callable[[], T]) -> T | BadSampleError:
    """Return what `read` returns, or why it cannot.

    >>> attempt(lambda: caption_of(" a dog "))
    'a dog'
    """
    try:
        return read()
    except BadSampleError as error:
        return error


def short_names(names: Sequence[str]) -> list[str]:
    """Name files as shortly as tells them apart: by stem, else with their folder, else with their suffix too.

    Args:
        names: N different paths.

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


def captions_of(value: object) -> tuple[str, ...]:
    """Return the usable captions of one text or a list of texts, stripped.

    One good caption of several is enough; if none is good, the first one's fault is told.

    Raises:
        BadSampleError: no caption can be used.

    >>> captions_of([" a dog ", "", 7])
    ('a dog',)
    """
    texts = value if isinstance(value, list | tuple) else [value]
    good: list[str] = []
    fault: BadSampleError | None = None if texts else BadSampleError(Reason.MISSING_CAPTION)
    for text in texts:
        try:
            good.append(caption_of(text))
        except BadSampleError as error:
            fault = fault or error
    if not good and fault is not None:
        raise fault
    return tuple(good)


def caption_of(text: object) -> str:
    """Return one caption, stripped.

    Raises:
        BadSampleError: it is missing, empty, too long, or not text (NUL and broken UTF-8 included).
    """
    if text is None:
        raise BadSampleError(Reason.MISSING_CAPTION)
    if not isinstance(text, str):
        raise BadSampleError(Reason.CAPTION_NOT_TEXT, found=type(text).__name__)
    if len(text) > MAX_CAPTION_CHARACTERS:
        raise BadSampleError(Reason.CAPTION_TOO_LONG, found=f"{len(text)} characters")
    stripped = text.removeprefix("\ufeff").strip()
    if not stripped:
        raise BadSampleError(Reason.EMPTY_CAPTION)
    if "\0" in stripped or not _is_unicode(stripped):
        raise BadSampleError(Reason.CAPTION_NOT_TEXT, found="NUL or broken UTF-8")
    return stripped


def _is_unicode(text: str) -> bool:
    """Tell whether a text has no lone surrogates, which is how Python keeps bytes that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def fields_of(values: Mapping[str, object]) -> dict[str, Field]:
    """Keep the scalar columns; dates and the like become text, lists and bytes are left out.

    What JSON cannot say is made fit for it: NaN becomes None, half a character its escape.

    >>> fields_of({"a": 1, "b": [2], "c": None})
    {'a': 1, 'c': None}
    """
    fields: dict[str, Field] = {}
    for name, value in values.items():
        if value is None or isinstance(value, int | float):
            fields[plain(name)] = None if isinstance(value, float) and not math.isfinite(value) else value
        elif isinstance(value, str):
            fields[plain(name)] = plain(value)
        elif hasattr(value, "isoformat"):
            fields[plain(name)] = str(value.isoformat())
    return fields


def require_downloaded(cells: Mapping[str, object]) -> None:
    """Refuse a row of img2dataset's whose image was not fetched; call it where a row has no image.

    Raises:
        BadSampleError: NOT_DOWNLOADED.
    """
    if cells.get("status") in ("failed_to_download", "failed_to_resize"):
        raise BadSampleError(Reason.NOT_DOWNLOADED)


def read_image(path: Path) -> bytes:
    """Read an image file that a row names.

    Raises:
        BadSampleError: it is missing, no regular file (a pipe would hang, /dev/zero never end), or too large.
    """
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise BadSampleError(Reason.MISSING_IMAGE, where=path, found="no regular file")
            if status.st_size > MAX_FILE_BYTES:
                raise BadSampleError(Reason.TOO_MANY_BYTES, where=path, found=f"{status.st_size} bytes")
            return file.read(MAX_FILE_BYTES)
    except (OSError, ValueError) as error:
        raise BadSampleError(Reason.MISSING_IMAGE, where=path, found=type(error).__name__) from None


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def image_path(value: object, folder: Path) -> Path:
    """Turn an image column's value into a path: relative to the table's folder, or absolute.

    Raises:
        BadSampleError: there is none, or it is unsafe: NUL, broken UTF-8, a step upwards through ".."; or it
            is the address of an image that nobody has fetched.
    """
    if value is None or value == "":
        raise BadSampleError(Reason.MISSING_IMAGE)
    if not isinstance(value, str):
        raise BadSampleError(Reason.BAD_ROW, found=f"an image path of type {type(value).__name__}")
    if "\0" in value or not _is_unicode(value) or ".." in Path(value).parts:
        raise BadSampleError(Reason.UNSAFE_PATH, found=repr(value[:_SHOWN]))
    if _ADDRESS.match(value):
        raise BadSampleError(Reason.REMOTE_IMAGE, found="an address", expected="a file that was fetched")
    return folder / value


def unique(pairs: Iterable[Pair], counts: Counts) -> Iterator[Pair]:
    """Pass pairs on, the first of each key only."""
    seen: set[str] = set()
    for pair in pairs:
        if pair.key in seen:
            counts.drop(Reason.DUPLICATE_KEY, plain(pair.key[:_SHOWN]))
            continue
        seen.add(pair.key)
        yield pair


def drop(counts: Counts, error: BadSampleError, where: str) -> None:
    """Count a bad row under the reason that its check gave."""
    counts.drop(error.reason, plain(f"{where} ({error.found})" if error.found else where))


def digest_files(name: str, paths: Iterable[Path], *, root: Path) -> tuple[FileEntry, ...]:
    """Digest input files: one entry each when they are few, one for all together when they are many.

    Args:
        name: what the entry for all together is called.
        paths: files; those that cannot be read are left out, as they are dropped as pairs too.
        root: the folder that names are told from, so that another way of writing a path changes nothing.
    """
    entries: list[FileEntry] = []
    for path in dict.fromkeys(paths):
        told = path.relative_to(root) if path.is_relative_to(root) else path
        try:
            if path.is_file():  # a pipe would hang, /dev/zero never end
                entries.append(FileEntry(plain(told.as_posix()), path.stat().st_size, sha256_file(path)))
        except OSError:
            continue
    if len(entries) <= _LISTED_INPUTS:
        return tuple(entries)
    listing = hashlib.sha256()
    for entry in entries:
        listing.update(f"{entry.name}\0{entry.bytes}\0{entry.sha256}\n".encode())
    total = sum(entry.bytes for entry in entries)
    return (FileEntry(f"{name} ({len(entries)} files)", total, listing.hexdigest()),)


def plain(text: str) -> str:
    """Make a text fit for UTF-8: file names and broken tables may hold any bytes."""
    return text.encode("utf-8", "backslashreplace").decode()
