"""Compare a run of a suite: with another model image by image, with published tables, and with the model's
training set, whose images are in the tasks or not.

Reads: the answers that runs of a suite kept; a CSV as open_clip publishes its results; the images of the
tasks and of the training set, once each.
Source: McNemar 1947 and Efron and Tibshirani 1993 through `metrics.intervals`; Radford et al. 2021, section
5, through `data.near_copies.overlap`.
"""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from diptych.core.errors import SettingsError, UsageError
from diptych.core.records import Counts
from diptych.data.near_copies.fingerprints import FINGERPRINTS, fingerprint_partition
from diptych.data.near_copies.groups import in_both
from diptych.data.near_copies.overlap import OverlapReport, overlap_report
from diptych.evaluate.metrics.intervals import mcnemar, paired_bootstrap
from diptych.evaluate.metrics.robustness import Shift, shifts
from diptych.evaluate.suite.run import SuiteOutcome
from diptych.evaluate.tasks.registry import registry, task_rows

if TYPE_CHECKING:
    from diptych.data.sources.open import Source

PUBLISHED = "published_openclip_results.csv"
PART = 512  # encoded images held at a time
TOGETHER = 100_000  # training images whose fingerprints are compared at a time: some 150 MB


@dataclass(frozen=True, slots=True)
class Comparison:
    """One task and protocol of two models, on the same images."""

    task: str
    protocol: str
    value: float  # the share of hits
    other: float  # that of the other model
    gain: float  # the difference
    ci95: tuple[float, float] | None  # of the gain, from a paired bootstrap
    p_value: float  # McNemar's exact test; of hits averaged over draws, the paired bootstrap's
    n: int  # images, or texts


def compare(outcome: SuiteOutcome, other: SuiteOutcome) -> list[Comparison]:
    """Compare two models on every task and protocol that both have; their data must be the same."""
    comparisons: list[Comparison] = []
    others = {result["task"]: number for number, result in enumerate(other.results)}
    for number, result in enumerate(outcome.results):
        task = result["task"]
        if task not in others:
            continue
        if (data := other.results[others[task]]["data"]) != result["data"]:
            what, fix = "two models were scored on different data", "run the suite again for both"
            found, expected = data[:16], result["data"][:16]
            raise UsageError(what, where=f"task {task}", found=found, expected=expected, fix=fix)
        mine, theirs = outcome.answers(number), other.answers(others[task])
        for name in (name for name in mine if name.endswith("hits") and name in theirs):
            protocol = name.removesuffix("_hits").replace("retrieval_text", "retrieval of images")
            after, before = mine[name], theirs[name]
            test = paired_bootstrap(before, after)
            p_value = mcnemar(before, after) if after.dtype == np.bool_ else test.p_value
            values = float(after.mean()), float(before.mean()), test.gain, test.interval, p_value
            comparisons.append(Comparison(task, protocol, *values, len(after)))
    return comparisons


def natural_shifts(outcome: SuiteOutcome, table: Mapping[str, Mapping[str, float]]) -> list[Shift]:
    """Return the effective robustness on every natural shift of ImageNet that was scored zero-shot.

    The line is that of the table's models, which are contrastive ones too: it says whether this model is more
    robust than others of its kind, not than models trained on ImageNet.
    """
    columns = {name: task_rows()[name].column for name in registry().suites["imagenet_shift"]}
    values = {
        result["task"]: result["protocols"]["zeroshot"]["value"]
        for result in outcome.results
        if result["task"] in columns and "zeroshot" in result["protocols"]
    }
    known = {name: value for name, value in values.items() if value is not None}
    return shifts(known, {name: column for name, column in columns.items() if column}, table)


def read_published(data: Path) -> dict[str, dict[str, float]]:
    """Read the table of public models that is beside the data: name/pretrained -> column -> share in [0, 1].

    Empty if there is none.
    """
    path = next((path for path in (data / PUBLISHED, data / "text" / PUBLISHED) if path.is_file()), None)
    if path is None:
        return {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
        return {  # open_clip names an architecture anew for its activation; the weights are the plain name's
            f"{row.pop('name').removesuffix('-quickgelu')}/{row.pop('pretrained')}": {
                column: float(value) for column, value in row.items() if column and value
            }
            for row in rows
        }
    except (KeyError, ValueError, AttributeError) as error:
        what, found = "a table of public models cannot be read", str(error)[:80]
        expected = "CSV with name, pretrained, and a column of numbers for each data set"
        raise SettingsError(what, where=path, found=found, expected=expected) from None


def best_published(table: Mapping[str, Mapping[str, float]]) -> str:
    """Return the public model with the best mean over all data sets."""
    return max(table, key=lambda name: table[name].get("Average perf. on 38 datasets", 0.0), default="")


def seen_in_training(
    outcome: SuiteOutcome, training: "Source", counts: Counts | None = None
) -> list[OverlapReport]:
    """Split every task into images with a near copy in a training set and images without.

    A report is of a task's zero-shot, probe or retrieval results, the first of these; unreadable images count
    as wrong. A missing image is a copy of nothing, a damaged one of the same bytes. `counts` receives the
    training images; one that cannot be read is a copy of nothing.
    """
    tasks = []
    for number, task in enumerate(outcome.opened):
        done = outcome.results[number]["protocols"]
        protocol = next((name for name in ("zeroshot", "probe", "retrieval") if name in done), None)
        if protocol is not None:
            answers = outcome.answers(number)
            hits = np.asarray(answers[f"{protocol}_hits"], np.bool_)
            prints = pa.concat_tables([FINGERPRINTS.empty_table(), *_fingerprints(task.source, Counts())])
            tasks.append((task.spec.name, answers.get("rows", np.arange(len(hits))), hits, prints))
    if not tasks:
        return []
    parts = _fingerprints(training, Counts() if counts is None else counts)
    count = -(-TOGETHER // PART)
    together = (pa.concat_tables(tables) for tables in iter(lambda: list(islice(parts, count)), []))
    _, seen = in_both(together, pa.concat_tables([prints for *_, prints in tasks]))
    ends = np.cumsum([len(prints) for *_, prints in tasks])
    return [
        overlap_report(part[rows], hits, task=name)
        for (name, rows, hits, _), part in zip(tasks, np.split(seen, ends[:-1]), strict=True)
    ]


def _fingerprints(source: "Source", counts: Counts) -> Iterator[pa.Table]:
    pairs = source.pairs(counts)
    while images := [pair.image or None for pair in islice(pairs, PART)]:
        prints, read = fingerprint_partition(pa.array(images, pa.large_binary()))
        counts.merge(read)
        yield prints
