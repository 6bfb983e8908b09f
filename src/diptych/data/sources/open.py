"""Sources of pairs: everything that `diptych pack`, `evaluate` and `search` can read, behind one contract.

Reads: a folder of images with side-car captions; CSV/TSV; Parquet; WebDataset tars and our own shards;
synthetic scenes (``scenes:train?count=20000&seed=1``, ``scenes:crawl``). The format is read off the file.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import parse_qsl, urlsplit

from diptych.core import checks
from diptych.core.errors import BadSampleError, DiptychError, Reason, UsageError, unknown_name
from diptych.core.files.reading import UTF16, is_data, read_json
from diptych.core.manifest import FileEntry, is_done
from diptych.core.records import Counts, Need, Pair
from diptych.data.captions import DEFAULT_COLUMNS, MAX_BYTES_BESIDE, Columns, plain, texts_beside
from diptych.data.images.formats import IMAGE_SUFFIXES
from diptych.data.shards.index import KIND, is_packed, is_tar, tar_paths
from diptych.data.shards.reader import ShardSet
from diptych.data.sources.rows import (
    SCENES,
    Row,
    RowSource,
    Source,
    digest_files,
    read_image,
    short_names,
    unique,
)
from diptych.data.sources.table_rows import TABLE_SUFFIXES, table_suffix, unpack
from diptych.data.sources.tables import COLUMNAR_SUFFIXES, ParquetSource, TableSource

__all__ = ["Columns", "Need", "Source", "open_source"]

LABEL = "label"
_SCENE_SETTINGS = ("count", "seed", "size")
_BESIDE = (".txt", ".json")  # of the files that hold an image's captions and fields
_SHOWN = 5  # names of files in a message
_PARQUET_MAGIC = b"PAR1"
_STATE, _SPLITS = "state.json", "dataset_dict.json"  # of Hugging Face's save_to_disk


def open_source(ref: str | Path, *, columns: Columns = DEFAULT_COLUMNS, need: Need = Need.PAIR) -> Source:
    """Open whatever a reference names; nothing but its kind is looked at yet.

    Args:
        ref: a folder (of images, tars or Parquet files, with one CSV/TSV, or our own shards), a file (CSV,
            TSV, Parquet, tar), a brace range of tars, or ``scenes:SPLIT?count=N&seed=S&size=PIXELS``.
        columns: names of the image, caption and key columns of a table.
        need: what a sample must have; for search and zero-shot classification an image needs no caption.

    Raises:
        UsageError: there is nothing there, or nothing that can be read.
    """
    text = checks.path(ref, "the source")
    if text.startswith(SCENES):
        return _open_scenes(text)
    path = Path(ref)
    if path.is_dir():
        return _open_folder(path, columns, need)
    if path.is_file():
        return _open_file(path, columns, need)
    if "{" in text or "::" in text:
        return ShardSource(text, need, columns)
    what, found = "there is no such source", "no file or folder of this name"
    expected = "a folder, a CSV, TSV, Parquet or tar file, 'a/{000..009}.tar', or scenes:train"
    raise UsageError(what, where=text, found=found, expected=expected, fix="check the path")


def _open_folder(folder: Path, columns: Columns, need: Need) -> Source:
    if is_done(folder, KIND):
        return ShardSource(str(folder), need, columns)
    if saved := _saved_files(folder):
        return ParquetSource(str(folder), saved, columns, need)
    files = sorted(path for path in folder.iterdir() if is_data(path.name) and path.is_file())
    tars = [path for path in files if is_tar(path.name)]
    columnar = tuple(path for path in files if path.suffix in COLUMNAR_SUFFIXES)
    texts = [path for path in files if table_suffix(path) in TABLE_SUFFIXES]
    images = FolderSource(folder, columns, need)
    count = sum(1 for _ in islice(images.images(), len(tars) + 1))  # enough to see which are more
    if tars and count == len(tars):
        raise _several(folder, [*tars, *images.images()])
    if len(tars) > count:
        return _warned(ShardSource(str(folder), need, columns), folder, [*images.images()])
    tables = [TableSource(str(path), (path,), columns, need) for path in texts]
    tables += [ParquetSource(str(folder), columnar, columns, need)] if columnar else []
    listing = []
    for table in tables:
        with suppress(DiptychError):
            listing += [table] if table.lists_images() else []
    first = next(images.images(), folder)
    captioned = any(first.with_suffix(suffix).is_file() for suffix in _BESIDE)
    if not listing and (not count or (Need.CAPTION in need and not captioned)):
        listing = tables  # reading it says what it lacks
    if len(listing) > 1:
        raise _several(folder, [*texts, *columnar])
    if not listing and not count:
        return _open_below(folder, files, columns, need)
    read = {path for table in listing for path in table.paths}
    strays = [path for path in (*tars, *texts, *columnar) if path not in read]
    return _warned(listing[0] if listing else images, folder, strays)


def _names(paths: list[Path]) -> str:
    return ", ".join(path.name for path in paths[:_SHOWN]) + (" …" if len(paths) > _SHOWN else "")


def _warned(source: Source, folder: Path, strays: list[Path]) -> Source:
    """Name what lies in a folder and is not read."""
    if strays:
        advice = "to read one instead, give the file itself, with --columns if its columns have other names"
        warnings.warn(f"{folder}: not read: {_names(strays)}; {advice}", stacklevel=2)
    return source


def _several(folder: Path, paths: list[Path]) -> UsageError:
    what, fix = "this folder holds several sources", "give one of the files itself"
    expected = "images, tars, Parquet files of one layout, or one table that lists images"
    return UsageError(what, where=folder, found=_names(paths), expected=expected, fix=fix)


def _open_below(folder: Path, files: list[Path], columns: Columns, need: Need) -> Source:
    """Open the one folder below that holds tars."""
    tars = (path for path in folder.glob("*/*") if is_tar(path.name) and is_data(path.parent.name))
    below = sorted({path.parent for path in tars})
    if len(below) == 1:
        return ShardSource(str(below[0]), need, columns)
    if below:
        raise _several(folder, below)
    what, fix = "this folder holds no images", "give the file itself if it is one of several"
    expected = "images (captions in .txt or .json beside them), tars, Parquet, or one CSV or TSV"
    raise UsageError(what, where=folder, found=_names(files) or "no files", expected=expected, fix=fix)


def _saved_files(folder: Path) -> tuple[Path, ...]:
    """Return the Arrow files of a folder that Hugging Face's `save_to_disk` wrote; () for any other."""
    if (folder / _SPLITS).is_file():
        splits = read_json(folder / _SPLITS).get("splits")
        names = ", ".join(map(str, splits))[:200] if isinstance(splits, list) else ""
        fix = "give the folder of one of them"
        raise UsageError("this folder holds several splits", where=folder, found=names, fix=fix)
    if not (folder / _STATE).is_file():
        return ()
    files = read_json(folder / _STATE).get("_data_files")
    objects = files if isinstance(files, list) else []
    listed = [str(file.get("filename", "")) for file in objects if isinstance(file, dict)]
    if not listed or any(not name or Path(name).name != name for name in listed):
        what = "this folder names no files of a data set"
        raise UsageError(what, where=folder / _STATE, expected="_data_files in it")
    return tuple(folder / name for name in listed)


