"""Score the tasks of a suite with and without the images that the model was trained on.

Reads: the images of the tasks and of the training set, once each, and the answers of a run.
Writes: nothing.
Source: Radford et al. 2021, section 5, through `curate.overlap`.
"""

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from diptych.core.checks import Bools, Ints
from diptych.core.records import Counts
from diptych.data.near_copies.fingerprints import FINGERPRINTS, fingerprint_partition
from diptych.data.near_copies.groups import in_both
from diptych.data.near_copies.overlap import OverlapReport, overlap_report
from diptych.evaluate.suite.run import SuiteOutcome

if TYPE_CHECKING:
    from diptych.data.sources.open import Source

PART = 512
"""Encoded images held at a time."""

TOGETHER = 100_000
"""Training images whose fingerprints are compared at a time: some 150 MB."""

ASKED = ("zeroshot", "probe", "retrieval")
"""Whose answers are split, the first that was asked."""


def seen_in_training(
    outcome: SuiteOutcome, training: "Source", counts: Counts | None = None
) -> list[OverlapReport]:
    """Split every task into images with a near copy in a training set and images without.

    Args:
        outcome: a suite's results.
        training: what the model learned from.
        counts: receives its images; one that cannot be read is a copy of nothing.

    Returns:
        A report for each task that was asked by words, a probe or retrieval; unreadable images count as
        wrong. A missing one is a copy of nothing, a damaged one of the same bytes.
    """
    asked = []
    for number, opened in enumerate(outcome.opened):
        answered = _answered(outcome, number)
        if answered is not None:
            asked.append((opened, answered, _fingerprints(opened.source)))
    if not asked:
        return []
    tables = [table for _, _, table in asked]
    _, seen = in_both(_gathered(training, Counts() if counts is None else counts), pa.concat_tables(tables))
    ends = np.cumsum([len(table) for table in tables])
    parts = np.split(seen, ends[:-1])
    return [
        overlap_report(part[rows], hits, task=opened.spec.name)
        for (opened, (rows, hits), _), part in zip(asked, parts, strict=True)
    ]


def _answered(outcome: SuiteOutcome, number: int) -> tuple[Ints, Bools] | None:
    """Return the rows that were asked about, and which were answered right."""
    answers, protocols = outcome.answers(number), outcome.results[number]["protocols"]
    protocol = next((name for name in ASKED if name in protocols), None)
    if protocol is None:
        return None
    hits = np.asarray(answers[f"{protocol}_hits"], np.bool_)
    return np.asarray(answers.get("rows", np.arange(len(hits)))), hits


def _fingerprints(source: "Source") -> pa.Table:
    return pa.concat_tables([FINGERPRINTS.empty_table(), *_parts(source, Counts())])


def _gathered(source: "Source", counts: Counts) -> Iterator[pa.Table]:
    """Yield the fingerprints of a source in large tables."""
    held: list[pa.Table] = []
    for part in _parts(source, counts):
        held.append(part)
        if len(held) * PART >= TOGETHER:
            yield pa.concat_tables(held)
            held = []
    if held:
        yield pa.concat_tables(held)


def _parts(source: "Source", counts: Counts) -> Iterator[pa.Table]:
    pairs = source.pairs(counts)
    while images := [pair.image or None for pair in islice(pairs, PART)]:
        prints, read = fingerprint_partition(pa.array(images, pa.large_binary()))
        counts.merge(read)
        yield prints
