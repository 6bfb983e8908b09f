"""Sources of pairs: everything that `diptych pack`, `evaluate` and `search` can read, behind one contract.

Reads: a folder of images with side-car captions; CSV/TSV; Parquet; WebDataset tars and our own shards; the
drawn scenes (``scenes:train?count=20000&seed=1``, ``scenes:crawl``). The format is read
off the file. Bad rows are dropped and counted.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import parse_qsl, urlsplit

from diptych.core import checks
from diptych.core.errors import DiptychError, UsageError, unknown_name
from diptych.core.files.json_objects import read_json
from diptych.core.files.listing import is_data
from diptych.core.files.text import UTF16
from diptych.core.manifest import FileEntry, is_done
from diptych.core.records import Counts, Need, Pair
from diptych.data.captions import DEFAULT_COLUMNS, Columns
from diptych.data.shards.index import KIND, is_packed, is_tar, tar_paths
from diptych.data.shards.reader import ShardSet
from diptych.data.sources.folder import FolderSource
from diptych.data.sources.rows import DRAWN, Source, digest_files, unique
from diptych.data.sources.table_rows import TABLE_SUFFIXES, table_header, table_suffix, unpack
from diptych.data.sources.tables import (
    COLUMNAR_SUFFIXES,
    ParquetSource,
    TableSource,
    image_column,
    needed_columns,
    open_parquet,
)

__all__ = ["Columns", "Need", "Source", "open_source"]

_SCENE_DEFAULTS = {"count": 10_000, "seed": 0, "size": 64}
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
    if text.startswith(DRAWN):
        return _open_scenes(text)
    path = Path(ref)
    if path.is_dir():
        return _open_folder(path, columns, need)
    if path.is_file():
        return _open_file(path, columns, need)
    if "{" in text or "::" in text:
        return ShardSource(text, need, columns)
    raise UsageError(
        "there is no such source",
        where=text,
        found="no file or folder of this name",
        expected="a folder, a CSV, TSV, Parquet or tar file, 'a/{000..009}.tar', or scenes:train",
        fix="check the path",
    )


def _open_folder(folder: Path, columns: Columns, need: Need) -> Source:
    if is_done(folder, KIND):
        return ShardSource(str(folder), need, columns)
    saved = _saved_files(folder)
    if saved:
        return ParquetSource(str(folder), saved, columns, need)
    files = sorted(path for path in folder.iterdir() if is_data(path.name) and path.is_file())
    tars = [path for path in files if is_tar(path.name)]
    columnar = tuple(path for path in files if path.suffix in COLUMNAR_SUFFIXES)
    texts = [path for path in files if table_suffix(path) in TABLE_SUFFIXES]
    images = FolderSource(folder, columns, need)
    count = sum(1 for _ in islice(images.walk(), len(tars) + 1))  # enough to see which are more
    if tars and count == len(tars):
        raise _several(folder, [*tars, *images.images()])
    if len(tars) > count:
        return _told(ShardSource(str(folder), need, columns), folder, images.images())
    tables: list[Source] = [TableSource(path, columns, need) for path in texts]
    tables += [ParquetSource(str(folder), columnar, columns, need)] if columnar else []
    listing = [table for table in tables if _names_images(table, columns, need)]
    if not listing and (not count or (Need.CAPTION in need and not images.has_texts())):
        listing = tables  # reading it says what it lacks
    if len(listing) > 1:
        raise _several(folder, [*texts, *columnar])
    if not listing and not count:
        return _open_below(folder, files, columns, need)
    read = {path for table in listing for path in _paths_of(table)}
    strays = [path for path in (*tars, *texts, *columnar) if path not in read]
    return _told(listing[0] if listing else images, folder, strays)


def _paths_of(table: Source) -> tuple[Path, ...]:
    return table.paths if isinstance(table, ParquetSource) else (Path(table.name),)


def _names_images(table: Source, columns: Columns, need: Need) -> bool:
    """Tell whether a table has the columns that make it a list of images."""
    path = _paths_of(table)[0]
    try:
        if not isinstance(table, ParquetSource):
            names, image = table_header(path, columns), columns.image
        else:
            with open_parquet(path) as file:
                names, image = list(file.schema_arrow.names), image_column(file, columns.image)
    except DiptychError:
        return False
    return {image, *needed_columns(replace(columns, image=image), need)} <= set(names)


def _told(source: Source, folder: Path, strays: list[Path]) -> Source:
    """Name what lies in a folder and is not read."""
    if strays:
        names = ", ".join(path.name for path in strays[:_SHOWN]) + (" …" if len(strays) > _SHOWN else "")
        warnings.warn(
            f"{folder}: not read: {names}; to read one instead, give the file itself, with --columns if its "
            "columns have other names",
            stacklevel=2,
        )
    return source


def _several(folder: Path, paths: list[Path]) -> UsageError:
    return UsageError(
        "this folder holds several sources",
        where=folder,
        found=", ".join(path.name for path in paths[:_SHOWN]) + (" …" if len(paths) > _SHOWN else ""),
        expected="images, tars, Parquet files of one layout, or one table that lists images",
        fix="give one of the files itself",
    )


def _open_below(folder: Path, files: list[Path], columns: Columns, need: Need) -> Source:
    """Open the one folder below that holds tars."""
    below = sorted(
        {path.parent for path in folder.glob("*/*") if is_tar(path.name) and is_data(path.parent.name)}
    )
    if len(below) == 1:
        return ShardSource(str(below[0]), need, columns)
    if below:
        raise _several(folder, below)
    raise UsageError(
        "this folder holds no images",
        where=folder,
        found=", ".join(path.name for path in files[:_SHOWN]) or "no files",
        expected="images (captions in .txt or .json beside them), tars, Parquet, or one CSV or TSV",
        fix="give the file itself if it is one of several",
    )


def _saved_files(folder: Path) -> tuple[Path, ...]:
    """Return the Arrow files of a folder that Hugging Face's `save_to_disk` wrote; () for any other.

    Raises:
        UsageError: it holds several splits, or its state names no files of the folder.
    """
    if (folder / _SPLITS).is_file():
        splits = read_json(folder / _SPLITS).get("splits")
        raise UsageError(
            "this folder holds several splits",
            where=folder,
            found=", ".join(map(str, splits))[:200] if isinstance(splits, list) else "",
            fix="give the folder of one of them",
        )
    if not (folder / _STATE).is_file():
        return ()
    files = read_json(folder / _STATE).get("_data_files")
    objects = [file for file in files if isinstance(file, dict)] if isinstance(files, list) else []
    names = [str(file.get("filename", "")) for file in objects]
    if not names or any(not name or Path(name).name != name for name in names):
        raise UsageError(
            "this folder names no files of a data set", where=folder / _STATE, expected="_data_files in it"
        )
    return tuple(folder / name for name in names)


def _open_file(path: Path, columns: Columns, need: Need) -> Source:
    with path.open("rb") as file:
        start = file.read(512)
    if start.startswith(_PARQUET_MAGIC) or path.suffix in COLUMNAR_SUFFIXES:
        return ParquetSource(str(path), (path,), columns, need)
    if is_tar(path.name) or start[257:262] == b"ustar":
        return ShardSource(str(path), need, columns)
    text = table_suffix(path) in (".txt", "") and (b"\0" not in start or start.startswith(UTF16))
    if table_suffix(path) not in (*TABLE_SUFFIXES, ".json") and not text:
        raise UsageError(
            "this is no kind of file that holds images",
            where=path,
            found=repr(start[:8]),
            expected="CSV, TSV, JSON lines, COCO captions, Parquet, Arrow or tar",
            fix="for one image use `diptych classify`; for a folder of images give the folder",
        )
    return TableSource(path, columns, need)


def _open_scenes(ref: str) -> "ScenesSource":
    parts = urlsplit(ref)
    settings = dict(_SCENE_DEFAULTS)
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in settings:
            raise unknown_name("setting of scenes", name, settings, where=ref)
        if not value.isdecimal() or len(value) > 18:
            raise UsageError(
                f"{name} is not a number", where=ref, found=repr(value[:40]), expected="a whole number"
            )
        settings[name] = int(value)
    from diptych.data.synthetic.dataset import SPLITS

    split = parts.path or "train"
    if split not in (*SPLITS, "crawl"):
        raise unknown_name("split", split, (*SPLITS, "crawl"), where=ref)
    return ScenesSource(split, **settings)


@dataclass(frozen=True, slots=True)
class ShardSource:
    """Our own shards, or WebDataset tars of others; damaged samples are dropped and counted."""

    name: str
    need: Need = Need.PAIR
    columns: Columns = DEFAULT_COLUMNS

    def pairs(self, counts: Counts) -> Iterator[Pair]:
        """Yield the pairs in order; see Source."""
        pairs = self._of_packed(counts) if self.packed() else self._of(ShardSet.open(self.name), counts)
        return unique(pairs, counts)

    def packed(self) -> bool:
        """Tell whether some of the tars are compressed, so that there is no random access."""
        own = is_done(Path(self.name), KIND)
        return not own and any(is_packed(path.name) for path in tar_paths(self.name))

    def _of(self, shards: ShardSet, counts: Counts) -> Iterator[Pair]:
        counts.merge(shards.counts)
        return shards.pairs(counts, on_damage="skip", need=self.need, columns=self.columns)

    def _of_packed(self, counts: Counts) -> Iterator[Pair]:
        """Yield the pairs of tars of which some are compressed; those are unpacked for the time being."""
        with TemporaryDirectory(prefix="diptych-") as scratch:
            given = {}
            for number, path in enumerate(tar_paths(self.name)):
                plain = Path(scratch) / str(number) / f"{path.name.partition('.')[0]}.tar"
                given[unpack(path, plain) if is_packed(path.name) else path] = path
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
    count: int
    seed: int
    size: int

    @property
    def name(self) -> str:
        """Return the full reference."""
        return f"{DRAWN}{self.split}?count={self.count}&seed={self.seed}&size={self.size}"

    def pairs(self, counts: Counts) -> Iterator[Pair]:
        """Yield the drawn pairs; see Source."""
        del counts  # nothing that our own code draws is bad
        return self.span(0, self.count)

    def span(self, first: int, last: int) -> Iterator[Pair]:
        """Yield the pairs from `first` to the one before `last`; none before them is drawn."""
        from diptych.data.synthetic.crawl import crawled
        from diptych.data.synthetic.dataset import scene_pair

        for index in range(first, min(last, self.count)):
            if self.split == "crawl":
                yield crawled(index, seed=self.seed, size=self.size)
            else:
                yield scene_pair(index, seed=self.seed, split=self.split, size=self.size)

    def inputs(self) -> tuple[FileEntry, ...]:
        """Name the images; see Source."""
        return (FileEntry(self.name, 0, sha256(self.name.encode()).hexdigest()),)
