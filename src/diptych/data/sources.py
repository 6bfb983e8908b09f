"""Sources of pairs: everything that `diptych pack`, `evaluate` and `search` can read, behind one contract.

Reads: a folder of images with side-car captions; CSV/TSV; Parquet; WebDataset tars and our own shards; the
drawn scenes (``scenes:train?count=20000&seed=1``, ``scenes:crawl``). The format is read
off the file. Bad rows are dropped and counted.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from diptych.core import checks
from diptych.core.errors import UsageError, unknown_name
from diptych.core.json_files import read_json
from diptych.core.manifest import FileEntry, is_done
from diptych.core.records import Counts, Need, Pair
from diptych.core.text_files import UTF16
from diptych.data.shards import ShardSet
from diptych.data.shards_index import KIND, tar_paths
from diptych.data.sources_folder import FolderSource
from diptych.data.sources_rows import DEFAULT_COLUMNS, DRAWN, Columns, Source, digest_files, unique
from diptych.data.sources_tables import COLUMNAR_SUFFIXES, ParquetSource, TableSource
from diptych.data.table_rows import TABLE_SUFFIXES, table_suffix

__all__ = ["Columns", "Need", "Source", "open_source"]

_SCENE_DEFAULTS = {"count": 10_000, "seed": 0, "size": 64}
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
    names = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    if any(path.suffix == ".tar" for path in names):
        return ShardSource(str(folder), need, columns)
    parquet = tuple(path for path in names if path.suffix in COLUMNAR_SUFFIXES)
    if parquet:
        return ParquetSource(str(folder), parquet, columns, need)
    tables = [path for path in names if table_suffix(path) in TABLE_SUFFIXES]
    if len(tables) == 1:
        return TableSource(tables[0], columns, need)
    source = FolderSource(folder, columns, need)
    if not source.images():
        raise UsageError(
            "this folder holds no images",
            where=folder,
            found=", ".join(path.name for path in names[:5]) or "no files",
            expected="images (captions in .txt or .json beside them), tars, Parquet, or one CSV or TSV",
            fix="give the file itself if it is one of several",
        )
    return source


def _saved_files(folder: Path) -> tuple[Path, ...]:
    """Return the Arrow files of a folder that Hugging Face's `save_to_disk` wrote; () for any other.

    Raises:
        UsageError: it holds several splits, or its state names no files of the folder.
    """
    if (folder / _SPLITS).is_file():
        raise UsageError(
            "this folder holds several splits",
            where=folder,
            found=", ".join(map(str, read_json(folder / _SPLITS).get("splits", ())))[:200],
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
    if path.suffix == ".tar" or start[257:262] == b"ustar":
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
    from diptych.data.scenes import SPLITS

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
        shards = ShardSet.open(self.name)
        counts.merge(shards.counts)
        return unique(shards.pairs(counts, on_damage="skip", need=self.need, columns=self.columns), counts)

    def inputs(self) -> tuple[FileEntry, ...]:
        """Digest the tars; see Source."""
        paths = tar_paths(self.name)
        return digest_files("tars", paths, root=paths[0].parent)


@dataclass(frozen=True, slots=True)
class ScenesSource:
    """Pictures drawn by code; the reference says everything about them."""

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
        from diptych.data.scenes import picture
        from diptych.data.scenes_crawl import crawled

        for index in range(first, min(last, self.count)):
            if self.split == "crawl":
                yield crawled(index, seed=self.seed, size=self.size)
            else:
                yield picture(index, seed=self.seed, split=self.split, size=self.size)

    def inputs(self) -> tuple[FileEntry, ...]:
        """Name the pictures; see Source."""
        return (FileEntry(self.name, 0, sha256(self.name.encode()).hexdigest()),)