def _open_file(path: Path, columns: Columns, need: Need) -> Source:
    with path.open("rb") as file:
        start = file.read(512)
    if start.startswith(_PARQUET_MAGIC) or path.suffix in COLUMNAR_SUFFIXES:
        return ParquetSource(str(path), (path,), columns, need)
    if is_tar(path.name) or start[257:262] == b"ustar":
        return ShardSource(str(path), need, columns)
    text = table_suffix(path) in (".txt", "") and (b"\0" not in start or start.startswith(UTF16))
    if table_suffix(path) not in (*TABLE_SUFFIXES, ".json") and not text:
        what = "this is no kind of file that holds images"
        expected = "CSV, TSV, JSON lines, COCO captions, Parquet, Arrow or tar"
        fix = "for one image use `diptych classify`; for a folder of images give the folder"
        raise UsageError(what, where=path, found=repr(start[:8]), expected=expected, fix=fix)
    return TableSource(str(path), (path,), columns, need)


def _open_scenes(ref: str) -> "ScenesSource":
    from diptych.data.synthetic.vocabulary import SPLITS

    parts = urlsplit(ref)
    split, settings = parts.path or "train", {}
    if split not in (*SPLITS, "crawl"):
        raise unknown_name("split", split, (*SPLITS, "crawl"), where=ref)
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in _SCENE_SETTINGS:
            raise unknown_name("setting of scenes", name, _SCENE_SETTINGS, where=ref)
        if not value.isdecimal() or len(value) > 18:
            what, found = f"{name} is not a number", repr(value[:40])
            raise UsageError(what, where=ref, found=found, expected="a whole number")
        settings[name] = int(value)
    return ScenesSource(split, **settings)


