"""The stages of images and of the result: fetch, fingerprint, dedup, shards, card.

Each partition writes: `fetch` (row and `columns.FETCHED`, also of failures), `fingerprint` (row and
`fingerprints.FINGERPRINTS`), `dedup` (row, captions) and, of `shards`, a shard set of its own, `NNNNN/`;
these are joined in the folder of the curation.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from diptych.core.checks import Bools, Ints
from diptych.core.errors import DataError, Reason
from diptych.core.files.durable import remove, write_json
from diptych.core.manifest import content_digest, is_done, read_manifest
from diptych.core.records import Counts, Field, Need, Pair
from diptych.core.settings import to_mapping
from diptych.curate.candidates.filter import FilterSettings, filter_table
from diptych.curate.columns import FETCHED
from diptych.curate.dedup import blocked_rows, caption_signatures, read_blocked_images
from diptych.curate.fetch.fetch import OK, fetch_partition
from diptych.curate.pipeline.datacard import FLOW, describe, flow, source_entries
from diptych.curate.pipeline.recipe import SETTING_OF
from diptych.curate.pipeline.stages import Run, Stage, Write, count_rows, read_table, rows_table, write_table
from diptych.curate.pipeline.stages_texts import queries
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


def _table_of(run: Run, name: str, number: int, rows: Rows, columns: list[str]) -> pa.Table:
    """Read the given rows of a stage's table, which has them among others in ascending order."""
    table = run.table(name, number, ["row", *columns])
    return table.take(pa.array(np.searchsorted(table["row"].to_numpy(), rows)))


def _encoded_images(run: Run, number: int, rows: Rows) -> pa.ChunkedArray:
    """Return the encoded images of some rows of a partition: fetched, or the candidates' own."""
    own = run.table("candidates", number, ["image"])["image"].take(rows)
    return pc.coalesce(_table_of(run, "fetch", number, rows, ["image"])["image"], own)


def _fetch(run: Run, number: int, write: Write) -> Counts:
    rows = run.table("balance", number, ["row"])["row"].to_numpy()
    candidates = run.table("candidates", number).take(rows)
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


def _fingerprint(run: Run, number: int, write: Write) -> Counts:
    fetched = run.table("fetch", number, ["row", "key", "status"])
    fetched = fetched.filter(pc.equal(fetched["status"], OK))
    rows, keys = fetched["row"].to_numpy(), fetched["key"].combine_chunks()
    table = _fingerprints(_encoded_images(run, number, rows))
    reasons, good = np.array(table["reason"].to_pylist(), object), np.asarray(pc.is_null(table["reason"]))
    dropped = {Reason(reason): reasons == reason for reason in set(reasons[~good])}
    if run.recipe.dedup.blocked_images:
        blocked = read_blocked_images(run.recipe.dedup.blocked_images)
        dropped[Reason.BLOCKED_IMAGE] = blocked_rows(table, blocked, settings=run.recipe.dedup) & good
        good &= ~dropped[Reason.BLOCKED_IMAGE]
    kept = table.filter(pa.array(good)).add_column(0, "row", pa.array(rows[good], pa.int32()))
    write("", kept.add_column(1, "key", keys.filter(pa.array(good))))
    return count_rows(keys, dropped)


def _fingerprints(images: pa.ChunkedArray) -> pa.Table:
    """Take fingerprints, those of equal bytes once: an image with several captions has several rows."""
    digests = [hashlib.blake2b(image.as_buffer(), digest_size=32).digest() for image in images]
    same = pa.array(digests, pa.binary()).dictionary_encode().indices
    _, first = np.unique(same.to_numpy(), return_index=True)
    distinct = pa.array([images[row].as_py() for row in first.tolist()], pa.large_binary())
    return fingerprint_partition(distinct)[0].take(same)


def _dedup_prepare(run: Run) -> None:
    """Group the images of all partitions, and gather the captions of their copies."""
    parts = list(run.tables("fingerprint"))
    prints = [part.select(FINGERPRINTS.names) for part in parts]
    keys = pa.chunked_array([chunk for part in parts for chunk in part["key"].chunks], pa.string())
    groups = duplicate_groups(prints, settings=run.recipe.dedup, keys=keys)
    seen = np.zeros(len(keys), bool)
    for name in run.recipe.evaluation.sources:
        seen |= in_evaluation(run, name, prints)
    starts = np.cumsum([0, *(part.num_rows for part in parts)], dtype=np.int64)
    run.save_arrays("dedup", starts=starts, leaders=groups.representative, equal=groups.equal, seen=seen)
    write_table(run.stage("dedup") / "captions.parquet", _captions_of_copies(run, groups.representative))


