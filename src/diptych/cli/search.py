"""`diptych index` makes and changes an index of images; `diptych search` finds images in it."""

import base64
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg, subcommand

from diptych.cli.arguments import MAX_BAD_FRACTION, ImageOptions, JsonFile, parse_columns
from diptych.cli.output import print_dropped, print_json
from diptych.core.errors import MissingPackageError, UsageError
from diptych.core.machine import keep_freed_memory

if TYPE_CHECKING:
    from diptych.models.model import Model
    from diptych.search.index import Index
    from diptych.search.items import Item
    from diptych.search.query import Hit

IndexFolder = Annotated[Positional[Path], arg(metavar="INDEX")]
SHOWN_CAPTION = 60  # characters in the table


@dataclass(frozen=True)
class Add:
    """Add sources to an index, made if it is new; without sources bring it up to date.

    New, changed, moved and removed images are recognized. Images need no captions.

    Attributes:
        index: folder of the index.
        sources: folders of images at any depth, CSV/TSV, Parquet, tar shards, scenes:test.
        model: what embeds the images, of a new index; later the index remembers it.
        read: how images are read, of a new index.
        columns: names of a table's columns, for example image=photo,caption=title.
        watch: stay, and follow the folders' changes until interrupted.
        workers: decoding threads.
        bad: a file for the list of images that cannot be read, as JSON.
        max_bad_fraction: share of images that cannot be read above which the exit code is 3.
        json: where the counts go.
    """

    index: IndexFolder
    sources: Annotated[Positional[tuple[str, ...]], arg(metavar="SOURCE")] = ()
    model: str = ""
    read: ImageOptions = field(default_factory=ImageOptions)
    columns: str = ""
    watch: bool = False
    workers: int = 2
    bad: Path | None = None
    max_bad_fraction: float = MAX_BAD_FRACTION
    json: JsonFile = "-"

    def run(self) -> int:
        """Run the command."""
        keep_freed_memory()
        from diptych.core.manifest import is_done
        from diptych.models.load import load
        from diptych.search.add import add
        from diptych.search.index import KIND, Index

        if is_done(self.index, KIND):
            index = Index.open(self.index)
            model = load(self.model or index.entry.model)
        elif not self.model:
            what, fix = (
                "a new index needs a model",
                "add --model, with a checkpoint, a hub id or a short name",
            )
            raise UsageError(what, where=self.index, fix=fix)
        else:
            model = self.read.load(self.model)
            local = Path(self.model)
            name = str(local.absolute()) if local.exists() else self.model
            index = Index.create(self.index, model, name)
        columns = parse_columns(self.columns) if self.columns else None
        report = add(index, model, self.sources, columns=columns, workers=self.workers)
        print_dropped(report.counts)
        if self.bad is not None:
            print_json([{"image": image, "reason": reason} for image, reason in report.bad], str(self.bad))
        print_json({**report.as_dict(), "images": len(index)}, self.json)
        if self.watch:
            _watch(index, model, self.workers)
        report.counts.check(self.max_bad_fraction)
        return 0


@dataclass(frozen=True)
class Remove:
    """Take sources or single files out of an index; the images themselves stay where they are.

    Attributes:
        names: sources as they were added, or files.
    """

    index: IndexFolder
    names: Annotated[Positional[tuple[str, ...]], arg(metavar="NAME")]

    def run(self) -> int:
        """Run the command."""
        from diptych.search.add import remove
        from diptych.search.index import Index

        index = Index.open(self.index)
        return print_json({"removed": remove(index, self.names), "images": len(index)})


@dataclass(frozen=True)
class Verify:
    """Hold every byte of an index against its manifest."""

    index: IndexFolder

    def run(self) -> int:
        """Run the command."""
        from diptych.search.index import Index

        index = Index.open(self.index)
        index.verify()
        return print_json({"segments": len(index.segments), "images": len(index)})


@dataclass(frozen=True)
class Compact:
    """Write an index anew without what was removed from it."""

    index: IndexFolder

    def run(self) -> int:
        """Run the command."""
        from diptych.search.index import Index

        index = Index.open(self.index)
        index.compact()
        return print_json({"segments": len(index.segments), "images": len(index)})


