"""Views of articles are added up over files of both kinds, whatever the memory."""

import bz2
import gzip
from pathlib import Path

import pyarrow as pa
import pytest
from tests.curate.miniatures import write_pageviews

from diptych.core.errors import DataError, UsageError
from diptych.curate.queries import pageviews
from diptych.curate.queries.counting import COUNTS
from diptych.curate.queries.pageviews import article_views


def views(*paths: Path, **options: int) -> dict[str, int]:
    table = pa.concat_tables([COUNTS.empty_table(), *article_views(paths, **options)])
    return dict(zip(table["word"].to_pylist(), table["count"].to_pylist(), strict=True))


def test_hours_and_days_are_added_up_and_other_wikis_left_out(tmp_path: Path) -> None:
    hour = write_pageviews(
        tmp_path / "pageviews-20260101-000000.gz",
        [("en", "Dog", 5), ("en.m", "Dog", 7), ("de", "Hund", 90), ("en.d", "dog", 8), ("enx", "Dog", 9)],
    )
    day = write_pageviews(
        tmp_path / "pageviews-20260102-user.bz2",
        [("en", "Dog", 100), ("en.m", "Star_Wars:_Episode_I", 3), ("de", "Hund", 4)],
    )
    assert views(hour, day) == {"Dog": 112, "Star Wars: Episode I": 3}
    assert views(day, hour, min_views=4) == {"Dog": 112}


def test_titles_are_unquoted_and_pages_that_are_no_articles_left_out(tmp_path: Path) -> None:
    path = write_pageviews(
        tmp_path / "pageviews-20260101-000000.gz",
        [
            ("en", "Caf%C3%A9_au_lait", 2),
            ("en", "Café_au_lait", 3),
            ("en", "AC/DC", 1),
            ("en", "Main_Page", 99),
        ]
        + [
            ("en", name, 50)
            for name in ("-", "Special:Search", "File:A.jpg", "Talk:Dog", "User_talk:A", "Wikipedia:B")
        ],
    )
    assert views(path) == {"Café au lait": 5, "AC/DC": 1}


def test_lines_without_page_id_and_odd_lines_are_survived(tmp_path: Path) -> None:
    path = tmp_path / "pageviews-20260101-user.bz2"
    lines = """en.wikipedia Dog desktop 4 A4
en.wikipedia Cat null mobile-web 2 B2
en.wikipedia Dog 17 mobile-app 1 B1
en.wikipedia Bad%FF 1 desktop 2 A2
en.wikipedia Dog
de.wikipedia Hund 1
"""
    path.write_bytes(bz2.compress(lines.encode() + b"en.wikipedia \xff 1 desktop 2 A2\n"))
    assert views(path) == {"Cat": 2, "Dog": 5}


def test_little_memory_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [("en", f"Title_{number * 7919 % 97}", number % 5 + 1) for number in range(1_000)]
    expected: dict[str, int] = {}
    for _, title, count in rows:
        expected[title.replace("_", " ")] = expected.get(title.replace("_", " "), 0) + count
    path = write_pageviews(tmp_path / "pageviews-20260101-000000.gz", rows)
    monkeypatch.setattr(pageviews, "LEAST_TITLES", 10)
    assert views(path, memory_bytes=1) == expected
    assert list(expected) != sorted(expected) == list(views(path, memory_bytes=1))


def test_damaged_missing_and_foreign_files_are_told(tmp_path: Path) -> None:
    path = write_pageviews(
        tmp_path / "pageviews-20260101-000000.gz", [("en", f"A{n}", n) for n in range(999)]
    )
    whole = path.read_bytes()
    middle = len(whole) // 2
    for damaged in (whole[:-100], whole[:middle] + b"\xff" * 200 + whole[middle + 200 :]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="cannot be read"):
            views(path)
    with pytest.raises(UsageError, match="does not exist"):
        views(tmp_path / "none.gz")
    path.write_bytes(gzip.compress(b"en is a language\nen of many\n"))
    with pytest.raises(DataError, match="no page views"):
        views(path)


def test_files_without_an_article_of_the_language_are_told(tmp_path: Path) -> None:
    path = write_pageviews(tmp_path / "pageviews-20260101-000000.gz", [("de", "Hund", 9), ("en", "-", 4)])
    with pytest.raises(DataError, match=r"no article of this Wikipedia(.|\n)*'en'"):
        views(path)
