"""The stages of images and of the result: fetch, fingerprint, dedup, shards, card.

Each partition writes: `fetch` (row and `columns.FETCHED`, also of failures), `fingerprint` (row and
`fingerprints.FINGERPRINTS`), `dedup` (row, captions) and, of `shards`, a shard set of its own, `NNNNN/`;
these are joined in the folder of the curation.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from diptych.core.checks import Bools, Ints
from diptych.core.errors import DataError, Reason
from diptych.core.files.durable import remove, save_array, write_json
from diptych.core.files.reading import load_array
from diptych.core.manifest import content_digest, is_done, read_manifest
from diptych.core.records import Counts, Field, Need, Pair
from diptych.core.settings import to_mapping
from diptych.curate.candidates.filter import FilterSettings, filter_table
from diptych.curate.columns import FETCHED
from diptych.curate.dedup import blocked_rows, caption_signatures, read_blocked_images
from diptych.curate.fetch.fetch import OK, fetch_partition
from diptych.curate.pipeline.datacard import describe, flow
from diptych.curate.pipeline.recipe import SETTING_OF
from diptych.curate.pipeline.stages import (
    Run,
    Stage,
    Write,
    drop_rows,
    partition_table,
    read_table,
    rows_table,
    write_table,
)
from diptych.curate.pipeline.stages_texts import partitions, queries, tables
from diptych.curate.words import normalized
from diptych.data.near_copies.fingerprints import FINGERPRINTS, fingerprint_partition
from diptych.data.near_copies.groups import duplicate_groups, in_both
from diptych.data.shards.index import KIND as SHARDS_KIND
from diptych.data.shards.writer import join_shards, write_shards
from diptych.data.sources.open import Columns, open_source

_NO_RULE = FilterSettings(min_characters=0, max_characters=0, boilerplate=False)

AT_ONCE = 8192  # candidates that are under way together
MOST_CAPTIONS = 8  # that an image keeps of its copies and itself
BATCH_IMAGES = 2048  # of an evaluation set that are held in memory together
BETWEEN = " | "  # between the queries in a pair's field: none of them holds this

Rows = NDArray[np.int32]


def _fetch(run: Run, number: int, write: Write) -> Counts:
    rows = partition_table(run, "balance", number, ["row"])["row"].to_numpy()
    candidates = partition_table(run, "candidates", number).take(rows)
    counts, parts = Counts(), [FETCHED.empty_table()]
    for start in range(0, len(rows), AT_ONCE):
        fetched, fetch_counts = fetch_partition(candidates.slice(start, AT_ONCE), run.recipe.fetch)
        counts.merge(fetch_counts)
        parts.append(fetched)
    table = _filter_sizes(run, pa.concat_tables(parts), counts)
    write("", table.add_column(0, "row", pa.array(rows, pa.int32())))
    return counts


def _filter_sizes(run: Run, table: pa.Table, counts: Counts) -> pa.Table:
    """Drop the fetched images whose sizes break the rules."""
    rules = run.recipe.filter.rules
    status = np.array(table["status"].to_pylist(), dtype=object)
    for rule in (replace(_NO_RULE, min_side=rules.min_side), replace(_NO_RULE, max_aspect=rules.max_aspect)):
        rows = np.flatnonzero(status == OK)
        passed, filtered = filter_table(table.select(["key", "width", "height"]).take(rows), rule)
        for reason in filtered.dropped:
            status[rows[~np.asarray(passed)]] = str(reason)
        counts.kept -= filtered.dropped.total()
        counts.dropped += filtered.dropped
        counts.examples |= filtered.examples
    return table.set_column(1, "status", pa.array(status, pa.string()))


FETCH = Stage("fetch", ("balance",), _fetch, partitions)


def _encoded_images(run: Run, number: int, rows: Rows) -> pa.ChunkedArray:
    """Return the encoded images of some rows of a partition: fetched, or the candidates' own."""
    own = partition_table(run, "candidates", number, ["image"])["image"].take(rows)
    return pc.coalesce(_table_of(run, "fetch", number, rows, ["image"])["image"], own)


def _table_of(run: Run, name: str, number: int, rows: Rows, columns: list[str]) -> pa.Table:
    """Read the given rows of a stage's table, which has them among others in ascending order."""
    table = partition_table(run, name, number, ["row", *columns])
    return table.take(pa.array(np.searchsorted(table["row"].to_numpy(), rows)))


def _fingerprint(run: Run, number: int, write: Write) -> Counts:
    fetched = partition_table(run, "fetch", number, ["row", "key", "status"])
    fetched = fetched.filter(pc.equal(fetched["status"], OK))
    rows, keys, counts = fetched["row"].to_numpy(), fetched["key"].combine_chunks(), Counts()
    table = _fingerprints(_encoded_images(run, number, rows))
    good = np.asarray(pc.is_null(table["reason"]))
    for row in np.flatnonzero(~good).tolist():
        counts.drop(Reason(table["reason"][row].as_py()), keys[row].as_py())
    if run.recipe.dedup.blocked_images:
        blocked = read_blocked_images(run.recipe.dedup.blocked_images)
        named = blocked_rows(table, blocked, settings=run.recipe.dedup) & good
        drop_rows(counts, named, Reason.BLOCKED_IMAGE, keys)
        good &= ~named
    counts.keep(int(good.sum()))
    kept = table.filter(pa.array(good)).add_column(0, "row", pa.array(rows[good], pa.int32()))
    write("", kept.add_column(1, "key", keys.filter(pa.array(good))))
    return counts


