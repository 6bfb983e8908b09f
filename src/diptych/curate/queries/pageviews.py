"""How often the articles of a Wikipedia were looked at, from Wikimedia's page-view files.

Two kinds of lines are read, told apart by their number of fields:

- `pageviews-YYYYMMDD-HH0000.gz`, an hour: `domain title views bytes`; "en" is the desktop site, "en.m" the
  mobile one.
- `pageviews-YYYYMMDD-user.bz2` (pageview_complete), a day: `wiki title page_id access views hourly`, or
  without the page id; wiki is "en.wikipedia".

Source: dumps.wikimedia.org/other/pageviews/readme.html and /other/pageview_complete/readme.html.
"""

import bz2
import gzip
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

from diptych.core.errors import DataError, UsageError
from diptych.curate.queries.counting import COUNTS, merge_counts, write_counts

# In English; with "_talk" behind them too.
NAMESPACES = frozenset((
    "talk", "user", "wikipedia", "wp", "project", "file", "image", "mediawiki", "template", "help",
    "category", "portal", "draft", "module", "special", "media", "book", "timedtext",
    "education_program", "gadget", "gadget_definition", "topic", "mos",
))  # fmt: skip
NO_ARTICLES = frozenset({"-", "Main_Page", "main_page", "404.php", "index.html", "Undefined", "undefined"})
BYTES_PER_TITLE = 250  # of memory: a dictionary's entry, its title, its number, and its share when sorted
LEAST_TITLES = 1_000
HOURLY_FIELDS = 4


def article_views(
    paths: Sequence[str],
    *,
    language: str = "en",
    memory_bytes: int = 1 << 30,
    scratch: Path | None = None,
) -> Iterator[pa.Table]:
    """Add up the views of every article over all files; yield tables of `COUNTS`, sorted by title.

    Titles are unquoted, their underscores become spaces. Pages outside the article namespace, the main page
    and "-" (no title) are left out. What does not fit into the memory goes to a folder in `scratch`.

    Raises:
        UsageError: a file does not exist.
        DataError: a file is damaged, or holds no page views; or no file names an article of the language.
    """
    most = max(LEAST_TITLES, memory_bytes // BYTES_PER_TITLE)
    with tempfile.TemporaryDirectory(dir=scratch, prefix="diptych-views-") as folder:
        runs: list[Path] = []
        views: dict[str, int] = {}

        def spill() -> None:
            titles = sorted(views, key=lambda title: title.encode("utf-8"))
            runs.append(Path(folder) / f"{len(runs):05d}.parquet")
            write_counts(runs[-1], [pa.table([titles, [views[title] for title in titles]], schema=COUNTS)])
            views.clear()

        for title, number in (row for path in paths for row in _articles(Path(path), language)):
            views[title] = views.get(title, 0) + number
            if len(views) >= most:
                spill()
        if views:
            spill()
        if paths and not runs:
            raise DataError(
                "the page-view files name no article of this Wikipedia",
                where=", ".join(paths)[:200],
                found="no article",
                expected=f"lines that begin with {language!r} or {language + '.wikipedia'!r}",
                fix="set queries.language to the code of the Wikipedia, or leave queries.pageviews out",
            )
        yield from merge_counts(runs, memory_bytes=memory_bytes, scratch=Path(folder))


def _articles(path: Path, language: str) -> Iterator[tuple[str, int]]:
    """Yield titles and views of one file."""
    ours = (f"{language} ".encode(), f"{language}.m ".encode(), f"{language}.wikipedia ".encode())
    lines = bad = 0
    for lines, line in enumerate(_lines(path), start=1):  # noqa: B007 — named in the error below
        article = _views(line) if line.startswith(ours) else ("", 0)
        bad += article is None
        if article and article[0]:
            yield article
    if bad > lines // 2:
        found, expected = f"{bad:,} of {lines:,} lines cannot be read", "domain title views bytes"
        raise DataError("a file holds no page views", where=path, found=found, expected=expected)


def _lines(path: Path) -> Iterator[bytes]:
    readers: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open}
    try:
        with readers.get(path.suffix, open)(path, "rb") as file:
            yield from file
    except FileNotFoundError as error:
        raise UsageError("a page-view file does not exist", where=path, fix="check the path") from error
    except (OSError, EOFError, zlib.error) as error:
        what, found = "a page-view file cannot be read", str(error)[:200]
        raise DataError(what, where=path, found=found, fix="download it again") from error


def _views(line: bytes) -> tuple[str, int] | None:
    """Read one line; the title is empty if it is no article's; None if the line is nonsense."""
    fields = line.split(b" ")
    try:
        views = int(fields[2 if len(fields) == HOURLY_FIELDS else -2])
        title = unquote(fields[1].decode("utf-8"), errors="strict")
    except (ValueError, IndexError):
        return None
    prefix, colon, _ = title.partition(":")
    namespace = prefix.lower().replace(" ", "_").removesuffix("_talk") if colon else ""
    is_article = title not in NO_ARTICLES and namespace not in NAMESPACES
    return title.replace("_", " ").strip() if is_article else "", views
