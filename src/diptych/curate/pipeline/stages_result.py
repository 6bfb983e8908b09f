"""The last stages: write the shard set and the data card.

Writes: `shards/NNNNN/`, the shard set of every partition, joined in the folder of the curation;
`datacard.json`.
"""

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from diptych.core.errors import DataError
from diptych.core.files.durable import remove, write_json
from diptych.core.manifest import FileEntry, content_digest, is_done, read_manifest
from diptych.core.records import Counts, Field, Pair
from diptych.core.settings import to_mapping
from diptych.curate.pipeline.datacard import describe, flow
from diptych.curate.pipeline.recipe import SETTING_OF
from diptych.curate.pipeline.stages import Run, Stage, Write, partition_table
from diptych.curate.pipeline.stages_images import encoded_images
from diptych.curate.pipeline.stages_texts import partitions, queries
from diptych.data.shards.index import KIND as SHARDS_KIND
from diptych.data.shards.writer import join_shards, write_shards

BETWEEN = " | "
"""Between the queries in a pair's field: none of them holds this."""


def _shards(run: Run, number: int, write: Write) -> Counts:
    del write  # a partition's outcome is a folder
    folder = run.stage("shards") / f"{number:05d}"
    remove(folder)  # of a partition that was cut off before its manifest
    counts = Counts()
    if partition_table(run, "dedup", number, ["row"]).num_rows:
        write_shards(_pairs(run, number), folder, settings=run.recipe.shards, counts=counts)
    return counts


def _pairs(run: Run, number: int) -> Iterator[Pair]:
    kept = partition_table(run, "dedup", number)
    rows = kept["row"].to_numpy()
    candidates = partition_table(run, "candidates", number, ["key", "url", "page", "license", "fields"]).take(
        rows
    )
    fetched = partition_table(run, "fetch", number, ["row", "url", "license", "sha256"])
    fetched = fetched.take(pa.array(fetched["row"].to_numpy().searchsorted(rows)))
    drawn = partition_table(run, "balance", number)
    drawn = drawn.take(pa.array(drawn["row"].to_numpy().searchsorted(rows)))
    names = queries(run).combine_chunks()
    images = encoded_images(run, number, rows)
    for place, record in enumerate(candidates.to_pylist()):
        fields: dict[str, Field] = json.loads(record["fields"] or "{}")
        stated = {
            "url": fetched["url"][place].as_py() or record["url"],
            "page": record["page"],
            "license": record["license"] or fetched["license"][place].as_py(),
            "sha256": fetched["sha256"][place].as_py(),
            "queries": BETWEEN.join(names.take(drawn["ids"][place].values).to_pylist()),
        }
        fields |= {name: value for name, value in stated.items() if value}
        captions = tuple(kept["captions"][place].as_py())
        yield Pair(record["key"], images[place].as_py(), captions, fields)


def _shards_finish(run: Run) -> dict[str, Any]:
    """Join the partitions' shard sets; the manifest counts the outcome of every candidate."""
    parts = [run.stage("shards") / f"{number:05d}" for number in range(partitions(run))]
    total = Counts()
    for row in flow(run, until="dedup"):
        stage = Counts.from_dict(row)
        total.dropped.update(stage.dropped)
        total.examples |= stage.examples
        total.seen = total.seen or stage.seen
    written = [part for part in parts if is_done(part, SHARDS_KIND)]
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
    manifest = join_shards(
        written, run.folder, settings=to_mapping(run.recipe), counts=total.as_dict(), inputs=_inputs(run)
    )
    return {"digest": content_digest(manifest)}


def _inputs(run: Run) -> tuple[FileEntry, ...]:
    found = [read_manifest(run.stage(name)).inputs for name in ("queries", "candidates")]
    return tuple(entry for entries in found for entry in entries)


SHARDS = Stage("shards", ("dedup",), _shards, partitions, finish=_shards_finish)


def _card(run: Run) -> dict[str, Any]:
    card = describe(run)
    write_json(run.folder / "datacard.json", card)
    return {"digest": card["digest"]}


CARD = Stage("card", ("shards",), _shards, lambda _: 0, finish=_card)
"""No partitions: what there is to do, one process does."""