@dataclass(frozen=True)
class Info:
    """Say what an index holds."""

    index: IndexFolder

    def run(self) -> int:
        """Run the command."""
        from diptych.search.filters import NAMES, PLACE_NAMES
        from diptych.search.index import Index

        index = Index.open(self.index)
        sizes = [size for segment in index.segments for size, _ in segment.entry.files.values()]
        return print_json(
            {
                "images": len(index),
                "model": index.entry.model,
                "model_digest": index.entry.model_digest,
                "dimensions": index.entry.width,
                "read": dict(index.manifest.settings),
                "sources": {name: dict(how) for name, how in index.entry.sources.items()},
                "segments": len(index.segments),
                "bytes": sum(sizes),
                "filters": [*NAMES, *PLACE_NAMES, *index.columns()],
            }
        )


def index(
    action: Annotated[Add, subcommand("add", prefix_name=False)]
    | Annotated[Remove, subcommand("remove", prefix_name=False)]
    | Annotated[Verify, subcommand("verify", prefix_name=False)]
    | Annotated[Compact, subcommand("compact", prefix_name=False)]
    | Annotated[Info, subcommand("info", prefix_name=False)],
) -> int:
    """Make an index of images to search in, and keep it up to date."""
    return action.run()


@dataclass(frozen=True)
class Shown:
    """What a search gives.

    Attributes:
        show: what is printed: records, a line a hit (with images in terminals that can), or paths.
        zero: print paths, each with a zero byte behind it, for xargs -0.
        sheet: write a page with the images.
        links: fill a new folder with links to the images, named in the order of the hits.
        json: where the records go: a file, or - for stdout.
    """

    show: Literal["json", "table", "paths"] = "json"
    zero: Annotated[bool, arg(aliases=["-0"])] = False
    sheet: Path | None = None
    links: Path | None = None
    json: JsonFile = "-"


def search(
    index: IndexFolder,
    query: Annotated[Positional[str], arg(metavar="QUERY")],
    *,
    k: Annotated[int, arg(name="k", aliases=["-k"], metavar="N")] = 10,
    where: str = "",
    by: Literal["both", "images", "words"] = "both",
    shown: Shown = Shown(),
) -> int:
    """Find images by a text, an image, or a sum of them.

    Args:
        index: folder of an index: diptych index add.
        query: "a cat asleep", photo.jpg, like:KEY of an image of the index, or "beach + 0.5: b.jpg - crowd".
        k: how many images.
        where: filter, for example "year >= 2020 and camera like 'Pixel%'"; index info lists the names.
        by: images: by what they show; words: by names, captions and columns; both: fused by ranks.
        shown: what is given.
    """
    if k < 1:
        raise UsageError("no result is asked for", where="-k", found=k, expected="1 or more images")
    if not query.strip():
        raise UsageError("the query is empty", where="QUERY", found=repr(query), expected="a text")
    keep_freed_memory()
    from diptych.models.load import load
    from diptych.search.index import Index
    from diptych.search.query import Searcher

    opened = Index.open(index)
    hits = Searcher(load(opened.entry.model), opened).search(query, k, where=where, by=by)
    if shown.sheet is not None:
        _write_sheet(shown.sheet, query, hits)
    if shown.links is not None:
        _write_links(shown.links, hits)
    if shown.zero or shown.show == "paths":
        end = "\0" if shown.zero else "\n"
        sys.stdout.write("".join(hit.path + end for hit in hits if hit.path))
        return 0
    if shown.show == "table":
        return _print_table(hits)
    return print_json([record(rank, hit) for rank, hit in enumerate(hits, start=1)], shown.json)


def duplicates(
    index: IndexFolder, *, min_cosine: float = 0.9, min_similarity: float = 0.9, json: JsonFile = "-"
) -> int:
    """Find images that are there twice, or nearly so, with the best of each group to keep.

    Args:
        index: folder of an index: diptych index add.
        min_cosine: cosine of two images' embeddings from which on the images themselves are compared.
        min_similarity: share of a thumbnail's variance that the other one explains; raise it where all images
            are of one kind.
        json: where the groups go: a file, or - for stdout.
    """
    from diptych.data.near_copies.groups import DedupSettings
    from diptych.search.duplicates import duplicates as find
    from diptych.search.index import Index

    settings = DedupSettings(min_similarity=min_similarity)
    groups, counts = find(Index.open(index), settings=settings, min_cosine=min_cosine)
    print_dropped(counts)

    def files(item: "Item") -> list[str]:
        return [place.path or place.key for place in item.places]

    return print_json(
        [
            {"best": files(group.best)[0], "equal": files(group.best)[1:],
             "near": [file for item in group.near for file in files(item)]}
            for group in groups
        ],
        json,
    )  # fmt: skip


