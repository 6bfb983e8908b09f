"""The stages of images: fetch, fingerprint, dedup; the glue between files and pure functions.

Writes, for every partition: `fetch` (row and `columns.FETCHED`, also of failures), `fingerprint` (row
and `fingerprints.FINGERPRINTS`) and `dedup` (row, captions); `dedup/leaders.npy`, `dedup/equal.npy` and
`dedup/captions.parquet` for all partitions together.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from diptych.core.errors import Reason
from diptych.core.files.arrays import load_array, save_array
from diptych.core.records import Counts, Need
from diptych.curate.candidates.filter import FilterSettings, filter_table
from diptych.curate.columns import FETCHED
from diptych.curate.dedup import blocked_rows, caption_signatures, read_blocked_images
from diptych.curate.fetch.fetch import OK, fetch_partition
from diptych.curate.pipeline.stages import Run, Stage, Write, partition_table, read_table, write_table
from diptych.curate.pipeline.stages_texts import partitions, rows_table
from diptych.curate.words import normalized
from diptych.data.near_copies.fingerprints import FINGERPRINTS, fingerprint_partition
from diptych.data.near_copies.groups import duplicate_groups, in_both
from diptych.data.sources.open import Columns, open_source

_NO_RULE = FilterSettings(min_characters=0, max_characters=0, boilerplate=False)

AT_ONCE = 8192
"""Candidates that are under way together."""

MOST_CAPTIONS = 8
"""Captions that an image keeps of its copies and itself."""

BATCH_IMAGES = 2048
"""Images of an evaluation set that are held in memory together."""


def _fetch(run: Run, number: int, write: Write) -> Counts:
    rows = partition_table(run, "balance", number, ["row"])["row"].to_numpy()
    candidates = partition_table(run, "candidates", number).take(rows)
    counts, parts = Counts(), []
    for start in range(0, len(rows), AT_ONCE):
        fetched, found = fetch_partition(candidates.slice(start, AT_ONCE), run.recipe.fetch)
        counts.merge(found)
        parts.append(fetched)
    table = pa.concat_tables(parts) if parts else FETCHED.empty_table()
    table = _filter_sizes(run, table, counts)
    write("", table.add_column(0, "row", pa.array(rows, pa.int32())))
    return counts


def _filter_sizes(run: Run, table: pa.Table, counts: Counts) -> pa.Table:
    """Hold the images that were got against the rules about their sizes."""
    rules = run.recipe.filter.rules
    status = np.array(table["status"].to_pylist(), dtype=object)
    for rule in (replace(_NO_RULE, min_side=rules.min_side), replace(_NO_RULE, max_aspect=rules.max_aspect)):
        rows = np.flatnonzero(status == OK)
        got = table.select(["key", "width", "height"]).take(rows)
        passed, judged = filter_table(got, rule)
        for reason, number in judged.dropped.items():
            status[rows[~np.asarray(passed)]] = str(reason)
            counts.kept -= number
            counts.dropped[reason] += number
        counts.examples |= judged.examples
    return table.set_column(1, "status", pa.array(status, pa.string()))


FETCH = Stage("fetch", ("balance",), _fetch, partitions)


def encoded_images(run: Run, number: int, rows: NDArray[np.int32]) -> pa.ChunkedArray:
    """Return the encoded images of some rows of a partition: fetched, or the candidates' own."""
    fetched = partition_table(run, "fetch", number, ["row", "image"])
    places = np.searchsorted(fetched["row"].to_numpy(), rows)
    own = partition_table(run, "candidates", number, ["image"])["image"].take(rows)
    return pc.coalesce(fetched["image"].take(places), own)


