"""The stages of texts: queries, candidates, filter, match, balance.

The tables after `candidates` hold, for each row that is still in, the number of its row in the candidates'
table of the same partition, and what is new: `filter` (row, caption, scrubbed), `match` (row, ids) and
`balance` (row, ids: the queries for which the pair was drawn). The stage of queries has a partition for each
part of the corpus: its sorted runs of counted words and pairs.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from diptych.core.checks import Ints
from diptych.core.errors import DataError, Reason
from diptych.core.files.durable import make_folder, remove, write_json
from diptych.core.files.reading import read_text
from diptych.core.manifest import FileEntry
from diptych.core.records import Counts
from diptych.curate.candidates.candidates import candidates_of, partitions_of, source_columns
from diptych.curate.candidates.filter import caption_hosts, filter_table, repeated_captions
from diptych.curate.candidates.scrub import scrub_column
from diptych.curate.kernels import row_hashes
from diptych.curate.match.balance import Plan, balance_partition, make_plan
from diptych.curate.match.match import Matches, QueryIndex
from diptych.curate.pipeline.recipe import files_of
from diptych.curate.pipeline.stages import (
    PARTITIONS_FILE,
    CutSources,
    Run,
    Stage,
    Write,
    count_rows,
    read_table,
    rows_table,
    write_table,
)
from diptych.curate.queries.corpus import CorpusPart, corpus_partitions, texts_of_part
from diptych.curate.queries.counting import COUNTS, PAIRS_NAME, WORDS_NAME, count_part, merge_counts
from diptych.curate.queries.pageviews import article_views
from diptych.curate.queries.queries import build_queries, read_counts
from diptych.curate.words import text_buffers
from diptych.data.sources.open import open_source
from diptych.data.sources.rows import digest_files
from diptych.data.wordnet import read_wordnet

QUERIES_FILE = "queries.parquet"


def _file_entries(paths: Iterable[Path]) -> tuple[FileEntry, ...]:
    return tuple(entry for path in paths for entry in digest_files(path.name, [path], root=path.parent))


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
    return _file_entries(paths)


def _queries_finish(run: Run) -> dict[str, Any]:
    """Add up the counts, and put all sources together."""
    part, folder = run.recipe.queries, run.stage("queries")
    scratch = make_folder(folder / "scratch")
    views, memory = files_of(part.pageviews), part.counting.memory_bytes
    synsets = read_wordnet(part.wordnet).synsets.values() if part.wordnet else ()
    words, total = _words(run, scratch)
    table = build_queries(
        part.choose,
        words=words,
        total=total,
        pairs=_pairs(run, scratch),
        titles=article_views(views, language=part.language, memory_bytes=memory, scratch=scratch),
        lemmas=[lemma for synset in synsets for lemma in synset.lemmas],
        own=read_text(part.list).splitlines() if part.list else (),
    )
    if not table.num_rows:
        raise DataError(
            "no query is left to look for",
            where="queries",
            found="no word, pair of words, title or entry above its threshold",
            fix="name another source, or lower min_word_count, min_pair_count and min_views (queries.choose)",
        )
    write_table(folder / QUERIES_FILE, table)
    remove(scratch)
    return {"queries": table.num_rows, "sources": dict(Counter(table["source"].to_pylist()))}


def _runs(run: Run, name: str) -> list[Path]:
    return sorted(run.stage("queries").glob(f"[0-9]*{name}*.parquet"))


def _words(run: Run, scratch: Path) -> tuple[pa.Table, int]:
    """Return the counts of all words that may be needed, and how many words were counted."""
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
    total, kept = 0, [COUNTS.empty_table()]
    for table in merge_counts(runs, memory_bytes=part.counting.memory_bytes, scratch=scratch):
        total += pc.sum(table["count"]).as_py() or 0
        kept.append(table.filter(pc.greater_equal(table["count"], least)))
    return pa.concat_tables(kept), total


def _pairs(run: Run, scratch: Path) -> Iterator[pa.Table]:
    part = run.recipe.queries
    if part.pair_counts:
        return iter([read_counts(part.pair_counts, words=2)[0]])
    least, memory = part.choose.min_pair_count, part.counting.memory_bytes
    return merge_counts(_runs(run, PAIRS_NAME), min_count=least, memory_bytes=memory, scratch=scratch)


def queries(run: Run) -> pa.ChunkedArray:
    """Return the texts of the queries; a query's id is its row."""
    return read_table(run.stage("queries") / QUERIES_FILE, ["query"])["query"]


def _candidates_prepare(run: Run) -> None:
    """Cut the sources into partitions; those of the first look stay, whatever happens to the sources."""
    path = run.stage("candidates") / PARTITIONS_FILE
    if not path.is_file():
        write_json(path, asdict(CutSources(partitions_of(run.recipe.candidates))))


def _candidates(run: Run, number: int, write: Write) -> Counts:
    table, counts = candidates_of(run.partitions()[number], run.recipe.candidates)
    write("", table)
    return counts


def _candidates_inputs(run: Run) -> tuple[FileEntry, ...]:
    """Digest what was read: files each by themselves, other sources by what they say of themselves."""
    entries: list[FileEntry] = []
    for name in dict.fromkeys(partition.path for partition in run.partitions()):
        if Path(name).is_file():
            entries += _file_entries([Path(name)])
        else:
            entries += open_source(name, columns=source_columns(run.recipe.candidates)).inputs()
    return tuple(entries)


