"""Turn tables of scores and answers into the metrics that data sets are reported in.

Ties are never broken by the order of the rows: ranks are pessimistic, curves move over equal scores in one
step, and a pair of equal scores is half a success for the area under the ROC curve.

Source: Radford et al. 2021, section 3.1 and appendix A (a metric per data set); Everingham et al. 2010,
section 4.2 (11-point average precision of VOC2007, difficult objects ignored); Fawcett 2006 (area under the
ROC curve); Guo et al. 2017, section 2 (expected calibration error).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diptych.core import checks
from diptych.core.errors import ArrayError
from diptych.evaluate.metrics.ranks import NEVER, Bools, Doubles, Ints

RECALL_LEVELS = 11
"""VOC2007 reads the curve at recall 0, 0.1, …, 1."""

CALIBRATION_BINS = 15
"""Of equal width, as in Guo et al. 2017."""


def score_ranks(scores: NDArray[np.floating], labels: Ints) -> Ints:
    """Count the other classes that score as high as the true class or higher.

    Args:
        scores: (N, C); a row of NaN is an unreadable image.
        labels: (N,) int64 in [0, C).

    Returns:
        (N,) int64 in [0, C), or `NEVER`. Rank 0 is right; rank < k is a hit at k.

    >>> score_ranks(np.array([[0.1, 0.9], [0.5, 0.5]]), np.array([1, 1]))
    array([0, 1])
    """
    scores = checks.array(scores, "scores", 2)
    labels = checks.classes(labels, "labels", scores.shape[1], length=len(scores))
    lost = np.isnan(scores)
    if (lost.any(axis=1) != lost.all(axis=1)).any():
        raise ArrayError("some scores of a row are NaN: an unreadable image has none")
    true = np.take_along_axis(scores, labels[:, None], axis=1)
    return np.where(np.isnan(true[:, 0]), NEVER, (scores >= true).sum(axis=1) - 1)


def top_k(ranks: Ints, k: int) -> float:
    """Return the share of ranks below k, NaN of none.

    >>> top_k(np.array([0, 3, NEVER, 1]), 2)
    0.5
    """
    checks.whole(k, "k")
    return float((ranks < k).mean()) if len(ranks) else math.nan


def mean_top1_top5(ranks: Ints) -> float:
    """Return the mean of top-1 and top-5 accuracy: the metric of Kinetics700.

    >>> mean_top1_top5(np.array([0, 3]))
    0.75
    """
    return (top_k(ranks, 1) + top_k(ranks, 5)) / 2


def roc_auc(scores: NDArray[np.floating], positive: Bools) -> float:
    """Return the chance that a positive scores more than a negative, equal scores counting half.

    Args:
        scores: (N,).
        positive: (N,) bool.

    Returns:
        In [0, 1]; NaN where there are no positives, or no negatives.

    >>> roc_auc(np.array([0.1, 0.4, 0.4, 0.8]), np.array([False, False, True, True]))
    0.875
    """
    scores, positive = _scored(scores, positive)
    wanted = scores[positive]
    others = np.sort(scores[~positive])
    if not len(wanted) or not len(others):
        return math.nan
    # Counts are exact integers: twice the number of wins, ties once.
    below = np.searchsorted(others, wanted, "left") + np.searchsorted(others, wanted, "right")
    return int(below.sum()) / (2 * len(wanted) * len(others))


def average_precision(scores: NDArray[np.floating], positive: Bools) -> float:
    """Return the precision averaged over the recall gained at each distinct score.

    Args:
        scores: (N,).
        positive: (N,) bool.

    Returns:
        In (0, 1]; NaN where there are no positives.

    >>> average_precision(np.array([3.0, 2.0, 1.0]), np.array([True, False, True])) == (1 + 2 / 3) / 2
    True
    """
    precision, recall = _curve(scores, positive)
    if not len(recall):
        return math.nan
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def eleven_point_ap(scores: NDArray[np.floating], positive: Bools) -> float:
    """Return VOC2007's average precision: the mean over recall 0, 0.1, …, 1 of the best precision from there.

    The development kit ranks equal scores in the order of its file; here they are one step of the curve.

    Args:
        scores: (N,).
        positive: (N,) bool.

    Returns:
        In [0, 1]; NaN where there are no positives.

    >>> round(eleven_point_ap(np.array([3.0, 2.0, 1.0]), np.array([True, False, True])), 4)
    0.8485
    """
    precision, recall = _curve(scores, positive)
    if not len(recall):
        return math.nan
    found = np.rint(recall * int(np.sum(positive))).astype(np.int64)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    # Recall >= level / 10 in integers: 0.3 * 10 is not 3 in floating point.
    levels = np.arange(RECALL_LEVELS) * int(np.sum(positive))
    places = np.searchsorted(found * (RECALL_LEVELS - 1), levels, "left")
    return float(best[places].sum() / RECALL_LEVELS)


def mean_eleven_point_ap(scores: NDArray[np.floating], labels: Ints) -> float:
    """Average `eleven_point_ap` over the classes that have positives.

    Args:
        scores: (N, C).
        labels: (N, C) as VOC's files have it: 1 present, -1 absent, 0 difficult, which is left out of that
            class.
    """
    scores, labels = checks.array(scores, "scores", 2), checks.array(labels, "labels", 2)
    if labels.shape != scores.shape or not np.isin(labels, (-1, 0, 1)).all():
        raise ArrayError(
            "labels has to be -1, 0 or 1 for each score", found=labels.shape, expected=scores.shape
        )
    found = [
        eleven_point_ap(scores[kept, c], labels[kept, c] > 0)
        for c, kept in enumerate((labels != 0).T)
        if (labels[:, c] > 0).any()
    ]
    return float(np.mean(found)) if found else math.nan


def mean_average_precision(scores: NDArray[np.floating], positive: NDArray[np.bool_]) -> float:
    """Average `average_precision` over all classes; a class without positives counts as 0.

    Args:
        scores: (N, C).
        positive: (N, C) bool.

    Source: LAION-AI/CLIP_benchmark, `average_precision_per_class`.
    """
    found = [average_precision(of_class, marks) for of_class, marks in zip(scores.T, positive.T, strict=True)]
    return float(np.nan_to_num(found).mean())


@dataclass(frozen=True, slots=True)
class Reliability:
    """How often answers of a confidence are right.

    Attributes:
        counts: (B,) int64, answers in each of B bins of equal width over (0, 1].
        confidences: (B,) float64, the mean confidence in each, NaN in an empty one.
        accuracies: (B,) float64, the share of right answers in each, NaN in an empty one.
    """

    counts: Ints
    confidences: Doubles
    accuracies: Doubles

    @property
    def error(self) -> float:
        """The expected calibration error in [0, 1]: the mean gap between the two, by answers; NaN of none."""
        if not self.counts.sum():
            return math.nan
        gaps = np.nan_to_num(np.abs(self.accuracies - self.confidences))
        return float((self.counts * gaps).sum() / self.counts.sum())


def reliability(
    confidence: NDArray[np.floating], right: Bools, *, bins: int = CALIBRATION_BINS
) -> Reliability:
    """Sort answers into bins of confidence.

    Args:
        confidence: (N,) in [0, 1].
        right: (N,) bool.
        bins: B; bin b holds (b / B, (b + 1) / B], the first one 0 as well.

    >>> round(reliability(np.array([0.9, 0.8, 0.6]), np.array([True, True, False])).error, 3)
    0.3
    """
    confidence = checks.numbers(confidence, "confidence")
    right = checks.flags(right, "right", length=len(confidence))
    if len(confidence) and not 0 <= confidence.min() <= confidence.max() <= 1:
        raise ArrayError("confidence is no probability", found=f"{confidence.min()} to {confidence.max()}")
    edges = np.arange(1, checks.whole(bins, "bins")) / bins
    places = np.searchsorted(edges, confidence, "left")
    counts = np.bincount(places, minlength=bins).astype(np.int64)
    with np.errstate(invalid="ignore"):
        confidences = np.bincount(places, weights=confidence, minlength=bins) / counts
        accuracies = np.bincount(places, weights=right, minlength=bins) / counts
    return Reliability(counts, confidences, accuracies)


def _curve(scores: NDArray[np.floating], positive: Bools) -> tuple[Doubles, Doubles]:
    """Return precision and recall when everything from each distinct score upwards is taken, falling scores.

    Empty without positives.
    """
    scores, positive = _scored(scores, positive)
    if not positive.any():
        return np.empty(0), np.empty(0)
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    hits = np.cumsum(positive[order])[ends]
    return hits / (ends + 1), hits / hits[-1]


def _scored(scores: NDArray[np.floating], positive: Bools) -> tuple[NDArray[np.floating], Bools]:
    scores = checks.numbers(scores, "scores")
    return scores, checks.flags(positive, "positive", length=len(scores))
