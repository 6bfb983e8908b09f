"""The queries that pairs are looked for with: words, bigrams, titles, WordNet, and a user's own list.

Sources come in the paper's order, and a query belongs to the first that names it; within a source the most
frequent come first. The list stops at `max_queries`. The paper adds *all* synsets, so WordNet and the user's
list keep their places, and what is too much is cut where it is least known: from the end of the titles, then
of the bigrams, then of the words. (MetaCLIP's reconstruction ends in the titles too.)

Mutual information is log2(n(xy) N / (n(x) n(y))), with N the number of words counted: that of Church and
Hanks, and NLTK's, which MetaCLIP thresholds at 30. It cannot be above log2(N / n(xy)), which in Wikipedia (N
near 4e9) is 32 for pairs seen once and 25 for those seen 100 times: at 30 only pairs that hardly occur are
left. Hence our own threshold, with a minimum count: "new york" has about 10, "ice cream" 13, "of the" 2.

Source: Radford et al. 2021, section 2.2; Xu et al. 2023 (MetaCLIP), section 3.1; Church and Hanks 1990.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

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
# Queries per source in MetaCLIP's reconstruction, 500,000 in all (docs/metaclip2.md).
METACLIP = {"words": 251_465, "bigrams": 100_646, "titles": 61_235, "wordnet": 86_654}
TOTAL = b"total"  # in the metadata of a table of counts: how many words were counted, also those left out
_SCORED = pa.schema([("query", pa.large_string()), ("count", pa.int64()), ("score", pa.float64())])


@dataclass(frozen=True, slots=True)
class QueriesSettings:
    """Which queries to make.

    Attributes:
        min_pmi: of a bigram, in bits (see above).
        max_bigrams: the most frequent are kept; the paper gives no number, MetaCLIP has 100,646.
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


@dataclass(frozen=True, slots=True)
class Sources:
    """What queries are made of; what is missing gives none.

    Attributes:
        words: counts of all words (see `with_total`) that are frequent enough alone or in a bigram.
        pairs: counts of pairs, in as many tables as they come; read once.
        titles: views of articles by title, likewise.
    """

    words: pa.Table | None = None
    pairs: Iterable[pa.Table] = ()
    titles: Iterable[pa.Table] = ()
    wordnet: WordNet | None = None
    own: Sequence[str] = ()