def _filter_prepare(run: Run) -> None:
    """Find keys that come twice and captions that stand on too many hosts, over all partitions.

    Keys are compared by 64-bit hashes: sixteen bytes of memory a pair. (Of a billion different keys two share
    a hash in one of forty runs, and one pair is then lost.)
    """
    parts = [row_hashes(*text_buffers(t["key"]), np.uint64(0)) for t in run.tables("candidates", ["key"])]
    hashes = np.concatenate([np.zeros(0, np.uint64), *parts])
    order = np.argsort(hashes, kind="stable")
    same = np.flatnonzero(hashes[order][1:] == hashes[order][:-1]) + 1
    starts = np.cumsum([0, *map(len, parts)], dtype=np.int64)
    run.save_arrays("filter", doubles=np.sort(order[same]).astype(np.int64), starts=starts)
    if most := run.recipe.filter.rules.max_repeats:
        hosts = map(caption_hosts, run.tables("candidates", ["caption", "url", "page"]))
        run.save_arrays("filter", frequent=repeated_captions(hosts, max_repeats=most))


def _filter(run: Run, number: int, write: Write) -> Counts:
    table = run.table("candidates", number, ["key", "url", "caption", "page", "fields"])
    rules, counts = run.recipe.filter.rules, Counts()
    doubles, starts = run.array("filter", "doubles"), run.array("filter", "starts")
    low, high = np.searchsorted(doubles, starts[number : number + 2])
    first = np.ones(table.num_rows, np.bool_)
    first[doubles[low:high] - starts[number]] = False
    for key in table["key"].filter(pa.array(~first)).to_pylist():
        counts.drop(Reason.DUPLICATE_KEY, key)
    rows = np.flatnonzero(first)
    frequent = np.array(run.array("filter", "frequent")) if rules.max_repeats else None
    passed, filtered = filter_table(table.take(rows), rules, repeated=frequent)
    counts.merge(filtered)
    rows = rows[np.asarray(passed)]
    caption = table["caption"].combine_chunks().take(pa.array(rows))
    clean = scrub_column(caption)[0] if run.recipe.filter.scrub else caption
    write("", rows_table(rows, caption=clean, scrubbed=pc.not_equal(clean, caption)))
    return counts


def _filter_finish(run: Run) -> dict[str, Any]:
    scrubbed = (pc.sum(table["scrubbed"]).as_py() or 0 for table in run.tables("filter", ["scrubbed"]))
    return {"scrubbed_captions": sum(scrubbed)}


def _keys(run: Run, number: int, rows: NDArray[np.int32]) -> pa.ChunkedArray:
    return run.table("candidates", number, ["key"])["key"].take(rows)


def _match(run: Run, number: int, write: Write) -> Counts:
    table = run.table("filter", number, ["row", "caption"])
    matches = QueryIndex.open(run.stage("match")).match(table["caption"])
    keep, rows = np.diff(matches.offsets) > 0, table["row"].to_numpy()
    write("", rows_table(rows[keep], ids=matches.to_arrow().filter(pa.array(keep))))
    return count_rows(_keys(run, number, rows), {Reason.NO_QUERY: ~keep})


def _balance_prepare(run: Run) -> None:
    """Count the matches of every query over all partitions, and make the sampling plan."""
    texts = queries(run)
    before = _match_counts(run.tables("match", ["ids"]), len(texts))
    plan = make_plan(texts, before, run.recipe.balance, parts=lambda: _parts(run))
    run.save_arrays("balance", before=before, names=plan.names, limits=plan.limits)


def _match_counts(tables: Iterable[pa.Table], queries: int) -> Ints:
    """Count the matches of each query in tables with lists of `ids`: (Q,)."""
    counts = np.zeros(queries, np.int64)
    for table in tables:
        counts += np.bincount(Matches.from_arrow(table["ids"]).ids, minlength=queries)
    return counts


def _parts(run: Run) -> Iterator[tuple[pa.ChunkedArray, Matches]]:
    for number, table in enumerate(run.tables("match")):
        yield _keys(run, number, table["row"].to_numpy()), Matches.from_arrow(table["ids"])


def _balance(run: Run, number: int, write: Write) -> Counts:
    table = run.table("match", number)
    rows = table["row"].to_numpy()
    keys = _keys(run, number, rows)
    names, limits = (np.array(run.array("balance", name)) for name in ("names", "limits"))
    plan = Plan(names, limits, run.recipe.balance.seed)
    keep, drawn = balance_partition(keys, Matches.from_arrow(table["ids"]), plan)
    write("", rows_table(rows[keep], ids=drawn.to_arrow().filter(pa.array(keep))))
    return count_rows(keys, {Reason.NOT_DRAWN: ~keep})


def _balance_finish(run: Run) -> dict[str, Any]:
    """Count the matches again over what was kept."""
    matched = (
        table.filter(pc.is_in(table["row"], kept["row"].combine_chunks()))
        for kept, table in zip(run.tables("balance", ["row"]), run.tables("match"), strict=True)
    )
    run.save_arrays("balance", after=_match_counts(matched, len(run.array("balance", "before"))))
    return {}


TEXT_STAGES = (
    Stage(
        "queries",
        needs=(),
        work=_count,
        partitions=lambda run: len(_corpus_parts(run)),
        finish=_queries_finish,
        inputs=_queries_inputs,
    ),
    Stage(
        "candidates",
        needs=(),
        prepare=_candidates_prepare,
        work=_candidates,
        finish=lambda run: {"sources": list(run.recipe.candidates.sources)},
        inputs=_candidates_inputs,
    ),
    Stage("filter", needs=("candidates",), prepare=_filter_prepare, work=_filter, finish=_filter_finish),
    Stage(
        "match",
        needs=("queries", "filter"),
        prepare=lambda run: QueryIndex.build(queries(run), run.recipe.match).save(run.stage("match")),
        work=_match,
    ),
    Stage("balance", needs=("match",), prepare=_balance_prepare, work=_balance, finish=_balance_finish),
)
