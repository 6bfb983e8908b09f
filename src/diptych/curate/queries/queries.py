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

from collections.abc import Iterable, Sequence
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

CUT_FIRST = ("titles", "bigrams", "words")
# Queries per source in MetaCLIP's reconstruction, 500,000 in all (docs/metaclip2.md).
METACLIP = {"words": 251_465, "bigrams": 100_646, "titles": 61_235, "wordnet": 86_654}
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


def build_queries(
    settings: QueriesSettings,
    *,
    words: pa.Table | None = None,
    total: int = 0,
    pairs: Iterable[pa.Table] = (),
    titles: Iterable[pa.Table] = (),
    lemmas: Sequence[str] = (),
    own: Sequence[str] = (),
) -> pa.Table:
    """Make the list of queries, a table of `columns.QUERIES`, no query twice; what is missing gives none.

    Args:
        settings: which queries to make.
        words: counts (`counting.COUNTS`) of all words that are frequent enough alone or in a bigram.
        total: how many words were counted, those that `words` leaves out included.
        pairs: counts of pairs of words, in as many tables as they come; read once.
        titles: views of articles by title, likewise.
        lemmas: of WordNet.
        own: the user's list.

    Raises:
        UsageError: the user's own list is longer than `max_queries`.
        DataError: there are pairs but no words.
    """
    words = COUNTS.empty_table() if words is None else words
    viewed = pa.concat_tables([COUNTS.empty_table(), *titles])
    if settings.strip_parentheses:
        plain = pc.replace_substring_regex(viewed["word"], r"(.)\s*\([^()]*\)\s*$", r"\1")
        viewed = viewed.set_column(0, "word", plain)
    by_source = {
        "words": _frequent(_normalized(words), settings.min_word_count),
        "bigrams": _bigrams(settings, words, total, pairs),
        "titles": _frequent(_normalized(viewed), settings.min_views),
        "wordnet": _listed(lemmas),
        "list": _listed([*own, *map(str, range(settings.numbers))]),
    }
    if by_source["list"].num_rows > settings.max_queries:
        raise UsageError(
            "the list of own queries is longer than the whole list may be",
            where="max_queries",
            found=f"{by_source['list'].num_rows:,} own queries",
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
    kept = _within(whole, settings.max_queries, own=by_source["list"], wordnet=by_source["wordnet"])
    return kept.select(QUERIES.names).cast(QUERIES)


def read_counts(path: str | Path, *, words: int) -> tuple[pa.Table, int]:
    """Read a sorted table of `COUNTS` from a CSV with a heading: words or pairs, counts; and their total.

    Rows of another number of words (1 or 2) are left out, though their count is in the total.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        table = pc_csv.read_csv(path)
        columns = [table.column(0).cast(pa.large_string()), table.column(1).cast(pa.int64())]
    except (OSError, IndexError, pa.ArrowException) as error:
        what, found = "a list of counts cannot be read", str(error)[:200]
        raise DataError(what, where=path, found=found, expected="CSV: word,count") from error
    counts = _normalized(pa.table(columns, schema=COUNTS)).select([0, 1]).rename_columns(COUNTS.names)
    fits = pc.equal(pc.count_substring(counts["word"], " "), words - 1)
    return counts.filter(fits).sort_by("word"), pc.sum(columns[1]).as_py() or 0


def _normalized(table: pa.Table) -> pa.Table:
    """Return normalized texts with their counts, equal ones added up, in the order they first come."""
    query = text_array(*normalized_column(table.column(0)))
    plain = pa.table({"query": query, "count": table.column(1)})
    summed = plain.group_by("query", use_threads=False).aggregate([("count", "sum")])
    summed = summed.rename_columns(["query", "count"]).filter(pc.not_equal(summed["query"], ""))
    return summed.append_column("score", pa.nulls(summed.num_rows, pa.float64()))


def _frequent(table: pa.Table, least: int, most: int | None = None) -> pa.Table:
    """Return the queries that are frequent enough, the most frequent first, then by their bytes."""
    kept = table.filter(pc.greater_equal(table["count"], least))
    by = [("count", "descending"), ("query", "ascending")]
    return kept.take(pc.sort_indices(kept, sort_keys=by)).slice(0, most)


def _listed(queries: Sequence[str]) -> pa.Table:
    """Return queries in their order; the count of each is how often it is in the list."""
    return _normalized(pa.table([queries, np.ones(len(queries), np.int64)], schema=COUNTS))


def _bigrams(settings: QueriesSettings, words: pa.Table, total: int, tables: Iterable[pa.Table]) -> pa.Table:
    """Return the pairs of words that are frequent enough, with their pointwise mutual information in bits."""
    known, counts = words["word"].combine_chunks(), words["count"].to_numpy().astype(np.float64)
    kept = [_SCORED.empty_table()]
    for pairs in tables:
        if not total:
            raise DataError("bigrams need the counts of words", fix="count the words of the corpus too")
        pairs = pairs.filter(pc.greater_equal(pairs["count"], settings.min_pair_count))
        parts = pc.list_flatten(pc.split_pattern(pairs["word"], " ")).cast(pa.large_string())
        rows = pc.index_in(parts, known).fill_null(-1).to_numpy().reshape(-1, 2)
        both = (rows >= 0).all(axis=1)
        pairs, (one, other) = pairs.filter(pa.array(both)), counts[rows[both]].T
        scores = np.log2(pairs["count"].to_numpy() * float(total)) - np.log2(one) - np.log2(other)
        table = pa.table([pairs["word"], pairs["count"], scores], schema=_SCORED)
        kept.append(table.filter(pa.array(scores >= settings.min_pmi)))
    return _frequent(pa.concat_tables(kept), 0, settings.max_bigrams)


def _within(table: pa.Table, most: int, *, own: pa.Table, wordnet: pa.Table) -> pa.Table:
    """Drop the least known titles, bigrams and words that neither WordNet nor the user has; then WordNet."""
    is_own, is_synset = (
        pc.is_in(table["query"], listed["query"].combine_chunks()).to_numpy() for listed in (own, wordnet)
    )
    sources, keep = table["source"].to_numpy(), np.ones(table.num_rows, np.bool_)
    for group in (*(~is_own & ~is_synset & (sources == name) for name in CUT_FIRST), ~is_own):
        rows, surplus = np.flatnonzero(keep & group), max(0, int(keep.sum()) - most)
        keep[rows[max(0, len(rows) - surplus) :]] = False
    return table.filter(pa.array(keep))