def _fingerprints(images: pa.ChunkedArray) -> pa.Table:
    """Take fingerprints, those of equal bytes once: an image with several captions has several rows."""
    rows: dict[bytes, int] = {}
    distinct: list[bytes] = []
    of_image = np.empty(len(images), np.int64)
    for position, image in enumerate(images):
        data = image.as_py()
        of_image[position] = rows.setdefault(hashlib.blake2b(data, digest_size=32).digest(), len(distinct))
        if of_image[position] == len(distinct):
            distinct.append(data)
    return fingerprint_partition(pa.array(distinct, pa.large_binary()))[0].take(pa.array(of_image))


FINGERPRINT = Stage("fingerprint", ("fetch",), _fingerprint, partitions)


def _dedup_prepare(run: Run) -> None:
    """Group the images of all partitions, and gather the captions of their copies."""
    folder, settings = run.stage("dedup"), run.recipe.dedup
    parts = list(tables(run, "fingerprint"))
    prints = [part.select(FINGERPRINTS.names) for part in parts]
    keys = pa.chunked_array([chunk for part in parts for chunk in part["key"].chunks], pa.string())
    groups = duplicate_groups(prints, settings=settings, keys=keys)
    seen = np.zeros(len(keys), bool)
    for name in run.recipe.evaluation.sources:
        seen |= in_evaluation(run, name, prints)
    starts = np.cumsum([0, *(part.num_rows for part in parts)], dtype=np.int64)
    arrays = {"starts": starts, "leaders": groups.representative, "equal": groups.equal, "seen": seen}
    for name, array in arrays.items():
        save_array(folder / f"{name}.npy", array)
    write_table(folder / "captions.parquet", _captions_of_copies(run, groups.representative))


def in_evaluation(run: Run, name: str, prints: list[pa.Table]) -> Bools:
    """Tell which images are also in an evaluation set; too many unreadable ones in it are an error: copies of
    them would stay.
    """
    part, counts = run.recipe.evaluation, Counts()
    source = open_source(name, columns=Columns(part.image), need=Need.IMAGE)
    inside = np.zeros(sum(table.num_rows for table in prints), bool)
    batch: list[bytes] = []

    def compare() -> None:
        nonlocal inside
        theirs, read = fingerprint_partition(pa.array(batch, pa.binary()))
        counts.merge(read)
        inside |= in_both(prints, theirs, settings=run.recipe.dedup)[0]
        batch.clear()

    for pair in source.pairs(counts):
        batch.append(pair.image)
        if len(batch) == BATCH_IMAGES:
            compare()
    if batch:
        compare()
    counts.check(part.max_bad_fraction, setting="evaluation.max_bad_fraction in the recipe")
    return inside


def _captions_of_copies(run: Run, leaders: Ints) -> pa.Table:
    """Return (leader, captions) for every image that has copies: theirs and its own, each wording once."""
    copies = np.flatnonzero(leaders != np.arange(len(leaders)))
    wanted = np.union1d(copies, leaders[copies])
    texts = list(_captions(run, wanted))
    signatures = caption_signatures(pa.array(texts, pa.string()), settings=run.recipe.dedup)
    # Group by group, the image that stays first.
    order = np.lexsort((wanted, leaders[wanted] != wanted, leaders[wanted]))
    kept: dict[int, list[int]] = {}
    for at in order:
        group = kept.setdefault(int(leaders[wanted[at]]), [])
        alike = (
            (signatures[other] == signatures[at]).mean() >= run.recipe.dedup.min_caption_similarity
            or normalized(texts[other]) == normalized(texts[at])
            for other in group
        )
        if len(group) < MOST_CAPTIONS and not any(alike):
            group.append(int(at))
    rows = sorted(kept)
    lists = pa.array([[texts[at] for at in kept[row]] for row in rows], pa.list_(pa.string()))
    return pa.table({"leader": pa.array(rows, pa.int64()), "captions": lists})


def _captions(run: Run, rows: Ints) -> Iterator[str]:
    """Yield the captions of rows that are counted over all fingerprints, ascending."""
    start = 0
    for number, table in enumerate(tables(run, "fingerprint", ["row"])):
        low, high = (int(at) for at in np.searchsorted(rows, [start, start + table.num_rows]))
        if high > low:
            own = table["row"].to_numpy()[rows[low:high] - start]
            yield from _table_of(run, "filter", number, own, ["caption"])["caption"].to_pylist()
        start += table.num_rows


