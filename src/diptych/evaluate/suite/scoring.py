"""Score answers in the metric of their data set, with an interval, and split the score by groups.

Shares carry exact intervals (Clopper-Pearson), everything else a percentile bootstrap over images. An
unreadable image stays in the denominator and counts as wrong in every metric: no rank, no answer, the
lowest score where it should have been found and the highest where it should not.

Source: Radford et al. 2021, section 3.1 and appendix A (a metric per data set); Koh et al. 2021 (WILDS) and
Gadre et al. 2023 (DataComp) for macro F1 and the worst of groups.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diptych.core.checks import Bools, Floats, Ints
from diptych.core.records import Metric
from diptych.core.seeds import numpy_rng
from diptych.evaluate.metrics.classification import (
    label_ranks,
    mean_average_precision,
    mean_eleven_point_ap,
    mean_per_class,
    predictions,
    roc_auc,
)
from diptych.evaluate.metrics.intervals import RESAMPLES, bootstrap, bootstrap_mean_per_class, share
from diptych.evaluate.tasks.registry import MetricName

PRECISION_RESAMPLES = 200
"""Draws for the mean average precision, which sorts every class anew for each."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of each image.

    Attributes:
        labels: (N,) int64 in [0, C); of several classes the first, -1 for none.
        ranks: (N,) int64, other classes that scored as high as the true one, `NEVER` if unreadable.
        predicted: (N,) int64 in [-1, C).
        class_count: C.
        scores: (N, C) cosines or logits, where a metric needs them; NaN rows are unreadable.
        probabilities: (N, C) of the classes, where a metric ranks them.
        label_matrix: (N, C) int64 of several classes: 1, -1, or 0 for those that could not be told.
        groups: (N,) int64, where a metric asks for the worst of groups.
    """

    labels: Ints
    ranks: Ints
    predicted: Ints
    class_count: int
    scores: NDArray[np.floating] | None = None
    label_matrix: Ints | None = None
    groups: Ints | None = None
    probabilities: NDArray[np.floating] | None = None

    @property
    def hits(self) -> Bools:
        """(N,) bool: right at the first guess; of several classes: the first guess is one of them."""
        if self.label_matrix is None:
            return self.ranks < 1
        rows = np.arange(len(self.label_matrix))
        return (self.predicted >= 0) & (self.label_matrix[rows, np.maximum(self.predicted, 0)] > 0)


def classify(
    image_embeds: Floats,
    labels: Ints,
    classifier: Floats,
    metric: MetricName,
    *,
    label_matrix: Ints | None = None,
    groups: Ints | None = None,
    probabilities: NDArray[np.floating] | None = None,
) -> Outcome:
    """Answer for every image.

    Args:
        image_embeds: (N, E) float32, unit length; NaN rows are unreadable.
        labels: (N,) int64, see `Outcome`.
        classifier: (C, E) float32, unit length.
        metric: decides whether scores are kept.
        label_matrix: (N, C) of several classes.
        groups: (N,) int64.
        probabilities: (N, C) of the classes, which `map_11pt` ranks.
    """
    scores: Floats | None = image_embeds @ classifier.T if metric in ("map_11pt", "roc_auc") else None
    ranks = label_ranks(image_embeds, np.maximum(labels, 0), classifier)
    predicted = predictions(image_embeds, classifier)
    return Outcome(labels, ranks, predicted, len(classifier), scores, label_matrix, groups, probabilities)


def main_metric(outcome: Outcome, metric: MetricName, *, task: str, seed: int = 0) -> Metric:
    """Return the metric of a data set with its 95 % interval, in [0, 1]."""
    count = len(outcome.labels)
    if metric == "accuracy":
        return share(task, metric, int(outcome.hits.sum()), count)
    if metric == "mean_per_class":
        told = (outcome.hits, outcome.labels, outcome.class_count)
        return Metric(task, metric, mean_per_class(*told), bootstrap_mean_per_class(*told, seed=seed), count)
    statistic = _STATISTICS[metric](outcome)
    draws = PRECISION_RESAMPLES if metric == "map_11pt" else RESAMPLES
    interval = bootstrap(statistic, count, seed=seed, resamples=draws)
    return Metric(task, metric, statistic(np.arange(count)), interval, count)


def further_metrics(outcome: Outcome, *, task: str) -> list[Metric]:
    """Return top-1, top-5 and mean per class (of several classes, the mean average precision of cosines)."""
    count = len(outcome.labels)
    found = []
    depths = (1, 5) if outcome.label_matrix is None else (1,)
    for k in depths:
        hits = int((outcome.hits if k == 1 else outcome.ranks < k).sum())
        found.append(share(task, f"top{k}", hits, count))
    if outcome.label_matrix is None:
        found.append(main_metric(outcome, "mean_per_class", task=task))
    elif outcome.scores is not None:  # as CLIP_benchmark has it: cosines, and what is difficult is there
        present = outcome.label_matrix >= 0
        value = mean_average_precision(_pessimistic(outcome.scores, present), present)
        found.append(Metric(task, "mean_average_precision", value, None, count))
    return found


def sliced(hits: Bools, fields: Sequence[object], *, task: str, name: str) -> list[Metric]:
    """Return the share of hits for each value of a field, `name=value`; a missing value is one of its own.

    >>> [found.metric for found in sliced(np.array([True, False]), ["a", None], task="t", name="shop")]
    ['shop=', 'shop=a']
    """
    texts = np.array(["" if value is None else str(value) for value in fields])
    found = []
    for value in sorted(set(texts.tolist())):
        of_value = hits[texts == value]
        found.append(share(task, f"{name}={value}", int(of_value.sum()), len(of_value)))
    return found


def mean_of_shares(first: Metric, second: Metric, *, task: str, name: str, seed: int = 0) -> Metric:
    """Average two shares over different items, such as recall both ways; the interval draws both anew."""
    rng = numpy_rng(seed, "mean_of_shares")
    drawn = sum(rng.binomial(one.n, one.value, size=RESAMPLES) / one.n / 2 for one in (first, second))
    low, high = np.quantile(drawn, [0.025, 0.975])
    value = (first.value + second.value) / 2
    return Metric(task, name, value, (float(low), float(high)), first.n + second.n)


def macro_f1(labels: Ints, predicted: Ints, class_count: int) -> float:
    """Average F1 over the classes that have images, as WILDS does.

    >>> macro_f1(np.array([0, 0, 1]), np.array([0, 1, 1]), 3) == (2 / 3 + 2 / 3) / 2
    True
    """
    answers = predicted[predicted >= 0]
    right = np.bincount(labels[predicted == labels], minlength=class_count)
    totals = np.bincount(labels, minlength=class_count) + np.bincount(answers, minlength=class_count)
    held = np.bincount(labels, minlength=class_count) > 0
    return float((2 * right[held] / totals[held]).mean()) if held.any() else math.nan


Statistic = Callable[[Ints], float]


def _f1(outcome: Outcome) -> Statistic:
    return lambda rows: macro_f1(outcome.labels[rows], outcome.predicted[rows], outcome.class_count)


def _top1_top5(outcome: Outcome) -> Statistic:
    values = ((outcome.ranks < 1).astype(np.float64) + (outcome.ranks < 5)) / 2
    return lambda rows: float(values[rows].mean()) if len(rows) else math.nan


def _worst(k: int) -> Callable[[Outcome], Statistic]:
    def of(outcome: Outcome) -> Statistic:
        assert outcome.groups is not None
        hits, groups, size = outcome.ranks < k, outcome.groups, int(outcome.groups.max(initial=0)) + 1

        def worst(rows: Ints) -> float:
            totals = np.bincount(groups[rows], minlength=size)
            right = np.bincount(groups[rows], weights=hits[rows], minlength=size)
            return float((right[totals > 0] / totals[totals > 0]).min()) if len(rows) else math.nan

        return worst

    return of


def _auc(outcome: Outcome) -> Statistic:
    assert outcome.scores is not None
    positive = outcome.labels == 1
    margins = _pessimistic((outcome.scores[:, 1] - outcome.scores[:, 0]).astype(np.float64), positive)
    return lambda rows: roc_auc(margins[rows], positive[rows])


def _precision(outcome: Outcome) -> Statistic:
    assert outcome.probabilities is not None and outcome.label_matrix is not None
    label_matrix = outcome.label_matrix
    ranked = _pessimistic(outcome.probabilities, label_matrix > 0)
    return lambda rows: mean_eleven_point_ap(ranked[rows], label_matrix[rows])


def _pessimistic(scores: NDArray[np.floating], positive: Bools) -> NDArray[np.floating]:
    """Put what is unreadable (NaN) last where it should be found, and first where it should not."""
    return np.where(np.isnan(scores), np.where(positive, -np.inf, np.inf), scores)


_STATISTICS: dict[str, Callable[[Outcome], Statistic]] = {
    "macro_f1": _f1,
    "mean_top1_top5": _top1_top5,
    "worst_group_accuracy": _worst(1),
    "worst_group_top5": _worst(5),
    "roc_auc": _auc,
    "map_11pt": _precision,
}