def record(rank: int, hit: "Hit") -> dict[str, Any]:
    """Return a hit as plain values."""
    item = hit.item
    record: dict[str, Any] = {
        "rank": rank,
        "key": hit.key,
        "path": hit.path or None,
        "score": round(hit.score, 6),
        "caption": item.caption or None,
    }
    facts = ("taken", "camera", "latitude", "longitude", "width", "height", "seconds")
    record |= {name: value for name in facts if (value := getattr(item, name))}
    if len(item.places) > 1:
        record["also"] = [place.path or place.key for place in item.places[1:]]
    return {**record, **({"fields": dict(item.fields)} if item.fields else {})}


def _print_table(hits: Sequence["Hit"]) -> int:
    """Print a line a hit, with the image above it in terminals that show images."""
    from diptych.report.page import thumbnail
    from diptych.search.query import read_images

    draw = _terminal_image() if sys.stdout.isatty() else None
    files = dict(read_images([hit.item for hit in hits])) if draw else {}
    for rank, hit in enumerate(hits, start=1):
        if draw and (small := thumbnail(files.get(rank - 1, b""), "PNG")):
            sys.stdout.write(draw.format(base64.b64encode(small).decode()) + "\n")
        words = (hit.item.taken[:10], hit.caption[:SHOWN_CAPTION], hit.path or hit.key)
        sys.stdout.write(f"{rank:>4}  {hit.score:.3f}  {'  '.join(word for word in words if word)}\n")
    return 0


def _terminal_image() -> str | None:
    """Return the escape sequence for an image of this terminal: kitty's or iTerm2's; None without images."""
    program = os.environ.get("TERM_PROGRAM", "").lower()
    if "KITTY_WINDOW_ID" in os.environ or program == "ghostty":
        return "\x1b_Ga=T,f=100,r=6;{}\x1b\\"
    return "\x1b]1337;File=inline=1;height=6:{}\a" if program in ("iterm.app", "wezterm", "vscode") else None


def _write_sheet(path: Path, query: str, hits: Sequence["Hit"]) -> None:
    from diptych.report.data import ImageExample
    from diptych.report.page import Header, write_page
    from diptych.search.query import read_images

    examples, files = [], dict(read_images([hit.item for hit in hits]))
    for number, hit in enumerate(hits):
        words = (hit.item.taken[:10], hit.caption or hit.key, f"{hit.score:.3f}")
        note = " · ".join(word for word in words if word)
        examples.append(ImageExample(files.get(number, b""), hit.path or hit.key, note=note))
    head = Header("search", query, f"{len(hits)} images, the best first.")
    write_page(path, "sheet.html", head, examples=examples)


def _write_links(folder: Path, hits: Sequence["Hit"]) -> None:
    """Fill a folder with links whose names begin with the rank."""
    from diptych.core.files.durable import staging_folder

    width = len(str(len(hits)))
    with staging_folder(folder) as staged:
        for rank, hit in enumerate(hits, start=1):
            if hit.path:
                (staged / f"{rank:0{width}} {Path(hit.path).name}").symlink_to(hit.path)


def _watch(index: "Index", model: "Model", workers: int) -> None:
    """Bring the index up to date whenever something changes in its folders, until interrupted."""
    try:
        from watchfiles import watch
    except ImportError as error:
        what, fix = "--watch needs a package", 'pip install "diptych[photos]"'
        raise MissingPackageError(what, found=f"no {error.name}", fix=fix) from error
    from diptych.search.add import add

    folders = [name for name in index.entry.sources if Path(name).is_dir()]
    sys.stderr.write(f"watching {', '.join(folders)}; stop with Ctrl-C\n")
    for changes in watch(*folders):
        changed = [name for name in folders if any(Path(path).is_relative_to(name) for _, path in changes)]
        report = add(index, model, changed, workers=workers)
        line = f"{report.added} added, {report.moved} moved, {report.vanished} gone, {len(index)} images"
        sys.stderr.write(f"{time.strftime('%H:%M:%S')}  {line}\n")
