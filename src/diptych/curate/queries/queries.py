"""The queries that pairs are looked for with: words, bi-grams, titles, WordNet, and a user's own list.

Sources come in the paper's order, and a query belongs to the first that names it: all words that are
frequent in Wikipedia; pairs of words with high mutual information; titles of articles that are looked at
often; what WordNet has besides; then the user's list. Within a source the most frequent come first.

The list stops at `max_queries`. The paper adds *all* synsets, so WordNet and the user's list keep their
places, and what is too much is cut where it is least known: from the end of the titles, then of the
bi-grams, then of the words. (MetaCLIP's reconstruction ends in the titles too.)

Mutual information is log2(n(xy) N / (n(x) n(y))), with N the number of words counted: that of Church and
Hanks, and NLTK's, which MetaCLIP thresholds at 30. It cannot be above log2(N / n(xy)), which in Wikipedia (N
near 4e9) is 32 for pairs seen once and 25 for those seen 100 times: at 30 only pairs that hardly occur are
left. Hence our own threshold, with a minimum count: "new york" has about 10, "ice cream" 13, "of the" 2.

Reads: tables of counts, page views, WordNet. Writes: nothing.
Source: Radford et al. 2021, section 2.2; Xu et al. 2023 (MetaCLIP), section 3.1; Church and Hanks 1990.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pc_csv

from diptych.core.errors import DataError, UsageError
from diptych.curate.columns import QUERIES
from diptych.curate.queries.counting import COUNTS
from diptych.curate.words import normalized_column, text_array
from diptych.data.wordnet import WordNet

SOURCES = ("words", "bigrams", "titles", "wordnet", "list")
CUT_FIRST = ("titles", "bigrams", "words")
METACLIP = {"words": 251_465, "bigrams": 100_646, "titles": 61_235, "wordnet": 86_654}
"""Queries per source in MetaCLIP's reconstruction, 500,000 in all (docs/metaclip2.md)."""
TOTAL = b"total"
"""Key in the metadata of a table of counts: how many words were counted, those left out included."""


@dataclass(frozen=True, slots=True)
class QueriesSettings:
    """Which queries to make.

    Attributes:
        max_queries: at most so many.
        min_word_count: of a word in the corpus.
        min_pair_count: of a bi-gram in the corpus.
        min_pmi: of a bi-gram, in bits (see above).
        max_bigrams: at most so many, the most frequent; the paper does not tell, MetaCLIP has 100,646.
        min_views: of an article, over all files of page views, titles of the same words added up.
        strip_parentheses: a title without what tells it from others: "Mercury (planet)" is "mercury".
        numbers: add "0", "1", … below this to the user's list; MetaCLIP has 100.
    """

    max_queries: int = 500_000
    min_word_count: int = 100
    min_pair_count: int = 100
    min_pmi: float = 8.0
    max_bigrams: int | None = 100_000
    min_views: int = 70
    strip_parentheses: bool = True
    numbers: int = 0

    @property
    def least_count(self) -> int:
        """Return the rarest word whose count is needed: a bi-gram's words are no rarer than itself."""
        return min(self.min_word_count, self.min_pair_count)


@dataclass(frozen=True, slots=True)
class Sources:
    """What queries are made of; what is missing gives none.

    Attributes:
        words: counts of all words that occur at least `QueriesSettings.least_count` times (see `with_total`).
        pairs: counts of pairs, in as many tables as they come; read once.
        titles: views of articles by title, likewise.
        wordnet: whose lemmas are wanted.
        own: the user's queries.
    """

    words: pa.Table | None = None
    pairs: Iterable[pa.Table] = ()
    titles: Iterable[pa.Table] = ()
    wordnet: WordNet | None = None
    own: Sequence[str] = ()


