"""The stages of texts: queries, candidates, filter, match, balance.

The tables after `candidates` hold, for each row that is still in, the number of its row in the candidates'
table of the same partition, and what is new: `filter` (row, caption, scrubbed), `match` (row, ids) and
`balance` (row, ids: the queries for which the pair was drawn). The stage of queries has a partition for each
part of the corpus: its sorted runs of counted words and pairs.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from diptych.core.checks import Bools
from diptych.core.errors import DataError, Reason
from diptych.core.files.durable import make_folder, remove, save_array, write_json
from diptych.core.files.reading import load_array, read_text
from diptych.core.manifest import FileEntry
from diptych.core.records import Counts
from diptych.curate.candidates.candidates import Partition, candidates_of, partitions_of, source_columns
from diptych.curate.candidates.filter import caption_hosts, filter_table, repeated_captions
from diptych.curate.candidates.scrub import scrub_column
from diptych.curate.kernels import row_hashes
from diptych.curate.match.balance import Plan, balance_partition, count_matches, make_plan
from diptych.curate.match.match import Matches, QueryIndex
from diptych.curate.pipeline.recipe import files_of
from diptych.curate.pipeline.stages import (
    Run,
    Stage,
    Write,
    drop_rows,
    partition_table,
    read_table,
    read_typed,
    rows_table,
    write_table,
)
from diptych.curate.queries.corpus import CorpusPart, corpus_partitions, texts_of_part
from diptych.curate.queries.counting import PAIRS_NAME, WORDS_NAME, count_part, merge_counts
from diptych.curate.queries.pageviews import article_views
from diptych.curate.queries.queries import Sources, build_queries, read_counts, report, with_total
from diptych.curate.words import text_buffers
from diptych.data.sources.open import open_source
from diptych.data.sources.rows import digest_files
from diptych.data.wordnet import read_wordnet

QUERIES_FILE = "queries.parquet"
PARTITIONS_FILE = "partitions.json"


def _corpus_parts(run: Run) -> tuple[CorpusPart, ...]:
    part = run.recipe.queries
    return corpus_partitions(files_of(part.corpus), part.counting.bytes_per_partition)


def _count(run: Run, number: int, write: Write) -> Counts:
    part, counts = run.recipe.queries, Counts()
    texts = texts_of_part(_corpus_parts(run)[number], column=part.column)
    counts.keep(count_part(texts, write, part.counting))
    return counts


def _queries_inputs(run: Run) -> tuple[FileEntry, ...]:
    part = run.recipe.queries
    given = [*files_of(part.corpus), *files_of(part.pageviews), part.word_counts, part.pair_counts, part.list]
    paths = [Path(name) for name in given if name]
    if part.wordnet:
        net = Path(part.wordnet)
        paths += sorted(path for path in net.iterdir() if path.is_file()) if net.is_dir() else [net]
    return tuple(entry for path in paths for entry in digest_files(path.name, [path], root=path.parent))


def _queries_finish(run: Run) -> dict[str, Any]:
    """Add up the counts, and put all sources together."""
    part, folder = run.recipe.queries, run.stage("queries")
    scratch = make_folder(folder / "scratch")
    memory = part.counting.memory_bytes
    views = files_of(part.pageviews)
    sources = Sources(
        words=_words(run, scratch),
        pairs=_pairs(run, scratch),
        titles=article_views(views, language=part.language, memory_bytes=memory, scratch=scratch)
        if views
        else (),
        wordnet=read_wordnet(part.wordnet) if part.wordnet else None,
        own=read_text(part.list).splitlines() if part.list else (),
    )
    table = build_queries(part.choose, sources)
    if not table.num_rows:
        raise DataError(
            "no query is left to look for",
            where="queries",
            found="no word, pair of words, title or entry above its threshold",
            fix="name another source, or lower min_word_count, min_pair_count and min_views (queries.choose)",
        )
    write_table(folder / QUERIES_FILE, table)
    remove(scratch)
    return {"queries": table.num_rows, "sources": report(table)}


def _runs(run: Run, name: str) -> list[Path]:
    return sorted(run.stage("queries").glob(f"[0-9]*{name}*.parquet"))


def _words(run: Run, scratch: Path) -> pa.Table | None:
    """Return the counts of all words that may be needed, with the total of all."""
    part = run.recipe.queries
    if part.word_counts:
        return read_counts(part.word_counts, words=1)
    runs = _runs(run, WORDS_NAME)
    if not runs and part.corpus:
        raise DataError(
            "the corpus holds no words",
            where=", ".join(part.corpus)[:200],
            expected="articles (pages of namespace 0 that are no redirects), or texts",
            fix="check queries.corpus",
        )
    least = min(part.choose.min_word_count, part.choose.min_pair_count)  # a pair's words are no rarer
    total, kept = 0, []
    for table in merge_counts(runs, memory_bytes=part.counting.memory_bytes, scratch=scratch):
        total += pc.sum(table["count"]).as_py() or 0
        kept.append(table.filter(pc.greater_equal(table["count"], least)))
    return with_total(pa.concat_tables(kept), total) if kept else None


def _pairs(run: Run, scratch: Path) -> Iterator[pa.Table]:
    part = run.recipe.queries
    if part.pair_counts:
        yield read_counts(part.pair_counts, words=2)
    elif runs := _runs(run, PAIRS_NAME):
        least, memory = part.choose.min_pair_count, part.counting.memory_bytes
        yield from merge_counts(runs, min_count=least, memory_bytes=memory, scratch=scratch)


QUERIES = Stage(
    "queries", (), _count, lambda run: len(_corpus_parts(run)), finish=_queries_finish, inputs=_queries_inputs
)


def queries(run: Run) -> pa.ChunkedArray:
    """Return the texts of the queries; a query's id is its row."""
    return read_table(run.stage("queries") / QUERIES_FILE, ["query"])["query"]