def build_queries(settings: QueriesSettings, sources: Sources) -> pa.Table:
    """Make the list of queries, a table of `columns.QUERIES`, no query twice.

    Raises:
        UsageError: the user's own list is longer than `max_queries`.
        DataError: there are pairs but no words.
    """
    words = COUNTS.empty_table() if sources.words is None else sources.words
    titles = pa.concat_tables([COUNTS.empty_table(), *_plain_titles(settings, sources.titles)])
    synsets = sources.wordnet.synsets.values() if sources.wordnet else ()
    own = _listed([*sources.own, *map(str, range(settings.numbers))])
    by_source = {
        "words": _frequent(_normalized(words), settings.min_word_count),
        "bigrams": _bigrams(settings, words, sources.pairs),
        "titles": _frequent(_normalized(titles), settings.min_views),
        "wordnet": _listed([lemma for synset in synsets for lemma in synset.lemmas]),
        "list": own,
    }
    if own.num_rows > settings.max_queries:
        raise UsageError(
            "the list of own queries is longer than the whole list may be",
            where="max_queries",
            found=f"{own.num_rows:,} own queries",
            expected=f"at most {settings.max_queries:,}",
            fix="raise max_queries or shorten the list",
        )
    labeled = [
        table.append_column("source", pa.array([name] * table.num_rows, pa.string()))
        for name, table in by_source.items()
    ]
    whole = pa.concat_tables(labeled)
    numbered = whole.append_column("row", pa.array(np.arange(whole.num_rows)))
    first = numbered.group_by("query", use_threads=False).aggregate([("row", "min")])["row_min"]
    whole = whole.take(first.take(pc.sort_indices(first)))
    return _within(whole, settings.max_queries, by_source).select(QUERIES.names).cast(QUERIES)


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
    """Read a sorted table of `COUNTS`, with its total, from a CSV with a heading: words or pairs, counts.

    Rows of another number of words (1 or 2) are left out, though their count is in the total.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        table = pc_csv.read_csv(path)
        columns = [table.column(0).cast(pa.large_string()), table.column(1).cast(pa.int64())]
    except (OSError, IndexError, pa.ArrowException) as error:
        found, expected = str(error)[:200], "CSV: word,count"
        raise DataError(
            "a list of counts cannot be read", where=path, found=found, expected=expected
        ) from error
    counts = _normalized(pa.table(columns, schema=COUNTS)).rename_columns(COUNTS.names)
    fits = pc.equal(pc.count_substring(counts["word"], " "), words - 1)
    return with_total(counts.filter(fits).sort_by("word"), pc.sum(columns[1]).as_py() or 0)


def _normalized(table: pa.Table) -> pa.Table:
    """Return (query, count) of normalized texts, equal ones added up, in the order they first come."""
    query = text_array(*normalized_column(table.column(0)))
    plain = pa.table({"query": query, "count": table.column(1)})
    summed = plain.group_by("query", use_threads=False).aggregate([("count", "sum")])
    return summed.rename_columns(["query", "count"]).filter(pc.not_equal(summed["query"], ""))


def _frequent(table: pa.Table, least: int, most: int | None = None) -> pa.Table:
    """Return the queries that are frequent enough, the most frequent first, then by their bytes."""
    kept = table.filter(pc.greater_equal(table["count"], least))
    ordered = kept.take(pc.sort_indices(kept, sort_keys=[("count", "descending"), ("query", "ascending")]))
    return _with_score(ordered).slice(0, most)


def _with_score(table: pa.Table) -> pa.Table:
    if "score" in table.column_names:
        return table
    return table.append_column("score", pa.nulls(table.num_rows, pa.float64()))


def _bigrams(settings: QueriesSettings, words: pa.Table, tables: Iterable[pa.Table]) -> pa.Table:
    """Return the pairs of words that are frequent enough, with their pointwise mutual information in bits."""
    total = int((words.schema.metadata or {}).get(TOTAL, 0)) or pc.sum(words["count"]).as_py() or 0
    known, counts = words["word"].combine_chunks(), words["count"].to_numpy().astype(np.float64)
    kept = [_SCORED.empty_table()]
    for pairs in tables:
        if not total:
            raise DataError("bigrams need the counts of words", fix="count the words of the corpus too")
        pairs = pairs.filter(pc.greater_equal(pairs["count"], settings.min_pair_count))
        parts = pc.list_flatten(pc.split_pattern(pairs["word"], " ")).cast(pa.large_string())
        rows = pc.index_in(parts, known).combine_chunks() if len(parts) else pa.array([], pa.int32())
        rows = rows.fill_null(-1).to_numpy().reshape(-1, 2)
        both = (rows >= 0).all(axis=1)
        one, other = counts[rows[both]].T
        scores = np.full(len(rows), -np.inf)
        scores[both] = np.log2(pairs["count"].to_numpy()[both] * float(total)) - np.log2(one) - np.log2(other)
        table = pa.table([pairs["word"], pairs["count"], scores], schema=_SCORED)
        kept.append(table.filter(pa.array(scores >= settings.min_pmi)))
    return _frequent(pa.concat_tables(kept), 0, settings.max_bigrams)


def _plain_titles(settings: QueriesSettings, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    for table in tables:
        titles = table.column(0).cast(pa.large_string())
        if settings.strip_parentheses:
            titles = pc.replace_substring_regex(titles, r"(.)\s*\([^()]*\)\s*$", r"\1")
        yield pa.table([titles, table.column(1).cast(pa.int64())], schema=COUNTS)


def _listed(queries: Sequence[str]) -> pa.Table:
    """Return queries in their order; the count of each is how often it is in the list."""
    return _with_score(_normalized(pa.table([queries, np.ones(len(queries), np.int64)], schema=COUNTS)))


def _within(table: pa.Table, most: int, by_source: Mapping[str, pa.Table]) -> pa.Table:
    """Drop the least known titles, bigrams and words that neither WordNet nor the user has; then WordNet."""
    own, wordnet = by_source["list"]["query"], by_source["wordnet"]["query"]
    safe = pa.chunked_array([*own.chunks, *wordnet.chunks], pa.large_string()).combine_chunks()
    loose = pc.invert(pc.is_in(table["query"], safe)).to_numpy()
    sources = table["source"].to_numpy()
    keep = np.ones(table.num_rows, np.bool_)

    def drop_last(rows: np.ndarray) -> None:
        surplus = max(0, int(keep.sum()) - most)
        keep[rows[max(0, len(rows) - surplus) :]] = False

    for name in CUT_FIRST:
        drop_last(np.flatnonzero(loose & (sources == name)))
    others = pc.invert(pc.is_in(table["query"], own.combine_chunks())).to_numpy()
    drop_last(np.flatnonzero(keep & others))
    return table.filter(pa.array(keep))