def build_queries(settings: QueriesSettings, sources: Sources) -> pa.Table:
    """Make the list of queries.

    Args:
        settings: thresholds.
        sources: counts, views, WordNet, the user's own.

    Returns:
        Table of `columns.QUERIES`, no query twice; the same for the same sources, in whatever pieces they
        come.

    Raises:
        UsageError: the user's own list is longer than `max_queries`.
        DataError: there are pairs but no words.
    """
    own = [*sources.own, *map(str, range(settings.numbers))]
    by_source = {
        "words": _frequent(_normalized(_counts(sources.words)), settings.min_word_count),
        "bigrams": _bigrams(settings, sources),
        "titles": _titles(settings, sources.titles),
        "wordnet": _lemmas(sources.wordnet),
        "list": _listed(own),
    }
    if by_source["list"].num_rows > settings.max_queries:
        raise UsageError(
            "the list of own queries is longer than the whole list may be",
            where="max_queries",
            found=f"{by_source['list'].num_rows:,} own queries",
            expected=f"at most {settings.max_queries:,}",
            fix="raise max_queries or shorten the list",
        )
    labelled = [
        table.append_column("source", pa.array([name] * table.num_rows, pa.string()))
        for name, table in by_source.items()
    ]
    whole = _first_of_each(pa.concat_tables(labelled))
    kept = _within(whole, settings.max_queries, by_source)
    return kept.select(QUERIES.names).cast(QUERIES)


def report(queries: pa.Table) -> dict[str, dict[str, int]]:
    """Count the queries per source beside MetaCLIP's.

    >>> report(QUERIES.empty_table())["words"]
    {'queries': 0, 'metaclip': 251465}
    """
    counted = {row["values"]: row["counts"] for row in pc.value_counts(queries["source"]).to_pylist()}
    rows = {name: {"queries": counted.get(name, 0), "metaclip": METACLIP.get(name, 0)} for name in SOURCES}
    total = {key: sum(row[key] for row in rows.values()) for key in ("queries", "metaclip")}
    return {**rows, "all": total}


def with_total(words: pa.Table, total: int) -> pa.Table:
    """Note in a table of counts how many words were counted, those left out included."""
    return words.replace_schema_metadata({TOTAL: str(total).encode()})