@dataclass(frozen=True, slots=True)
class FolderSource(RowSource):
    """A folder of images with captions beside them, in sorted order; links to folders are not followed.

    Reads: ``NAME.jpg`` (png, webp, …: `formats`), at any depth, with ``NAME.txt`` (one caption a line) and
    ``NAME.json`` (``captions`` or ``caption``; other scalar keys become fields; see `data.captions`). An
    image in a subfolder has the name of the first subfolder as its field ``label``, unless its JSON says
    another.
    """

    folder: Path
    columns: Columns = DEFAULT_COLUMNS
    need: Need = Need.PAIR

    @property
    def name(self) -> str:
        """Return the folder's path."""
        return str(self.folder)

    def inputs(self) -> tuple[FileEntry, ...]:
        """Digest images and side-cars; see Source."""
        images = list(self.images())
        sidecars = [image.with_suffix(suffix) for image in images for suffix in _BESIDE]
        return digest_files("images and captions", [*images, *sidecars], root=self.folder)

    def images(self) -> Iterator[Path]:
        """Yield the image files in sorted order, folder by folder."""
        for folder, folders, names in os.walk(self.folder):
            folders[:] = sorted(filter(is_data, folders))
            paths = (Path(folder, name) for name in sorted(filter(is_data, names)))
            yield from (path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES)

    def rows(self, counts: Counts) -> Iterator[Row]:
        """Yield one row an image."""
        del counts  # every image is a row
        images = list(self.images())
        names = [image.relative_to(self.folder).as_posix() for image in images]
        for image, name, key in zip(images, names, short_names(names), strict=True):
            yield self.row(image, name, key)

    def row(self, image: Path, name: str, key: str) -> Row:
        """Return the row of an image with what lies beside it; `name` is its path below the folder."""
        captions: tuple[str, ...] | BadSampleError
        try:
            text, record = (_read_beside(image.with_suffix(suffix)) for suffix in _BESIDE)
            captions, fields = texts_beside(text, record, self.columns)
        except BadSampleError as error:
            captions, fields = error, {}
        label, slash, _ = name.partition("/")
        return Row(name, (key,), image, captions, {LABEL: plain(label), **fields} if slash else fields)


def _read_beside(path: Path) -> bytes | None:
    if not path.is_file():
        return None
    if path.stat().st_size > MAX_BYTES_BESIDE:
        raise BadSampleError(Reason.CAPTION_TOO_LONG, found=f"{path.stat().st_size} bytes")
    return read_image(path)


@dataclass(frozen=True, slots=True)
class ShardSource:
    """Our own shards, or WebDataset tars of others; damaged samples are dropped and counted."""

    name: str
    need: Need = Need.PAIR
    columns: Columns = DEFAULT_COLUMNS

    def pairs(self, counts: Counts) -> Iterator[Pair]:
        """Yield the pairs in order; see Source."""
        if self.packed():
            yield from unique(self._unpacked(counts), counts)
        else:
            yield from unique(self._of(ShardSet.open(self.name), counts), counts)

    def packed(self) -> bool:
        """Tell whether some of the tars are compressed, so that there is no random access."""
        own = is_done(Path(self.name), KIND)
        return not own and any(is_packed(path.name) for path in tar_paths(self.name))

    def _of(self, shards: ShardSet, counts: Counts) -> Iterator[Pair]:
        counts.merge(shards.counts)
        return shards.pairs(counts, on_damage="skip", need=self.need, columns=self.columns)

    def _unpacked(self, counts: Counts) -> Iterator[Pair]:
        """Yield the pairs of tars of which some are compressed; those are unpacked for the time being."""
        with TemporaryDirectory(prefix="diptych-") as scratch:
            given = {}
            for number, path in enumerate(tar_paths(self.name)):
                target = Path(scratch) / str(number) / f"{path.name.partition('.')[0]}.tar"
                given[unpack(path, target) if is_packed(path.name) else path] = path
            for pair in self._of(ShardSet.of_tars(self.name, list(given)), counts):
                yield replace(pair, path=str(given[Path(pair.path)]))

    def inputs(self) -> tuple[FileEntry, ...]:
        """Digest the tars; see Source."""
        paths = tar_paths(self.name)
        return digest_files("tars", paths, root=paths[0].parent)


@dataclass(frozen=True, slots=True)
class ScenesSource:
    """Synthetic scenes; the reference holds all of their settings."""

    split: str
    count: int = 10_000
    seed: int = 0
    size: int = 64

    @property
    def name(self) -> str:
        """Return the full reference."""
        return f"{SCENES}{self.split}?count={self.count}&seed={self.seed}&size={self.size}"

    def pairs(self, counts: Counts) -> Iterator[Pair]:
        """Yield the pairs; see Source."""
        del counts  # nothing that our own code draws is bad
        return self.span(0, self.count)

    def span(self, first: int, last: int) -> Iterator[Pair]:
        """Yield the pairs from `first` to the one before `last`; none before them is drawn."""
        from diptych.data.synthetic.crawl import crawled
        from diptych.data.synthetic.dataset import scene_pair

        draw = crawled if self.split == "crawl" else partial(scene_pair, split=self.split)
        for index in range(first, min(last, self.count)):
            yield draw(index, seed=self.seed, size=self.size)

    def inputs(self) -> tuple[FileEntry, ...]:
        """Name the images; see Source."""
        return (FileEntry(self.name, 0, sha256(self.name.encode()).hexdigest()),)
