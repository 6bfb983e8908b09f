"""The index of a shard set: where every sample lies, and how to make one for tars that came without.

Reads: ``index.npy``; tars in the WebDataset layout: members of one sample adjacent, KEY.EXTENSION, the key
ends at the first dot of the base name (webdataset README, "The WebDataset Format").
"""

import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, product
from pathlib import Path

import numpy as np
import numpy.typing as npt

from diptych.core.errors import DataError, IntegrityError, Reason, UsageError
from diptych.core.files.durable import write_bytes
from diptych.core.files.reading import is_data
from diptych.core.manifest import FileEntry, Manifest
from diptych.core.records import Counts
from diptych.data.images.formats import IMAGE_EXTENSIONS
from diptych.data.shards.tar import Member, read_members

KIND = "shards"
FORMAT = 1
INDEX_NAME = "index.npy"

INDEX_DTYPE = np.dtype(
    [
        ("shard", "<u4"),  # which shard, in the manifest's order
        ("offset", "<u8"),  # the sample's byte range in it: first header …
        ("length", "<u4"),  # … to last padding; the last sample of a shard ends with the archive
        ("image_offset", "<u4"),  # payloads, from the start of the range; size 0 where there is none
        ("image_size", "<u4"),
        ("text_offset", "<u4"),
        ("text_size", "<u4"),
        ("json_offset", "<u4"),
        ("json_size", "<u4"),
        ("digest", "<u8"),  # first eight bytes of the range's SHA-256; 0 where none is known
    ]
)
Index = npt.NDArray[np.void]
Shard = tuple[FileEntry, Index]  # a shard's file, and the rows of its samples

MAX_SAMPLE_BYTES = 2**32 - 1  # what the 32-bit lengths of the index can say
MAX_BRACE_NAMES = 1_000_000  # a typing mistake such as {0..999999999} must not fill the memory
_RANGE = re.compile(r"^(\d+)\.\.(\d+)$")
_BRACES = re.compile(r"\{([^{}]*)\}")


def range_digest(data: bytes) -> int:
    """Return the first eight bytes of the SHA-256 of a sample's byte range as a little-endian number."""
    # SHA-256 runs at 1.8 GB/s with the CPU's instructions for it, blake2b at 1.0 (measured, ranges of 5 kB).
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "little")


def shard_name(number: int) -> str:
    """Return the file name of a shard."""
    return f"{number:05d}.tar"


def shards_of(folder: Path, manifest: Manifest) -> Iterator[Shard]:
    """Yield the shards of a set in their order."""
    index = np.load(folder / INDEX_NAME, allow_pickle=False)
    entries = (entry for entry in manifest.outputs if entry.name != INDEX_NAME)
    ends = np.cumsum(manifest.extra["shard_samples"])
    yield from zip(entries, np.split(index, ends[:-1]), strict=True)


def write_index(rows: Sequence[Index], folder: Path) -> FileEntry:
    """Write the index of a shard set, given by shard, durably."""
    buffer = io.BytesIO()
    np.save(buffer, np.concatenate(rows).astype(INDEX_DTYPE), allow_pickle=False)
    data = buffer.getvalue()
    write_bytes(folder / INDEX_NAME, data)
    return FileEntry(INDEX_NAME, len(data), hashlib.sha256(data).hexdigest())


def read_index(folder: Path, entry: FileEntry, shard_bytes: list[int]) -> Index:
    """Read the index of a shard set and hold it against its digest and the sizes of the shards."""
    path = folder / INDEX_NAME
    data = path.read_bytes()
    actual = hashlib.sha256(data).hexdigest()
    if actual != entry.sha256:
        raise damaged("the index of a shard set is damaged", path, f"sha256 {actual}", entry.sha256)
    try:
        index = np.load(io.BytesIO(data), allow_pickle=False)
        limits = np.array(shard_bytes, dtype=np.uint64)[index["shard"]]
        sound = index.dtype == INDEX_DTYPE and index.ndim == 1
        sound = sound and bool(np.all(index["offset"] + index["length"] <= limits))
    except (ValueError, IndexError) as error:
        raise damaged("the index of a shard set cannot be read", path, str(error)) from None
    if not sound:
        raise damaged("the index of a shard set points outside its shards", path)
    return np.asarray(index)


def damaged(what: str, where: Path, found: str = "", expected: str = "") -> IntegrityError:
    """Build the error for a shard set whose files are not what its manifest says."""
    fix = "pack or fetch this set again"
    return IntegrityError(what, where=where, found=found, expected=expected, fix=fix)


def is_tar(name: str) -> bool:
    """Tell by its name whether a file is a tar, compressed or not."""
    return (name.lower().endswith(".tar") or is_packed(name)) and is_data(name)


def is_packed(name: str) -> bool:
    """Tell by its name whether a file is a compressed tar."""
    return name.lower().endswith((".tar.gz", ".tgz"))


