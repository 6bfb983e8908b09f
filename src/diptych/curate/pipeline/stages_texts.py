"""The stages of texts: candidates, filter, match, balance; the glue between files and pure functions.

The tables after `candidates` hold, for each row that is still in, the number of its row in the candidates'
table of the same partition, and what is new.

Writes: for every partition the candidates; `filter` (row, caption, scrubbed), `match` (row, ids) and
`balance` (row, ids: the queries for which the pair was drawn); for all partitions together the
repeats of `filter`, the index of `match`, `balance/before.npy` and `after.npy`.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from diptych.core.errors import Reason
from diptych.core.files.arrays import load_array, save_array
from diptych.core.files.durable import write_json
from diptych.core.manifest import FileEntry
from diptych.core.records import Counts
from diptych.curate.candidates.candidates import (
    Partition,
    candidates_of,
    partitions_of,
    source_columns,
)
from diptych.curate.candidates.filter import caption_hosts, filter_table, repeated_captions
from diptych.curate.candidates.scrub import scrub_column
from diptych.curate.match.balance import Plan, balance_partition, count_matches, make_plan
from diptych.curate.match.match import Matches, QueryIndex
from diptych.curate.match.repeats import first_of_their_keys, save_repeats
from diptych.curate.pipeline.stages import Run, Stage, Write, partition_table, read_table, read_typed, tables
from diptych.curate.pipeline.stages_queries import QUERIES_FILE
from diptych.data.sources.open import open_source
from diptych.data.sources.rows import digest_files

PARTITIONS_FILE = "partitions.json"


@dataclass(frozen=True, slots=True)
class CutSources:
    """The partitions that the sources of candidates were cut into."""

    partitions: tuple[Partition, ...]


def _cut(run: Run) -> CutSources:
    path = run.stage("candidates") / PARTITIONS_FILE
    return read_typed(CutSources, path, fix="begin the curation again in another folder")


def partitions(run: Run) -> int:
    """Return how many partitions `candidates` and all stages after it have: one per table of candidates."""
    return len(_cut(run).partitions)


def _candidates_prepare(run: Run) -> None:
    """Cut the sources into partitions; those of the first look stay, whatever happens to the sources."""
    path = run.stage("candidates") / PARTITIONS_FILE
    if not path.is_file():
        write_json(path, asdict(CutSources(partitions_of(run.recipe.candidates))))


def _candidates(run: Run, number: int, write: Write) -> Counts:
    table, counts = candidates_of(_cut(run).partitions[number], run.recipe.candidates)
    write("", table)
    return counts


def _candidates_inputs(run: Run) -> tuple[FileEntry, ...]:
    """Digest what was read: files each by themselves, other sources by what they say of themselves."""
    settings = run.recipe.candidates
    found: list[FileEntry] = []
    for name in dict.fromkeys(partition.path for partition in _cut(run).partitions):
        path = Path(name)
        if path.is_file():
            found += digest_files(path.name, [path], root=path.parent)
        else:
            found += open_source(name, columns=source_columns(settings)).inputs()
    return tuple(found)


def _candidates_finish(run: Run) -> dict[str, Any]:
    return {"sources": list(run.recipe.candidates.sources)}


CANDIDATES = Stage(
    "candidates",
    (),
    _candidates,
    partitions,
    _candidates_prepare,
    _candidates_finish,
    _candidates_inputs,
)


def _filter_prepare(run: Run) -> None:
    """Find keys that come twice and captions that stand on too many hosts, over all partitions."""
    rules, folder = run.recipe.filter.rules, run.stage("filter")
    save_repeats(folder, tables(run, "candidates", columns=["key"]))
    if rules.max_repeats:
        columns = ["caption", "url", "page"]
        hosts = map(caption_hosts, tables(run, "candidates", columns=columns))
        frequent = repeated_captions(hosts, max_repeats=rules.max_repeats)
        save_array(folder / "frequent.npy", frequent)


def _filter(run: Run, number: int, write: Write) -> Counts:
    table = partition_table(run, "candidates", number, ["key", "url", "caption", "page", "fields"])
    rules, folder, counts = run.recipe.filter.rules, run.stage("filter"), Counts()
    rows = np.flatnonzero(first_of_their_keys(folder, number, table, counts))
    frequent = np.array(load_array(folder / "frequent.npy")) if rules.max_repeats else None
    passed, judged = filter_table(table.take(rows), rules, repeated=frequent)
    counts.merge(judged)
    rows = rows[np.asarray(passed)]
    caption = table["caption"].combine_chunks().take(pa.array(rows))
    clean = scrub_column(caption)[0] if run.recipe.filter.scrub else caption
    write("", rows_table(rows, caption=clean, scrubbed=pc.not_equal(clean, caption)))
    return counts


def _filter_finish(run: Run) -> dict[str, Any]:
    parts = (
        partition_table(run, "filter", number, ["scrubbed"])["scrubbed"] for number in range(partitions(run))
    )
    return {"scrubbed_captions": sum(pc.sum(part).as_py() or 0 for part in parts)}


FILTER = Stage("filter", ("candidates",), _filter, partitions, _filter_prepare, _filter_finish)


def _match_prepare(run: Run) -> None:
    QueryIndex.build(queries(run), run.recipe.match).save(run.stage("match"))


def _match(run: Run, number: int, write: Write) -> Counts:
    table = partition_table(run, "filter", number, ["row", "caption"])
    matches = QueryIndex.open(run.stage("match")).match(table["caption"])
    found = np.diff(matches.offsets) > 0
    rows = table["row"].to_numpy()
    write("", rows_table(rows[found], ids=matches.to_arrow().filter(pa.array(found))))
    counts = Counts()
    counts.keep(int(found.sum()))
    keys = partition_table(run, "candidates", number, ["key"])["key"] if not found.all() else None
    for row in rows[~found]:
        counts.drop(Reason.NO_QUERY, keys[int(row)].as_py() if keys is not None else "")
    return counts


MATCH = Stage("match", ("queries", "filter"), _match, partitions, _match_prepare)


def _balance_prepare(run: Run) -> None:
    """Count the matches of every query over all partitions, and make the sampling plan."""
    texts = queries(run)
    before = np.zeros(len(texts), np.int64)
    for table in tables(run, "match", columns=["ids"]):
        count_matches(Matches.from_arrow(table["ids"]), before)
    plan = make_plan(texts, before, run.recipe.balance, parts=lambda: _parts(run))
    folder = run.stage("balance")
    for name, array in (("before", before), ("names", plan.names), ("limits", plan.limits)):
        save_array(folder / f"{name}.npy", array)


def _parts(run: Run) -> Iterator[tuple[pa.ChunkedArray, Matches]]:
    for number in range(partitions(run)):
        table = partition_table(run, "match", number)
        yield _keys(run, number, table["row"].to_numpy()), Matches.from_arrow(table["ids"])


def _keys(run: Run, number: int, rows: NDArray[np.int32]) -> pa.ChunkedArray:
    return partition_table(run, "candidates", number, ["key"])["key"].take(rows)


def _balance(run: Run, number: int, write: Write) -> Counts:
    table = partition_table(run, "match", number)
    rows = table["row"].to_numpy()
    keys, folder = _keys(run, number, rows), run.stage("balance")
    names, limits = (np.array(load_array(folder / f"{name}.npy")) for name in ("names", "limits"))
    plan = Plan(names, limits, run.recipe.balance.seed)
    keep, chosen = balance_partition(keys, Matches.from_arrow(table["ids"]), plan)
    counts = Counts()
    counts.keep(int(keep.sum()))
    for row in np.flatnonzero(~keep):
        counts.drop(Reason.NOT_DRAWN, keys[int(row)].as_py())
    write("", rows_table(rows[keep], ids=chosen.to_arrow().filter(pa.array(keep))))
    return counts


def _balance_finish(run: Run) -> dict[str, Any]:
    """Count the matches again over what was kept."""
    after = np.zeros(len(load_array(run.stage("balance") / "before.npy")), np.int64)
    for number in range(partitions(run)):
        kept = partition_table(run, "balance", number, ["row"])["row"]
        matched = partition_table(run, "match", number)
        inside = np.isin(matched["row"].to_numpy(), kept.to_numpy())
        count_matches(Matches.from_arrow(matched["ids"].filter(pa.array(inside))), after)
    save_array(run.stage("balance") / "after.npy", after)
    return {}


BALANCE = Stage("balance", ("match",), _balance, partitions, _balance_prepare, _balance_finish)


def queries(run: Run) -> pa.ChunkedArray:
    """Return the texts of the queries; a query's id is its row."""
    return read_table(run.stage("queries") / QUERIES_FILE, ["query"])["query"]


def rows_table(rows: NDArray[Any], **columns: pa.Array) -> pa.Table:
    """Return a table of row numbers and what belongs to them."""
    return pa.table({"row": pa.array(rows, pa.int32()), **columns})