@dataclass(frozen=True, slots=True)
class CutSources:
    """The partitions that the sources of candidates were cut into."""

    partitions: tuple[Partition, ...]


def _cut(run: Run) -> tuple[Partition, ...]:
    path, fix = run.stage("candidates") / PARTITIONS_FILE, "begin the curation again in another folder"
    return read_typed(CutSources, path, fix=fix).partitions


def partitions(run: Run) -> int:
    """Return how many partitions `candidates` and all stages after it have: one per table of candidates."""
    return len(_cut(run))


def tables(run: Run, name: str, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """Read the tables of all partitions of a finished stage one after the other."""
    return (partition_table(run, name, number, columns) for number in range(partitions(run)))


def _candidates_prepare(run: Run) -> None:
    """Cut the sources into partitions; those of the first look stay, whatever happens to the sources."""
    path = run.stage("candidates") / PARTITIONS_FILE
    if not path.is_file():
        write_json(path, asdict(CutSources(partitions_of(run.recipe.candidates))))


def _candidates(run: Run, number: int, write: Write) -> Counts:
    table, counts = candidates_of(_cut(run)[number], run.recipe.candidates)
    write("", table)
    return counts


def _candidates_inputs(run: Run) -> tuple[FileEntry, ...]:
    """Digest what was read: files each by themselves, other sources by what they say of themselves."""
    entries: list[FileEntry] = []
    for name in dict.fromkeys(partition.path for partition in _cut(run)):
        path = Path(name)
        if path.is_file():
            entries += digest_files(path.name, [path], root=path.parent)
        else:
            entries += open_source(name, columns=source_columns(run.recipe.candidates)).inputs()
    return tuple(entries)


CANDIDATES = Stage(
    "candidates",
    (),
    _candidates,
    partitions,
    _candidates_prepare,
    lambda run: {"sources": list(run.recipe.candidates.sources)},
    _candidates_inputs,
)


def _filter_prepare(run: Run) -> None:
    """Find keys that come twice and captions that stand on too many hosts, over all partitions.

    Keys are compared by 64-bit hashes: sixteen bytes of memory a pair. (Of a billion different keys two share
    a hash in one of forty runs, and one pair is then lost.)
    """
    rules, folder = run.recipe.filter.rules, run.stage("filter")
    parts = [row_hashes(*text_buffers(t["key"]), np.uint64(0)) for t in tables(run, "candidates", ["key"])]
    hashes = np.concatenate([np.zeros(0, np.uint64), *parts])
    order = np.argsort(hashes, kind="stable")
    same = np.flatnonzero(hashes[order][1:] == hashes[order][:-1]) + 1
    save_array(folder / "doubles.npy", np.sort(order[same]).astype(np.int64))
    save_array(folder / "starts.npy", np.cumsum([0, *map(len, parts)], dtype=np.int64))
    if rules.max_repeats:
        hosts = map(caption_hosts, tables(run, "candidates", ["caption", "url", "page"]))
        save_array(folder / "frequent.npy", repeated_captions(hosts, max_repeats=rules.max_repeats))


def _first_of_their_keys(run: Run, number: int, rows: int) -> Bools:
    """Tell which rows of a partition have a key that no earlier row has: (N,)."""
    folder = run.stage("filter")
    doubles, starts = load_array(folder / "doubles.npy"), load_array(folder / "starts.npy")
    low, high = np.searchsorted(doubles, starts[number : number + 2])
    first = np.ones(rows, np.bool_)
    first[doubles[low:high] - starts[number]] = False
    return first


def _filter(run: Run, number: int, write: Write) -> Counts:
    table = partition_table(run, "candidates", number, ["key", "url", "caption", "page", "fields"])
    rules, counts = run.recipe.filter.rules, Counts()
    first = _first_of_their_keys(run, number, table.num_rows)
    drop_rows(counts, ~first, Reason.DUPLICATE_KEY, table["key"])
    rows = np.flatnonzero(first)
    frequent = np.array(load_array(run.stage("filter") / "frequent.npy")) if rules.max_repeats else None
    passed, filtered = filter_table(table.take(rows), rules, repeated=frequent)
    counts.merge(filtered)
    rows = rows[np.asarray(passed)]
    caption = table["caption"].combine_chunks().take(pa.array(rows))
    clean = scrub_column(caption)[0] if run.recipe.filter.scrub else caption
    write("", rows_table(rows, caption=clean, scrubbed=pc.not_equal(clean, caption)))
    return counts


def _filter_finish(run: Run) -> dict[str, Any]:
    scrubbed = (pc.sum(table["scrubbed"]).as_py() or 0 for table in tables(run, "filter", ["scrubbed"]))
    return {"scrubbed_captions": sum(scrubbed)}


FILTER = Stage("filter", ("candidates",), _filter, partitions, _filter_prepare, _filter_finish)


def _match_prepare(run: Run) -> None:
    QueryIndex.build(queries(run), run.recipe.match).save(run.stage("match"))


def _keys(run: Run, number: int, rows: NDArray[np.int32]) -> pa.ChunkedArray:
    return partition_table(run, "candidates", number, ["key"])["key"].take(rows)


def _match(run: Run, number: int, write: Write) -> Counts:
    table = partition_table(run, "filter", number, ["row", "caption"])
    matches = QueryIndex.open(run.stage("match")).match(table["caption"])
    keep, rows, counts = np.diff(matches.offsets) > 0, table["row"].to_numpy(), Counts()
    counts.keep(int(keep.sum()))
    drop_rows(counts, ~keep, Reason.NO_QUERY, _keys(run, number, rows))
    write("", rows_table(rows[keep], ids=matches.to_arrow().filter(pa.array(keep))))
    return counts


MATCH = Stage("match", ("queries", "filter"), _match, partitions, _match_prepare)


def _balance_prepare(run: Run) -> None:
    """Count the matches of every query over all partitions, and make the sampling plan."""
    texts, folder = queries(run), run.stage("balance")
    before = np.zeros(len(texts), np.int64)
    for table in tables(run, "match", ["ids"]):
        count_matches(Matches.from_arrow(table["ids"]), before)
    plan = make_plan(texts, before, run.recipe.balance, parts=lambda: _parts(run))
    for name, array in (("before", before), ("names", plan.names), ("limits", plan.limits)):
        save_array(folder / f"{name}.npy", array)


def _parts(run: Run) -> Iterator[tuple[pa.ChunkedArray, Matches]]:
    for number, table in enumerate(tables(run, "match")):
        yield _keys(run, number, table["row"].to_numpy()), Matches.from_arrow(table["ids"])


def _balance(run: Run, number: int, write: Write) -> Counts:
    table, folder = partition_table(run, "match", number), run.stage("balance")
    rows, counts = table["row"].to_numpy(), Counts()
    keys = _keys(run, number, rows)
    names, limits = (np.array(load_array(folder / f"{name}.npy")) for name in ("names", "limits"))
    plan = Plan(names, limits, run.recipe.balance.seed)
    keep, drawn = balance_partition(keys, Matches.from_arrow(table["ids"]), plan)
    counts.keep(int(keep.sum()))
    drop_rows(counts, ~keep, Reason.NOT_DRAWN, keys)
    write("", rows_table(rows[keep], ids=drawn.to_arrow().filter(pa.array(keep))))
    return counts


def _balance_finish(run: Run) -> dict[str, Any]:
    """Count the matches again over what was kept."""
    after = np.zeros(len(load_array(run.stage("balance") / "before.npy")), np.int64)
    for kept, matched in zip(tables(run, "balance", ["row"]), tables(run, "match"), strict=True):
        inside = np.isin(matched["row"].to_numpy(), kept["row"].to_numpy())
        count_matches(Matches.from_arrow(matched["ids"].filter(pa.array(inside))), after)
    save_array(run.stage("balance") / "after.npy", after)
    return {}


BALANCE = Stage("balance", ("match",), _balance, partitions, _balance_prepare, _balance_finish)