def _fingerprint(run: Run, number: int, write: Write) -> Counts:
    fetched = partition_table(run, "fetch", number, ["row", "key", "status"])
    fetched = fetched.filter(pc.equal(fetched["status"], OK))
    rows, keys = fetched["row"].to_numpy(), fetched["key"].combine_chunks()
    table = _fingerprints(encoded_images(run, number, rows))
    good = np.asarray(pc.is_null(table["reason"]))
    counts = Counts()
    counts.keep(int(good.sum()))
    for row in np.flatnonzero(~good).tolist():
        counts.drop(Reason(table["reason"][row].as_py()), keys[row].as_py())
    if run.recipe.dedup.blocked_images:
        blocked = read_blocked_images(run.recipe.dedup.blocked_images)
        named = blocked_rows(table, blocked, settings=run.recipe.dedup) & good
        counts.kept, counts.seen = counts.kept - int(named.sum()), counts.seen - int(named.sum())
        for row in np.flatnonzero(named).tolist():
            counts.drop(Reason.BLOCKED_IMAGE, keys[row].as_py())
        good &= ~named
    kept = table.filter(pa.array(good)).add_column(0, "row", pa.array(rows[good], pa.int32()))
    write("", kept.add_column(1, "key", keys.filter(pa.array(good))))
    return counts


def _fingerprints(images: pa.ChunkedArray) -> pa.Table:
    """Take fingerprints, those of equal bytes once: an image with several captions has several rows."""
    places: dict[bytes, int] = {}
    distinct: list[bytes] = []
    rows = np.empty(len(images), np.int64)
    for row, image in enumerate(images):
        data = image.as_py()
        name = hashlib.blake2b(data, digest_size=32).digest()
        rows[row] = places.setdefault(name, len(distinct))
        if rows[row] == len(distinct):
            distinct.append(data)
    return fingerprint_partition(pa.array(distinct, pa.large_binary()))[0].take(pa.array(rows))


FINGERPRINT = Stage("fingerprint", ("fetch",), _fingerprint, partitions)


def _dedup_prepare(run: Run) -> None:
    """Group the images of all partitions, and gather what their copies are called."""
    folder, settings = run.stage("dedup"), run.recipe.dedup
    parts = [partition_table(run, "fingerprint", number) for number in range(partitions(run))]
    prints = [part.select(FINGERPRINTS.names) for part in parts]
    keys = pa.chunked_array([chunk for part in parts for chunk in part["key"].chunks], pa.string())
    groups = duplicate_groups(prints, settings=settings, keys=keys)
    seen = np.zeros(len(keys), bool)
    for name in run.recipe.evaluation.sources:
        seen |= in_evaluation(run, name, prints)
    starts = np.cumsum([0, *(part.num_rows for part in parts)], dtype=np.int64)
    save_array(folder / "starts.npy", starts)
    save_array(folder / "leaders.npy", groups.representative)
    save_array(folder / "equal.npy", groups.equal)
    save_array(folder / "seen.npy", seen)
    write_table(folder / "captions.parquet", _captions_of_copies(run, groups.representative))


def in_evaluation(run: Run, name: str, prints: list[pa.Table]) -> NDArray[np.bool_]:
    """Tell which images are also in an evaluation set.

    Raises:
        TooMuchBadDataError: too many of the set's images cannot be read: copies of them would stay.
    """
    part, counts = run.recipe.evaluation, Counts()
    source = open_source(name, columns=Columns(part.image), need=Need.IMAGE)
    found = np.zeros(sum(part.num_rows for part in prints), bool)
    waiting: list[bytes] = []

    def look() -> NDArray[np.bool_]:
        theirs, read = fingerprint_partition(pa.array(waiting, pa.binary()))
        counts.merge(read)
        inside, _ = in_both(prints, theirs, settings=run.recipe.dedup)
        waiting.clear()
        return inside

    for pair in source.pairs(counts):
        waiting.append(pair.image)
        if len(waiting) == BATCH_IMAGES:
            found |= look()
    found = found | look() if waiting else found
    counts.check(part.max_bad_fraction, setting="evaluation.max_bad_fraction in the recipe")
    return found


