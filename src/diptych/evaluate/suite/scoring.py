"""A model on a task: its images embedded once, their labels, predictions, and metrics with intervals.

Every protocol predicts for the same images in the same order, so two of them, or two models, can be compared
image by image. Shares carry exact intervals (Clopper-Pearson), everything else a percentile bootstrap over
images. An unreadable image stays in the denominator and counts as wrong in every metric: no rank, no
prediction, the lowest score where it should have been returned and the highest where it should not.

Source: Radford et al. 2021, section 3.1 and appendix A (a metric per data set); Koh et al. 2021 (WILDS) and
Gadre et al. 2023 (DataComp) for macro F1 and the worst of groups.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diptych.core.checks import Bools, Floats, Ints
from diptych.core.errors import DataError, UnknownNameError, unknown_name
from diptych.core.records import Metric
from diptych.core.seeds import numpy_rng
from diptych.embed.features import EmbeddedPairs
from diptych.evaluate.metrics.classification import (
    label_ranks,
    mean_average_precision,
    mean_eleven_point_ap,
    mean_per_class,
    predictions,
    roc_auc,
)
from diptych.evaluate.metrics.intervals import RESAMPLES, bootstrap, bootstrap_mean_per_class, share
from diptych.evaluate.suite.features_cache import FeatureSettings, Kind, cached_pairs, data_digest
from diptych.evaluate.suite.plan import WITHOUT_CLASSES, OpenedTask
from diptych.evaluate.tasks.registry import IGNORED, LABELS, MetricName

if TYPE_CHECKING:
    from diptych.data.sources.open import Source
    from diptych.models.model import Model

PRECISION_RESAMPLES = 200  # draws for the mean average precision, which sorts every class anew for each

# Fields that say the group of an image, in data sets scored by their worst group; DataComp numbers columns.
GROUP_FIELDS = ("region", "group", "income_group", "metadata_0")

Scores = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class TaskLabels:
    """The right answers of a task: N labeled images, C classes."""

    rows: Ints  # (N,), of the labeled images among all; all rows in a task without classes
    class_names: tuple[str, ...]
    class_ids: Ints  # (N,) in [0, C); of several classes the first, -1 for none
    label_matrix: Ints | None = None  # (N, C), if an image has several: 1, -1, or 0 for difficult ones
    groups: Ints | None = None  # (N,), if the metric asks for the worst of groups
    group_field: str = ""
    unlabelled: int = 0  # images without a label; they are not part of N


def task_labels(task: OpenedTask, embedded: EmbeddedPairs, *, first: Sequence[str] = ()) -> TaskLabels:
    """Read the labels of a task's test or training images; classes in `first` have their numbers already.

    Raises:
        UnknownNameError: no image has the label column.
        DataError: no image has a label; a metric over groups has no field that says them.
    """
    where, rows = f"task {task.spec.name!r}", np.arange(len(embedded.keys), dtype=np.int64)
    if task.kind in WITHOUT_CLASSES or not set(task.protocols) - {"retrieval"}:
        return TaskLabels(rows, (), rows[:0])
    if task.row is None:
        names = task.templates.names
        labels = column_labels(embedded, task.spec.labels, first=first, named=names, where=where)
        return _grouped(labels, task, embedded)
    numbers = [_numbers(fields.get(LABELS)) for fields in embedded.fields]
    class_ids = np.array([of_row[0] if of_row else -1 for of_row in numbers], dtype=np.int64)
    matrix = None
    if task.kind == "multilabel":
        matrix = np.full((len(rows), len(task.class_names)), -1, dtype=np.int64)
        for row, fields in enumerate(embedded.fields):
            matrix[row, _numbers(fields.get(IGNORED))] = 0
            matrix[row, numbers[row]] = 1
    return _grouped(TaskLabels(rows, task.class_names, class_ids, matrix), task, embedded)


def _numbers(value: object) -> list[int]:
    return [int(number) for number in str(value).split(",")] if value not in (None, "") else []


def _grouped(labels: TaskLabels, task: OpenedTask, embedded: EmbeddedPairs) -> TaskLabels:
    """Add the groups of the images if the metric is over groups."""
    if not task.metric.startswith("worst_group"):
        return labels
    fields = [embedded.fields[row] for row in labels.rows]
    wanted = task.spec.slices[:1] or GROUP_FIELDS
    name = next((name for name in wanted if all(name in of_row for of_row in fields)), None)
    if name is None:
        what, fix = "a metric over groups finds no groups", "name the field in slices, in a file of your own"
        found = ", ".join(sorted({key for of_row in fields[:1] for key in of_row})) or "no fields"
        expected = f"one of the fields {', '.join(wanted)} for every image"
        raise DataError(what, where=f"task {task.spec.name!r}", found=found, expected=expected, fix=fix)
    _, groups = np.unique([str(of_row[name]) for of_row in fields], return_inverse=True)
    return replace(labels, groups=groups.astype(np.int64), group_field=name)


def column_labels(
    embedded: EmbeddedPairs,
    column: str,
    *,
    where: object,
    named: Iterable[str] = (),
    first: Sequence[str] = (),
) -> TaskLabels:
    """Read the labels of all images from a column, where an empty text is a missing label.

    Classes are in natural order, those `named` among them even if no image has them; after those in `first`.
    """
    known = dict.fromkeys(name for fields in embedded.fields for name in fields)
    if column not in known:
        raise unknown_labels(column, known, where=where)
    values = (fields.get(column) for fields in embedded.fields)
    texts = ["" if value is None else str(value).strip() for value in values]
    rows = np.array([row for row, text in enumerate(texts) if text], dtype=np.int64)
    if not len(rows):
        raise DataError("no image has a label", where=where, found=f"column {column!r}")
    held = set(texts) - {""}
    first = first or sorted(held | set(named), key=natural_order)
    names = (*first, *sorted(held - set(first), key=natural_order))
    numbers = {name: number for number, name in enumerate(names)}
    class_ids = np.array([numbers[texts[row]] for row in rows], dtype=np.int64)
    return TaskLabels(rows, names, class_ids, unlabelled=len(texts) - len(rows))


def unknown_labels(name: str, known: Iterable[str], *, where: object) -> UnknownNameError:
    """Build the error for a column of labels that a source does not have."""
    error = unknown_name("label column", name, known, where=where)
    error.fix = error.fix or "name the column: labels in a recipe, --labels in a command"
    return error


def natural_order(text: str) -> tuple[tuple[int | str, ...], str]:
    """Return a key that sorts numbers within names as numbers.

    >>> sorted(["10", "9", "b10", "b9", "a"], key=natural_order)
    ['9', '10', 'a', 'b9', 'b10']
    """
    parts = re.split(r"(\d{1,18})", text, flags=re.ASCII)  # every second one is a number: names compare
    return tuple(int(part) if number % 2 else part for number, part in enumerate(parts)), text


@dataclass(frozen=True, slots=True)
class Predictions:
    """Predictions of a model for the labeled images of a task."""

    labels: TaskLabels
    ranks: Ints  # (N,), other classes that scored as high as the true one, `NEVER` if unreadable
    predicted: Ints  # (N,) in [-1, C)
    scores: Scores | None = None  # (N, C) cosines or logits if a metric needs them; NaN rows are unreadable
    probabilities: Scores | None = None  # (N, C), if a metric ranks them

    @property
    def hits(self) -> Bools:
        """(N,) bool: right at the first guess; of several classes: the first guess is one of them."""
        if (matrix := self.labels.label_matrix) is None:
            return self.ranks < 1
        return (self.predicted >= 0) & (matrix[np.arange(len(matrix)), np.maximum(self.predicted, 0)] > 0)


@dataclass(frozen=True, slots=True)
class ProtocolResult:
    """Result of one protocol on a task: what files, reports and logs show of it."""

    metric: Metric  # the main number
    labels: TaskLabels
    metrics: tuple[Metric, ...] = ()
    slices: tuple[Metric, ...] = ()  # the share of hits by values of fields
    extra: Mapping[str, Any] = field(default_factory=dict)  # what else a report shows, plain values
    # Per image, to compare with another model: hits, and what was predicted.
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    logged: tuple[Metric, ...] = ()  # what training logs beside `metrics`


class TaskRunner:
    """A model, a task, its embedded images and its labels, for every protocol to score.

    Features and classifiers are in the folder `cache`, under the digest of the task's data; or the images
    are `embedded` already and nothing is kept.
    """

    def __init__(
        self,
        model: "Model",
        task: OpenedTask,
        settings: FeatureSettings,
        *,
        cache: Path | None = None,
        digest: str = "",
        embedded: EmbeddedPairs | None = None,
    ) -> None:
        self.model, self.task, self.settings, self.cache, self.digest = model, task, settings, cache, digest
        self._model_digest = "" if cache is None else model.digest
        self.embedded = embedded or self.features(task.source, "embeds", digest)
        self.labels = task_labels(task, self.embedded)

    def features(self, source: "Source", kind: Kind, digest: str = "") -> EmbeddedPairs:
        """Return the rows of a source, "embeds" or "penultimate" ones, from the cache."""
        assert self.cache is not None
        digests = self._model_digest, digest or data_digest(source, *self.task.choices)
        return cached_pairs(self.model, source, self.cache / "features", digests, kind, self.settings)

    def classified(self, made: "Predictions", extra: Mapping[str, Any]) -> ProtocolResult:
        """Return the result of a protocol that predicts classes."""
        task, arrays = self.task, {"hits": made.hits, "predicted": made.predicted}
        main = main_metric(made, task.metric, task=task.spec.name)
        further = tuple(further_metrics(made, task=task.spec.name))
        slices = self.slices(made.hits, self.labels.rows)
        return ProtocolResult(main, made.labels, further, slices, extra, arrays)

    def slices(self, hits: Bools, rows: Ints) -> tuple[Metric, ...]:
        """Split the share of hits of some rows by the values of the fields that the task names."""
        spec, fields = self.task.spec, [self.embedded.fields[row] for row in rows]
        known = dict.fromkeys(column for of_row in fields for column in of_row)
        metrics: list[Metric] = []
        for name in spec.slices:
            if name not in known:
                raise unknown_name("column to slice by", name, known, where=f"task {spec.name!r}")
            metrics += sliced(hits, [of_row.get(name) for of_row in fields], task=spec.name, name=name)
        return tuple(metrics)


def classify(
    image_embeds: Floats,
    labels: TaskLabels,
    classifier: Floats,
    metric: MetricName,
    *,
    probabilities: Scores | None = None,
) -> Predictions:
    """Classify unit rows (N, E) by a classifier (C, E), NaN rows being unreadable images.

    Scores are kept if the metric needs them; `map_11pt` ranks the probabilities (N, C).
    """
    scores: Floats | None = image_embeds @ classifier.T if metric in ("map_11pt", "roc_auc") else None
    ranks = label_ranks(image_embeds, np.maximum(labels.class_ids, 0), classifier)
    return Predictions(labels, ranks, predictions(image_embeds, classifier), scores, probabilities)


def main_metric(made: Predictions, metric: MetricName, *, task: str) -> Metric:
    """Return the metric of a data set with its 95 % interval, in [0, 1]."""
    count, class_ids, class_count = len(made.ranks), made.labels.class_ids, len(made.labels.class_names)
    if metric == "accuracy":
        return share(task, metric, int(made.hits.sum()), count)
    if metric == "mean_per_class":
        cells = made.hits, class_ids, class_count
        return Metric(task, metric, mean_per_class(*cells), bootstrap_mean_per_class(*cells), count)
    statistic = _STATISTICS[metric](made)
    draws = PRECISION_RESAMPLES if metric == "map_11pt" else RESAMPLES
    interval = bootstrap(statistic, count, resamples=draws)
    return Metric(task, metric, statistic(np.arange(count)), interval, count)


def further_metrics(made: Predictions, *, task: str) -> list[Metric]:
    """Return top-1, top-5 and mean per class (of several classes, the mean average precision of cosines)."""
    count, matrix = len(made.ranks), made.labels.label_matrix
    top1 = share(task, "top1", int(made.hits.sum()), count)
    if matrix is None:
        top5 = share(task, "top5", int((made.ranks < 5).sum()), count)
        return [top1, top5, main_metric(made, "mean_per_class", task=task)]
    if made.scores is None:
        return [top1]
    present = matrix >= 0  # as CLIP_benchmark has it: cosines, and what is difficult is there
    value = mean_average_precision(_pessimistic(made.scores, present), present)
    return [top1, Metric(task, "mean_average_precision", value, None, count)]


def sliced(hits: Bools, fields: Sequence[object], *, task: str, name: str) -> list[Metric]:
    """Return the share of hits for each value of a field, `name=value`; a missing value is one of its own.

    >>> [metric.metric for metric in sliced(np.array([True, False]), ["a", None], task="t", name="shop")]
    ['shop=', 'shop=a']
    """
    texts = np.array(["" if value is None else str(value) for value in fields])
    parts = {value: hits[texts == value] for value in sorted(set(texts.tolist()))}
    return [share(task, f"{name}={value}", int(part.sum()), len(part)) for value, part in parts.items()]


def mean_of_shares(first: Metric, second: Metric, *, task: str, name: str) -> Metric:
    """Average two shares over different items, such as recall both ways; the interval draws both anew."""
    rng = numpy_rng(0, "mean_of_shares")
    drawn = sum(rng.binomial(one.n, one.value, size=RESAMPLES) / one.n / 2 for one in (first, second))
    low, high = np.quantile(drawn, [0.025, 0.975])
    value = (first.value + second.value) / 2
    return Metric(task, name, value, (float(low), float(high)), first.n + second.n)


def macro_f1(labels: Ints, predicted: Ints, class_count: int) -> float:
    """Average F1 over the classes that have images, as WILDS does.

    >>> macro_f1(np.array([0, 0, 1]), np.array([0, 1, 1]), 3) == (2 / 3 + 2 / 3) / 2
    True
    """
    right = np.bincount(labels[predicted == labels], minlength=class_count)
    held = np.bincount(labels, minlength=class_count)
    totals = held + np.bincount(predicted[predicted >= 0], minlength=class_count)
    return float((2 * right[held > 0] / totals[held > 0]).mean()) if held.any() else math.nan


Statistic = Callable[[Ints], float]


def _f1(made: Predictions) -> Statistic:
    class_ids, class_count = made.labels.class_ids, len(made.labels.class_names)
    return lambda rows: macro_f1(class_ids[rows], made.predicted[rows], class_count)


def _top1_top5(made: Predictions) -> Statistic:
    values = ((made.ranks < 1).astype(np.float64) + (made.ranks < 5)) / 2
    return lambda rows: float(values[rows].mean()) if len(rows) else math.nan


def _worst(made: Predictions, k: int) -> Statistic:
    groups = made.labels.groups
    assert groups is not None
    hits, size = made.ranks < k, int(groups.max(initial=0)) + 1

    def worst(rows: Ints) -> float:
        totals = np.bincount(groups[rows], minlength=size)
        right = np.bincount(groups[rows], weights=hits[rows], minlength=size)
        return float((right[totals > 0] / totals[totals > 0]).min()) if len(rows) else math.nan

    return worst


def _auc(made: Predictions) -> Statistic:
    assert made.scores is not None
    positive = made.labels.class_ids == 1
    margins = _pessimistic((made.scores[:, 1] - made.scores[:, 0]).astype(np.float64), positive)
    return lambda rows: roc_auc(margins[rows], positive[rows])


def _precision(made: Predictions) -> Statistic:
    matrix = made.labels.label_matrix
    assert made.probabilities is not None and matrix is not None
    ranked = _pessimistic(made.probabilities, matrix > 0)
    return lambda rows: mean_eleven_point_ap(ranked[rows], matrix[rows])


def _pessimistic(scores: Scores, positive: Bools) -> Scores:
    """Put what is unreadable (NaN) last where it should be returned, and first where it should not."""
    return np.where(np.isnan(scores), np.where(positive, -np.inf, np.inf), scores)


_STATISTICS: dict[str, Callable[[Predictions], Statistic]] = {
    "macro_f1": _f1,
    "mean_top1_top5": _top1_top5,
    "worst_group_accuracy": lambda made: _worst(made, 1),
    "worst_group_top5": lambda made: _worst(made, 5),
    "roc_auc": _auc,
    "map_11pt": _precision,
}
