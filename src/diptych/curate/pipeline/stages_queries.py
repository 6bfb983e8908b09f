"""The stage of queries: what will be looked for in the texts of pairs.

Writes: sorted runs of counted words and pairs for every part of the corpus (`NNNNN-words-NNNN.parquet`), and
`queries.parquet` (`columns.QUERIES`).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from diptych.core.errors import DataError
from diptych.core.files.durable import make_folder, remove
from diptych.core.files.text import read_text
from diptych.core.manifest import FileEntry
from diptych.core.records import Counts
from diptych.curate.pipeline.recipe import files_of
from diptych.curate.pipeline.stages import Run, Stage, Write, write_table
from diptych.curate.queries.corpus import CorpusPart, corpus_partitions, texts_of_part
from diptych.curate.queries.counting import PAIRS_NAME, WORDS_NAME, count_part, merge_counts
from diptych.curate.queries.pageviews import article_views
from diptych.curate.queries.queries import Sources, build_queries, read_counts, report, with_total
from diptych.data.sources.rows import digest_files
from diptych.data.wordnet import read_wordnet

QUERIES_FILE = "queries.parquet"
SCRATCH = "scratch"


def _parts(run: Run) -> tuple[CorpusPart, ...]:
    part = run.recipe.queries
    return corpus_partitions(files_of(part.corpus), part.counting.bytes_per_partition)


def _count(run: Run, number: int, write: Write) -> Counts:
    part = run.recipe.queries
    counts = Counts()
    counts.keep(count_part(texts_of_part(_parts(run)[number], column=part.column), write, part.counting))
    return counts


def _inputs(run: Run) -> tuple[FileEntry, ...]:
    part = run.recipe.queries
    given = [*files_of(part.corpus), *files_of(part.pageviews), part.word_counts, part.pair_counts, part.list]
    paths = [Path(name) for name in given if name]
    if part.wordnet:
        net = Path(part.wordnet)
        paths += sorted(path for path in net.iterdir() if path.is_file()) if net.is_dir() else [net]
    return tuple(entry for path in paths for entry in digest_files(path.name, [path], root=path.parent))


def _choose(run: Run) -> dict[str, Any]:
    """Add up the counts, and put all sources together."""
    part, folder = run.recipe.queries, run.stage("queries")
    scratch = make_folder(folder / SCRATCH)
    words = _words(run, folder)
    sources = Sources(
        words=words,
        pairs=_pairs(run, folder, scratch),
        titles=article_views(
            files_of(part.pageviews),
            language=part.language,
            memory_bytes=part.counting.memory_bytes,
            scratch=scratch,
        )
        if part.pageviews
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


def _runs(folder: Path, name: str) -> list[Path]:
    return sorted(folder.glob(f"[0-9]*{name}*.parquet"))


def _words(run: Run, folder: Path) -> pa.Table | None:
    """Return the counts of all words that may be needed, with the total of all."""
    part = run.recipe.queries
    if part.word_counts:
        return read_counts(part.word_counts, words=1)
    runs = _runs(folder, WORDS_NAME)
    if not runs and part.corpus:
        raise DataError(
            "the corpus holds no words",
            where=", ".join(part.corpus)[:200],
            expected="articles (pages of namespace 0 that are no redirects), or texts",
            fix="check queries.corpus",
        )
    if not runs:
        return None
    least = min(part.choose.min_word_count, part.choose.min_pair_count)  # a pair's words are no rarer
    total, kept = 0, []
    for table in merge_counts(runs, memory_bytes=part.counting.memory_bytes, scratch=folder / SCRATCH):
        total += pc.sum(table["count"]).as_py() or 0
        kept.append(table.filter(pc.greater_equal(table["count"], least)))
    return with_total(pa.concat_tables(kept), total) if kept else None


def _pairs(run: Run, folder: Path, scratch: Path) -> Iterator[pa.Table]:
    part = run.recipe.queries
    if part.pair_counts:
        yield read_counts(part.pair_counts, words=2)
    elif runs := _runs(folder, PAIRS_NAME):
        yield from merge_counts(
            runs,
            min_count=part.choose.min_pair_count,
            memory_bytes=part.counting.memory_bytes,
            scratch=scratch,
        )


QUERIES = Stage("queries", (), _count, lambda run: len(_parts(run)), finish=_choose, inputs=_inputs)