def _dedup(run: Run, number: int, write: Write) -> Counts:
    folder, counts = run.stage("dedup"), Counts()
    start, end = load_array(folder / "starts.npy")[number : number + 2].tolist()
    prints = partition_table(run, "fingerprint", number, ["row", "key"])
    leaders, equal, seen = (load_array(folder / f"{name}.npy") for name in ("leaders", "equal", "seen"))
    is_leader = leaders[start:end] == np.arange(start, end)
    keep = is_leader & ~seen[start:end]
    in_set = ~keep & (is_leader | seen[leaders[start:end]])
    others = ~keep & ~in_set
    counts.keep(int(keep.sum()))
    drop_rows(counts, in_set, Reason.IN_EVALUATION_SET, prints["key"])
    drop_rows(counts, others & equal[start:end], Reason.DUPLICATE, prints["key"])
    drop_rows(counts, others & ~equal[start:end], Reason.NEAR_DUPLICATE, prints["key"])
    rows = prints["row"].to_numpy()[keep]
    merged = read_table(folder / "captions.parquet")
    several = dict(zip(merged["leader"].to_pylist(), merged["captions"].to_pylist(), strict=True))
    own = _table_of(run, "filter", number, rows, ["caption"])["caption"].to_pylist()
    positions = (np.flatnonzero(keep) + start).tolist()
    captions = [several.get(at, [text]) for at, text in zip(positions, own, strict=True)]
    write("", rows_table(rows, captions=pa.array(captions, pa.list_(pa.string()))))
    return counts


def _dedup_finish(run: Run) -> dict[str, Any]:
    sizes = np.bincount(load_array(run.stage("dedup") / "leaders.npy"), minlength=1)
    return {"groups": int((sizes > 1).sum()), "largest_group": int(sizes.max(initial=0))}


DEDUP = Stage("dedup", ("fingerprint",), _dedup, partitions, _dedup_prepare, _dedup_finish)


def _shards(run: Run, number: int, write: Write) -> Counts:
    del write  # a partition's result is a folder
    folder = run.stage("shards") / f"{number:05d}"
    remove(folder)  # of a partition that was cut off before its manifest
    counts = Counts()
    if partition_table(run, "dedup", number, ["row"]).num_rows:
        write_shards(_pairs(run, number), folder, settings=run.recipe.shards, counts=counts)
    return counts


def _pairs(run: Run, number: int) -> Iterator[Pair]:
    kept = partition_table(run, "dedup", number)
    rows, captions = kept["row"].to_numpy(), kept["captions"].to_pylist()
    candidates = partition_table(run, "candidates", number, ["key", "url", "page", "license", "fields"])
    fetched = _table_of(run, "fetch", number, rows, ["url", "license", "sha256"]).to_pylist()
    drawn = _table_of(run, "balance", number, rows, ["ids"])["ids"]
    names, images = queries(run).combine_chunks(), _encoded_images(run, number, rows)
    for at, candidate in enumerate(candidates.take(rows).to_pylist()):
        fields: dict[str, Field] = json.loads(candidate["fields"] or "{}")
        stated = {
            "url": fetched[at]["url"] or candidate["url"],
            "page": candidate["page"],
            "license": candidate["license"] or fetched[at]["license"],
            "sha256": fetched[at]["sha256"],
            "queries": BETWEEN.join(names.take(drawn[at].values).to_pylist()),
        }
        fields |= {name: value for name, value in stated.items() if value}
        yield Pair(candidate["key"], images[at].as_py(), tuple(captions[at]), fields)


def _shards_finish(run: Run) -> dict[str, Any]:
    """Join the partitions' shard sets; the manifest counts what became of every candidate."""
    parts = [run.stage("shards") / f"{number:05d}" for number in range(partitions(run))]
    written = [part for part in parts if is_done(part, SHARDS_KIND)]
    total = Counts()
    for row in flow(run, until="dedup"):
        stage = Counts.from_dict(row)
        total.dropped.update(stage.dropped)
        total.examples |= stage.examples
        total.seen = total.seen or stage.seen
    for part in written:
        last = Counts.from_dict(read_manifest(part).counts)
        total.dropped.update(last.dropped)
        total.kept += last.kept
    if not written:
        settings = [SETTING_OF[reason] for reason, _ in total.dropped.most_common() if reason in SETTING_OF]
        raise DataError(
            "no pair is left to write",
            where=run.folder,
            found=f"{total.seen} candidates, all dropped ({total.reasons()})",
            fix=f"repair the source, or change {', '.join(settings)}" if settings else "repair the source",
        )
    inputs = [entry for name in ("queries", "candidates") for entry in read_manifest(run.stage(name)).inputs]
    recipe, counts = to_mapping(run.recipe), total.as_dict()
    manifest = join_shards(written, run.folder, settings=recipe, counts=counts, inputs=tuple(inputs))
    return {"digest": content_digest(manifest)}


SHARDS = Stage("shards", ("dedup",), _shards, partitions, finish=_shards_finish)


def _card(run: Run) -> dict[str, Any]:
    card = describe(run)
    write_json(run.folder / "datacard.json", card)
    return {"digest": card["digest"]}


CARD = Stage("card", ("shards",), _shards, lambda _: 0, finish=_card)  # no partitions: one process does it