def read_counts(path: str | Path, *, words: int) -> pa.Table:
    """Read a list of counts, for those who have no corpus.

    Args:
        path: CSV with a heading; its first column is a word or a pair, its second how often it was seen.
        words: 1 or 2; rows of another number of words are left out, though their count is in the total.

    Returns:
        Table of `COUNTS`, sorted, with its total.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        table = pc_csv.read_csv(path)
        plain = pa.table(
            [table.column(0).cast(pa.large_string()), table.column(1).cast(pa.int64())], schema=COUNTS
        )
    except (OSError, IndexError, pa.ArrowException) as error:
        raise DataError(
            "a list of counts cannot be read", where=path, found=str(error)[:200], expected="CSV: word,count"
        ) from error
    counts = _normalized(plain).rename_columns(COUNTS.names)
    fits = pc.equal(pc.count_substring(counts["word"], " "), words - 1)
    return with_total(counts.filter(fits).sort_by("word"), pc.sum(plain["count"]).as_py() or 0)


def _counts(table: pa.Table | None) -> pa.Table:
    return COUNTS.empty_table() if table is None else table


def _normalized(table: pa.Table) -> pa.Table:
    """Return queries in the form of `words.normalized` and their counts added up, in the order they first
    come.
    """
    query = text_array(*normalized_column(table.column(0)))
    plain = pa.table({"query": query, "count": table.column(1)})
    summed = plain.group_by("query", use_threads=False).aggregate([("count", "sum")])
    return (
        summed.rename_columns({"count_sum": "count"}).filter(pc.not_equal(summed["query"], "")).select([0, 1])
    )


def _frequent(table: pa.Table, least: int, most: int | None = None) -> pa.Table:
    """Return the queries that are frequent enough, the most frequent first, then by their bytes."""
    kept = table.filter(pc.greater_equal(table["count"], least))
    ordered = kept.take(pc.sort_indices(kept, sort_keys=[("count", "descending"), ("query", "ascending")]))
    if "score" not in ordered.column_names:
        ordered = ordered.append_column("score", pa.nulls(ordered.num_rows, pa.float64()))
    return ordered.slice(0, most)


def _bigrams(settings: QueriesSettings, sources: Sources) -> pa.Table:
    words = _counts(sources.words)
    total = int((words.schema.metadata or {}).get(TOTAL, 0)) or pc.sum(words["count"]).as_py() or 0
    known = words["word"].combine_chunks()
    counts = words["count"].to_numpy()
    kept = [pa.table({"query": pa.array([], pa.large_string()), "count": [], "score": []}).cast(_SCORED)]
    for pairs in sources.pairs:
        if not total:
            raise DataError("bi-grams need the counts of words", fix="count the words of the corpus too")
        pairs = pairs.filter(pc.greater_equal(pairs["count"], settings.min_pair_count))
        parts = pc.list_flatten(pc.split_pattern(pairs["word"], " ")).cast(pa.large_string())
        found = pc.index_in(parts, known).combine_chunks() if len(parts) else pa.array([], pa.int32())
        places = found.fill_null(-1).to_numpy().reshape(-1, 2)
        scores = _information(pairs["count"].to_numpy(), places, counts, total)
        table = pa.table([pairs["word"], pairs["count"], scores], schema=_SCORED)
        kept.append(table.filter(pa.array(scores >= settings.min_pmi)))
    return _frequent(pa.concat_tables(kept), 0, settings.max_bigrams)


_SCORED = pa.schema([("query", pa.large_string()), ("count", pa.int64()), ("score", pa.float64())])


def _information(pair_counts: Any, places: Any, counts: Any, total: int) -> Any:
    """Return the pointwise mutual information of pairs in bits; minus infinity if a word is unknown.

    Args:
        pair_counts: (N,) int64.
        places: (N, 2) rows of the words in `counts`, -1 if unknown.
        counts: (W,) int64.
        total: words counted.
    """
    known = (places >= 0).all(axis=1)
    scores = np.full(len(places), -np.inf)
    one, other = counts[places[known, 0]].astype(np.float64), counts[places[known, 1]].astype(np.float64)
    scores[known] = np.log2(pair_counts[known] * float(total)) - np.log2(one) - np.log2(other)
    return scores


def _titles(settings: QueriesSettings, tables: Iterable[pa.Table]) -> pa.Table:
    return _frequent(
        _normalized(pa.concat_tables([COUNTS.empty_table(), *_plain_titles(settings, tables)])),
        settings.min_views,
    )


def _plain_titles(settings: QueriesSettings, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    for table in tables:
        titles = table.column(0).cast(pa.large_string())
        if settings.strip_parentheses:
            titles = pc.replace_substring_regex(titles, r"(.)\s*\([^()]*\)\s*$", r"\1")
        yield pa.table([titles, table.column(1).cast(pa.int64())], schema=COUNTS)


def _lemmas(wordnet: WordNet | None) -> pa.Table:
    """Return the words of all synsets in the order of the file; their count is that of their meanings."""
    lemmas = [lemma for synset in wordnet.synsets.values() for lemma in synset.lemmas] if wordnet else []
    return _listed(lemmas)


def _listed(queries: Sequence[str]) -> pa.Table:
    table = _normalized(pa.table([queries, np.ones(len(queries), np.int64)], schema=COUNTS))
    return table.append_column("score", pa.nulls(table.num_rows, pa.float64()))


def _first_of_each(table: pa.Table) -> pa.Table:
    """Return the first row of every query, in the order of the rows."""
    numbered = table.append_column("row", pa.array(np.arange(table.num_rows)))
    first = numbered.group_by("query", use_threads=False).aggregate([("row", "min")])["row_min"]
    return table.take(first.take(pc.sort_indices(first)))


def _within(table: pa.Table, most: int, by_source: Mapping[str, pa.Table]) -> pa.Table:
    """Cut the list: the least known titles, bi-grams and words that neither WordNet nor the user has; then
    WordNet.
    """
    safe = pa.concat_tables([by_source["wordnet"], by_source["list"]])["query"]
    loose = pc.invert(pc.is_in(table["query"], safe.combine_chunks())).to_numpy()
    sources = table["source"].to_numpy()
    keep = np.ones(table.num_rows, np.bool_)
    for name in CUT_FIRST:
        rows = np.flatnonzero(loose & (sources == name))
        surplus = max(0, int(keep.sum()) - most)
        keep[rows[max(0, len(rows) - surplus) :]] = False
    own = pc.is_in(table["query"], by_source["list"]["query"].combine_chunks()).to_numpy()
    rows = np.flatnonzero(keep & ~own)
    surplus = max(0, int(keep.sum()) - most)
    keep[rows[max(0, len(rows) - surplus) :]] = False
    return table.filter(pa.array(keep))