def _captions_of_copies(run: Run, leaders: NDArray[np.int64]) -> pa.Table:
    """Return (leader, captions) for every image that has copies: what they are called, each wording
    once.
    """
    copies = np.flatnonzero(leaders != np.arange(len(leaders)))
    wanted = np.union1d(copies, leaders[copies])
    texts = list(_captions(run, wanted))
    signatures = caption_signatures(pa.array(texts, pa.string()), settings=run.recipe.dedup)
    # Group by group, the image that stays first.
    order = np.lexsort((wanted, leaders[wanted] != wanted, leaders[wanted]))
    kept: dict[int, list[int]] = {}
    for place in order:
        group = kept.setdefault(int(leaders[wanted[place]]), [])
        alike = (
            (signatures[other] == signatures[place]).mean() >= run.recipe.dedup.min_caption_similarity
            or normalized(texts[other]) == normalized(texts[place])
            for other in group
        )
        if len(group) < MOST_CAPTIONS and not any(alike):
            group.append(int(place))
    rows = sorted(kept)
    lists = [[texts[place] for place in kept[row]] for row in rows]
    return pa.table(
        {"leader": pa.array(rows, pa.int64()), "captions": pa.array(lists, pa.list_(pa.string()))}
    )


def _captions(run: Run, rows: NDArray[np.int64]) -> Iterator[str]:
    """Yield the captions of rows that are counted over all fingerprints, ascending."""
    start = 0
    for number in range(partitions(run)):
        mine = partition_table(run, "fingerprint", number, ["row"])["row"].to_numpy()
        low, high = (int(place) for place in np.searchsorted(rows, [start, start + len(mine)]))
        if high > low:
            yield from partition_captions(run, number, mine[rows[low:high] - start])
        start += len(mine)


def partition_captions(run: Run, number: int, rows: NDArray[np.int32]) -> list[str]:
    """Return the captions of some rows of a partition, as the filter left them."""
    table = partition_table(run, "filter", number, ["row", "caption"])
    places = np.searchsorted(table["row"].to_numpy(), rows)
    captions: list[str] = table["caption"].take(places).to_pylist()
    return captions


def _dedup(run: Run, number: int, write: Write) -> Counts:
    folder, counts = run.stage("dedup"), Counts()
    start, end = load_array(folder / "starts.npy")[number : number + 2].tolist()
    prints = partition_table(run, "fingerprint", number, ["row", "key"])
    leaders, equal, seen = (load_array(folder / f"{name}.npy") for name in ("leaders", "equal", "seen"))
    is_leader = leaders[start:end] == np.arange(start, end)
    keep = is_leader & ~seen[start:end]
    for row, key in enumerate(prints["key"].to_pylist()):
        if keep[row]:
            counts.keep()
        elif is_leader[row] or seen[leaders[start + row]]:
            counts.drop(Reason.IN_EVALUATION_SET, key)
        else:
            counts.drop(Reason.DUPLICATE if equal[start + row] else Reason.NEAR_DUPLICATE, key)
    rows = prints["row"].to_numpy()[keep]
    captions = [[text] for text in partition_captions(run, number, rows)]
    merged = read_table(folder / "captions.parquet")
    several = dict(zip(merged["leader"].to_pylist(), merged["captions"].to_pylist(), strict=True))
    for place, row in enumerate(np.flatnonzero(keep).tolist()):
        captions[place] = several.get(start + row, captions[place])
    write("", rows_table(rows, captions=pa.array(captions, pa.list_(pa.string()))))
    return counts


def _dedup_finish(run: Run) -> dict[str, Any]:
    leaders = load_array(run.stage("dedup") / "leaders.npy")
    sizes = np.bincount(leaders, minlength=1)
    return {"groups": int((sizes > 1).sum()), "largest_group": int(sizes.max(initial=0))}


DEDUP = Stage("dedup", ("fingerprint",), _dedup, partitions, _dedup_prepare, _dedup_finish)
