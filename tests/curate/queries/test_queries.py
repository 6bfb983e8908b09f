"""The list of queries: who is in it, in which order, and who is cut."""

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from diptych.core.errors import DataError, UsageError
from diptych.curate.columns import QUERIES
from diptych.curate.queries.counting import COUNTS
from diptych.curate.queries.queries import QueriesSettings, build_queries, read_counts

SETTINGS = QueriesSettings(min_word_count=10, min_pair_count=4, min_pmi=3.0, min_views=5)


def table(counts: dict[str, int]) -> pa.Table:
    return pa.table([list(counts), list(counts.values())], schema=COUNTS)


WORDS = table({"a": 400, "cream": 8, "dog": 30, "ice": 16, "york": 10, "new": 40})
PAIRS = [table({"a dog": 20, "dog ice": 3}), table({"ice cream": 4, "new york": 10, "un known": 50})]
TITLES = [
    table({"Dog": 90, "Mercury (planet)": 3, "Mercury (element)": 4, "Rare": 4, "Ice Age: The Film": 6})
]
COUNTED: dict[str, Any] = {"words": WORDS, "total": 1024, "pairs": PAIRS}
LISTED: dict[str, Any] = {
    "lemmas": ["dog", "domestic dog", "ice", "frappé", "dog"],
    "own": ("My Own!", "dog", ""),
}
EVERY_WORD = ["a", "new", "dog", "ice", "york"]


def rows(queries: pa.Table) -> list[tuple[str, str, int]]:
    assert queries.schema.equals(QUERIES)
    return [(row["query"], row["source"], row["count"]) for row in queries.to_pylist()]


def test_sources_come_in_the_papers_order_and_the_first_one_wins() -> None:
    """PMI by hand: ice cream log2(4 * 1024 / (16 * 8)) = 5, new york log2(10 * 1024 / (40 * 10)) = 4.68,
    a dog log2(20 * 1024 / (400 * 30)) = 0.77."""
    queries = build_queries(SETTINGS, titles=TITLES, **COUNTED, **LISTED)
    assert rows(queries) == [
        ("a", "words", 400), ("new", "words", 40), ("dog", "words", 30), ("ice", "words", 16),
        ("york", "words", 10),
        ("new york", "bigrams", 10), ("ice cream", "bigrams", 4),
        ("mercury", "titles", 7), ("ice age the film", "titles", 6),
        ("domestic dog", "wordnet", 1), ("frappé", "wordnet", 1),
        ("my own", "list", 1),
    ]  # fmt: skip
    assert queries["score"].to_pylist()[:7] == [None] * 5 + [pytest.approx(math.log2(25.6)), pytest.approx(5)]
    pairs = [PAIRS[1].slice(1), PAIRS[0], PAIRS[1].slice(0, 1), COUNTS.empty_table()]
    counted = {"words": WORDS.take(pa.array([5, 4, 3, 2, 1, 0])), "total": 1024, "pairs": iter(pairs)}
    assert build_queries(SETTINGS, titles=iter(TITLES), **counted, **LISTED).equals(queries)


@pytest.mark.parametrize(
    ("most", "left"),
    [
        (11, [*EVERY_WORD, "new york", "ice cream", "mercury", "domestic dog", "frappé", "my own"]),
        (9, [*EVERY_WORD, "new york", "domestic dog", "frappé", "my own"]),
        (7, ["a", "new", "dog", "ice", "domestic dog", "frappé", "my own"]),
        (5, ["dog", "ice", "domestic dog", "frappé", "my own"]),
        (3, ["dog", "ice", "my own"]),
        (2, ["dog", "my own"]),
    ],
)  # fmt: skip
def test_what_is_too_much_is_cut_from_titles_then_bigrams_then_words(most: int, left: list[str]) -> None:
    settings = QueriesSettings(most, 10, 4, 3.0, min_views=5)
    queries = build_queries(settings, titles=TITLES, **COUNTED, **LISTED)
    assert [row[0] for row in rows(queries)] == left


def test_bigrams_stop_at_their_most_frequent_titles_may_keep_parentheses_and_numbers_be_added() -> None:
    queries = build_queries(QueriesSettings(10, 10, 4, 3.0, max_bigrams=1), **COUNTED)
    assert [row for row in rows(queries) if row[1] == "bigrams"] == [("new york", "bigrams", 10)]
    settings = QueriesSettings(min_views=4, strip_parentheses=False, numbers=2)
    assert rows(build_queries(settings, titles=TITLES)) == [
        ("dog", "titles", 90), ("ice age the film", "titles", 6), ("mercury element", "titles", 4),
        ("rare", "titles", 4), ("0", "list", 1), ("1", "list", 1),
    ]  # fmt: skip
    assert rows(build_queries(SETTINGS)) == []


def test_lists_of_counts_are_read(tmp_path: Path, shared_data: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("word,count\nDog,5\ndon't,7\ndog,1\n")
    words, total = read_counts(path, words=1)
    assert (words.to_pylist(), total) == ([{"word": "dog", "count": 6}], 13)
    one, total = read_counts(shared_data / "text" / "1grams_english.csv", words=1)
    two, _ = read_counts(shared_data / "text" / "2grams_english.csv", words=2)
    queries = build_queries(QueriesSettings(), words=one, total=total, pairs=[two])
    found = {row["query"]: row for row in queries.to_pylist()}
    assert found["the"]["count"] == 13_616_383_631
    assert found["supreme court"]["score"] == pytest.approx(11.157, abs=0.001)
    assert "of the" not in found and "has been" not in found


def test_lists_that_are_too_long_pairs_without_words_and_files_without_counts_are_refused(
    tmp_path: Path,
) -> None:
    with pytest.raises(UsageError, match="own queries"):
        build_queries(QueriesSettings(max_queries=1), **LISTED)
    with pytest.raises(DataError, match="counts of words"):
        build_queries(SETTINGS, pairs=PAIRS)
    (tmp_path / "a.csv").write_text("nothing\n1\n")
    with pytest.raises(DataError, match=r"a\.csv"):
        read_counts(tmp_path / "a.csv", words=1)
