"""Views of articles are added up over files of both kinds, whatever the memory."""

import bz2
import gzip
from pathlib import Path

import pyarrow as pa
import pytest
from tests.curate.miniatures import write_pageviews

from diptych.core.errors import DataError, DiptychError, UsageError
from diptych.curate.queries import pageviews
from diptych.curate.queries.counting import COUNTS
from diptych.curate.queries.pageviews import article_views

HOUR, DAY = "pageviews-20260101-000000.gz", "pageviews-20260102-user.bz2"


def views(*paths: Path, **options: int) -> dict[str, int]:
    tables = article_views([*map(str, paths)], **options)
    table = pa.concat_tables([COUNTS.empty_table(), *tables])
    return dict(zip(table["word"].to_pylist(), table["count"].to_pylist(), strict=True))


def test_hours_and_days_are_added_up_and_other_wikis_left_out(tmp_path: Path) -> None:
    hour = [("en", "Dog", 5), ("en.m", "Dog", 7), ("de", "Hund", 90), ("en.d", "dog", 8), ("enx", "Dog", 9)]
    day = b"en.wikipedia Dog 7 desktop 100 A100\nen.wikipedia Star_Wars:_Episode_I 8 mobile-web 3 A3\n"
    (tmp_path / DAY).write_bytes(bz2.compress(day + b"de.wikipedia Hund 9 desktop 4 A4\n"))
    files = write_pageviews(tmp_path / HOUR, hour), tmp_path / DAY
    assert views(*files) == views(*reversed(files)) == {"Dog": 112, "Star Wars: Episode I": 3}


def test_titles_are_unquoted_and_pages_that_are_no_articles_left_out(tmp_path: Path) -> None:
    others = ("Main_Page", "-", "Special:Search", "File:A.jpg", "Talk:Dog", "User_talk:A", "Wikipedia:B")
    rows = [("en", "Caf%C3%A9_au_lait", 2), ("en", "Café_au_lait", 3), ("en", "AC/DC", 1)]
    path = write_pageviews(tmp_path / HOUR, rows + [("en", name, 50) for name in others])
    assert views(path) == {"Café au lait": 5, "AC/DC": 1}


def test_lines_without_page_id_and_odd_lines_are_survived(tmp_path: Path) -> None:
    lines = b"""en.wikipedia Dog desktop 4 A4
en.wikipedia Cat null mobile-web 2 B2
en.wikipedia Dog 17 mobile-app 1 B1
en.wikipedia Bad%FF 1 desktop 2 A2
en.wikipedia Dog
de.wikipedia Hund 1
en.wikipedia \xff 1 desktop 2 A2
"""
    (tmp_path / DAY).write_bytes(bz2.compress(lines))
    assert views(tmp_path / DAY) == {"Cat": 2, "Dog": 5}


def test_little_memory_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [("en", f"Title_{number * 7919 % 97}", number % 5 + 1) for number in range(1_000)]
    expected: dict[str, int] = {}
    for _, title, count in rows:
        expected[title.replace("_", " ")] = expected.get(title.replace("_", " "), 0) + count
    path = write_pageviews(tmp_path / HOUR, rows)
    monkeypatch.setattr(pageviews, "LEAST_TITLES", 40)
    assert views(path, memory_bytes=1) == expected
    assert list(expected) != sorted(expected) == list(views(path, memory_bytes=1))


WHOLE = gzip.compress(b"".join(b"en A%d %d 0\n" % (n * n, n) for n in range(999)))


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (None, UsageError, "does not exist"),
        (WHOLE[:-100], DataError, "cannot be read"),
        (WHOLE[:900] + b"\xff" * 200 + WHOLE[1100:], DataError, "cannot be read"),
        (gzip.compress(b"en is a language\nen of many\n", mtime=0), DataError, "no page views"),
        (
            gzip.compress(b"de Hund 9 0\nen - 4 0\n", mtime=0),
            DataError,
            r"no article of this Wikipedia(.|\n)*'en'",
        ),
    ],
)
def test_damaged_missing_and_foreign_files_are_told(
    tmp_path: Path, data: bytes | None, error: type[DiptychError], message: str
) -> None:
    if data is not None:
        (tmp_path / HOUR).write_bytes(data)
    with pytest.raises(error, match=message):
        views(tmp_path / HOUR)