def tar_paths(ref: str) -> list[Path]:
    """List the tars of a folder, one tar, a brace range (``{000..123}``, ``{a,b}``), or these with ``::``."""
    listed: list[Path] = []
    for part in ref.split("::"):
        path = Path(part)
        inside = sorted(one for one in path.iterdir() if is_tar(one.name)) if path.is_dir() else []
        listed.extend(inside if path.is_dir() else map(Path, expand_braces(part)))
    for path in listed:
        if not path.is_file():
            what, fix = "a shard is missing", "check the name and the brace range"
            raise UsageError(what, where=path, found="no such file", expected="a tar file", fix=fix)
    if not listed:
        fix = "give a folder of tars, one tar, or a range such as 'shards/{00000..00009}.tar'"
        raise UsageError("no shards here", where=ref, found="no *.tar", expected="a folder of tars", fix=fix)
    return listed


def expand_braces(pattern: str) -> list[str]:
    """Spell out ``{from..to}`` (kept at the width it is written with) and ``{a,b}``.

    >>> expand_braces("{a,b}{08..10}.tar")[1:4]
    ['a09.tar', 'a10.tar', 'b08.tar']
    """
    choices: list[Iterable[str]] = []
    total = 1
    for number, piece in enumerate(_BRACES.split(pattern)):
        if number % 2 and (matched := _RANGE.match(piece)):
            first, last = map(int, matched.groups())
            total *= max(last - first + 1, 0)
            choices.append(map(f"{{:0{len(matched[1])}d}}".format, range(first, last + 1)))
        else:
            names = piece.split(",") if number % 2 else [piece]
            total *= len(names)
            choices.append(names)
    if not 0 < total <= MAX_BRACE_NAMES:
        what = "a brace range is empty or names too many files"
        expected = f"{{first..last}}, rising, at most {MAX_BRACE_NAMES} names in all"
        raise UsageError(what, where=pattern, found=total, expected=expected, fix="check the range")
    return ["".join(parts) for parts in product(*choices)]


def scan(paths: list[Path], counts: Counts) -> tuple[Index, list[str]]:
    """Build the index (N,) and the N keys of tars that came without one, from their headers alone.

    Samples that lack an image are dropped and counted. A key that an earlier shard used too is told apart by
    the shard's name, for many writers count from zero in each; inside one shard it is a duplicate and
    dropped. Images of one name and several extensions with nothing else are several samples: they come from
    a folder of images, and not from a writer of samples.
    """
    rows: list[tuple[int, ...]] = []
    keys: dict[str, int] = {}  # name -> shard
    for shard, path in enumerate(paths):
        for key, members in _samples(path):
            row = _row(shard, members, path)
            where = f"{path}: {key}"
            name = f"{path.stem}-{key}" if keys.get(key, shard) != shard else key
            if name in keys and len(members) == 1:
                name = f"{name}.{members[0][0]}"
            if row[4] == 0:
                counts.drop(Reason.MISSING_IMAGE, where)
            elif name in keys:
                counts.drop(Reason.DUPLICATE_KEY, where)
            else:
                keys[name] = shard
                rows.append(row)
    return np.array(rows, dtype=INDEX_DTYPE), list(keys)


def _samples(path: Path) -> Iterator[tuple[str, list[tuple[str, Member]]]]:
    """Group adjacent members by key; members without an extension and ``__meta__`` ones are nobody's."""
    with path.open("rb") as file:
        split = ((*_split(member.name), member) for member in read_members(file, name=str(path)))
        named = ((key, (extension, member)) for key, extension, member in split if key)
        for key, group in groupby(named, key=lambda item: item[0]):
            members = [item[1] for item in group]
            if len(members) > 1 and all(_kind(extension) == "image" for extension, _ in members):
                yield from ((f"{key}.{member[0]}", [member]) for member in members)
            else:
                yield key, members


def _split(name: str) -> tuple[str, str]:
    """Split a member name into key and lower-cased extension; ("", "") for one that belongs to no sample."""
    folder, _, last = name.removeprefix("./").rpartition("/")
    stem, _, extension = last.partition(".")
    marked = any(part.startswith("__") and part.endswith("__") for part in (folder, last, stem))
    if not stem or stem == last or marked:
        return "", ""
    return (f"{folder}/{stem}" if folder else stem), extension.lower()


def _row(shard: int, members: list[tuple[str, Member]], path: Path) -> tuple[int, ...]:
    start, end = members[0][1].header_offset, members[-1][1].end
    where = f"{path}: {members[0][1].name}"
    if end - start > MAX_SAMPLE_BYTES:
        what, found = "a sample of a shard is too large", f"{end - start} bytes"
        expected, fix = f"at most {MAX_SAMPLE_BYTES}", "leave this sample out"
        raise DataError(what, where=where, found=found, expected=expected, fix=fix)
    extensions = [extension for extension, _ in members]
    if len(set(extensions)) != len(extensions):
        what, found = "a sample of a shard has two members of one kind", ", ".join(extensions)
        fix = "give every sample its own key and pack again"
        raise DataError(what, where=where, found=found, expected="each extension once", fix=fix)
    spans: dict[str, tuple[int, int]] = {}
    for extension, member in members:
        spans.setdefault(_kind(extension), (member.offset - start, member.size))
    image, text, json = (spans.get(kind, (0, 0)) for kind in ("image", "text", "json"))
    return (shard, start, end - start, *image, *text, *json, 0)


def _kind(extension: str) -> str:
    if extension in IMAGE_EXTENSIONS:
        return "image"
    return "text" if extension in ("txt", "text") else extension