def in_evaluation(run: Run, name: str, prints: list[pa.Table]) -> Bools:
    """Tell which images are also in an evaluation set; too many unreadable ones in it are an error: copies of
    them would stay.
    """
    part, counts = run.recipe.evaluation, Counts()
    inside = np.zeros(sum(table.num_rows for table in prints), bool)
    source = open_source(name, columns=Columns(part.image), need=Need.IMAGE)
    encoded = (pair.image for pair in source.pairs(counts))
    while images := list(islice(encoded, BATCH_IMAGES)):
        theirs, read = fingerprint_partition(pa.array(images, pa.binary()))
        counts.merge(read)
        inside |= in_both(prints, theirs, settings=run.recipe.dedup)[0]
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
    for number, table in enumerate(run.tables("fingerprint", ["row"])):
        low, high = (int(at) for at in np.searchsorted(rows, [start, start + table.num_rows]))
        if high > low:
            own = table["row"].to_numpy()[rows[low:high] - start]
            yield from _table_of(run, "filter", number, own, ["caption"])["caption"].to_pylist()
        start += table.num_rows


def _dedup(run: Run, number: int, write: Write) -> Counts:
    start, end = run.array("dedup", "starts")[number : number + 2].tolist()
    prints = run.table("fingerprint", number, ["row", "key"])
    leaders, equal, seen = (run.array("dedup", name) for name in ("leaders", "equal", "seen"))
    is_leader = leaders[start:end] == np.arange(start, end)
    keep = is_leader & ~seen[start:end]
    in_set = ~keep & (is_leader | seen[leaders[start:end]])
    others = ~keep & ~in_set
    rows = prints["row"].to_numpy()[keep]
    merged = read_table(run.stage("dedup") / "captions.parquet")
    several = dict(zip(merged["leader"].to_pylist(), merged["captions"].to_pylist(), strict=True))
    own = _table_of(run, "filter", number, rows, ["caption"])["caption"].to_pylist()
    positions = (np.flatnonzero(keep) + start).tolist()
    captions = [several.get(at, [text]) for at, text in zip(positions, own, strict=True)]
    write("", rows_table(rows, captions=pa.array(captions, pa.list_(pa.string()))))
    dropped = {
        Reason.IN_EVALUATION_SET: in_set,
        Reason.DUPLICATE: others & equal[start:end],
        Reason.NEAR_DUPLICATE: others & ~equal[start:end],
    }
    return count_rows(prints["key"], dropped)


def _dedup_finish(run: Run) -> dict[str, Any]:
    sizes = np.bincount(run.array("dedup", "leaders"), minlength=1)
    return {"groups": int((sizes > 1).sum()), "largest_group": int(sizes.max(initial=0))}


def _shards(run: Run, number: int, write: Write) -> Counts:
    del write  # a partition's result is a folder
    folder = run.stage("shards") / f"{number:05d}"
    remove(folder)  # of a partition that was cut off before its manifest
    counts = Counts()
    if run.table("dedup", number, ["row"]).num_rows:
        write_shards(_pairs(run, number), folder, settings=run.recipe.shards, counts=counts)
    return counts


def _pairs(run: Run, number: int) -> Iterator[Pair]:
    kept = run.table("dedup", number)
    rows, captions = kept["row"].to_numpy(), kept["captions"].to_pylist()
    candidates = run.table("candidates", number, ["key", "url", "page", "license", "fields"])
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
    folders = [run.stage("shards") / f"{number:05d}" for number in range(len(run.partitions()))]
    written = [folder for folder in folders if is_done(folder, SHARDS_KIND)]
    stages = [Counts.from_dict(row) for row in flow(run, FLOW[:-1])]
    last = [Counts.from_dict(read_manifest(folder).counts) for folder in written]
    total = Counts(seen=stages[0].seen, kept=sum(part.kept for part in last))
    for part in (*stages, *last):
        total.dropped.update(part.dropped)
    for stage in stages:
        total.examples |= stage.examples
    if not written:
        settings = [SETTING_OF[reason] for reason, _ in total.dropped.most_common() if reason in SETTING_OF]
        raise DataError(
            "no pair is left to write",
            where=run.folder,
            found=f"{total.seen} candidates, all dropped ({total.reasons()})",
            fix=f"repair the source, or change {', '.join(settings)}" if settings else "repair the source",
        )
    recipe, counts = to_mapping(run.recipe), total.as_dict()
    manifest = join_shards(written, run.folder, settings=recipe, counts=counts, inputs=source_entries(run))
    return {"digest": content_digest(manifest)}


def _card(run: Run) -> dict[str, Any]:
    card = describe(run)
    write_json(run.folder / "datacard.json", card)
    return {"digest": card["digest"]}


IMAGE_STAGES = (
    Stage("fetch", needs=("balance",), work=_fetch),
    Stage("fingerprint", needs=("fetch",), work=_fingerprint),
    Stage("dedup", needs=("fingerprint",), prepare=_dedup_prepare, work=_dedup, finish=_dedup_finish),
    Stage("shards", needs=("dedup",), work=_shards, finish=_shards_finish),
    # Without partitions: one process does it.
    Stage("card", needs=("shards",), work=_shards, partitions=lambda _: 0, finish=_card),
)
