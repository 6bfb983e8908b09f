"""Metrics of classification: top-k, mean per class, confusion, ROC AUC, average precision, calibration error.

Ties are pessimistic: a wrong class that scores as high as the right one ranks before it, and curves move over
equal scores in one step. A row of NaN, an unreadable image, counts as wrong.

Source: Radford et al. 2021, section 3.1 and appendix A; Everingham et al. 2010, section 4.2 (VOC2007).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diptych.core import checks
from diptych.core.checks import Bools, Doubles, Floats, Ints
from diptych.core.errors import ArrayError
from diptych.evaluate.metrics.ranks import NEVER, first_best, paired_ranks

RECALL_LEVELS = 11  # VOC2007 reads the curve at recall 0, 0.1, …, 1
CALIBRATION_BINS = 15  # of equal width, as in Guo et al. 2017


def label_ranks(image_embeds: Floats, labels: Ints, classifier: Floats) -> Ints:
    """Count the other classes that score as high as the true class or higher.

    Args:
        image_embeds: (N, E) float32, unit length; a row of NaN is an unreadable image, whose rank is `NEVER`.
        labels: (N,) int64, the true class, in [0, C). Rank 0 is right; rank < k is a hit at k.
        classifier: (C, E) float32, unit length.
    """
    classifier = checks.rows(classifier, "classifier")
    image_embeds = checks.rows(image_embeds, "image_embeds", width=classifier.shape[1], missing=True)
    labels = checks.classes(labels, "labels", len(classifier), length=len(image_embeds))
    pairs = np.stack([np.arange(len(labels)), labels], axis=1)
    return paired_ranks(image_embeds, classifier, pairs, both=False)[0]


def score_ranks(scores: NDArray[np.floating], labels: Ints) -> Ints:
    """Count the other classes (N,) that score (N, C) as high as the true class or higher."""
    scores = checks.array(scores, "scores", 2)
    labels = checks.classes(labels, "labels", scores.shape[1], length=len(scores))
    lost = np.isnan(scores)
    if (lost.any(axis=1) != lost.all(axis=1)).any():
        raise ArrayError("some scores of a row are NaN: an unreadable image has none")
    true = np.take_along_axis(scores, labels[:, None], axis=1)
    return np.where(np.isnan(true[:, 0]), NEVER, (scores >= true).sum(axis=1) - 1)


def predictions(image_embeds: Floats, classifier: Floats) -> Ints:
    """Return the best class (N,) of every image; of equal scores the first; -1 for an unreadable image."""
    classifier = checks.rows(classifier, "classifier", least=1)
    return first_best(
        checks.rows(image_embeds, "image_embeds", width=classifier.shape[1], missing=True), classifier
    )


def top_k(ranks: Ints, k: int) -> float:
    """Return the fraction of ranks below k, NaN of none."""
    checks.whole(k, "k")
    return float((ranks < k).mean()) if len(ranks) else math.nan


def class_hits(hits: Bools, labels: Ints, class_count: int) -> tuple[Ints, Ints]:
    """Return the hits and the images (C,) of each class."""
    labels = checks.classes(labels, "labels", class_count)
    hits = checks.flags(hits, "hits", length=len(labels))
    return np.bincount(labels[hits], minlength=class_count), np.bincount(labels, minlength=class_count)


def mean_per_class(hits: Bools, labels: Ints, class_count: int) -> float:
    """Average the accuracies of the classes that have images, each class counting the same."""
    right, totals = class_hits(hits, labels, class_count)
    filled = totals > 0
    return float((right[filled] / totals[filled]).mean()) if filled.any() else math.nan


def confusion_matrix(labels: Ints, predicted: Ints, class_count: int) -> Ints:
    """Count images by true (row) and predicted class; -1, no prediction, is the last of C + 1 columns."""
    labels = checks.classes(labels, "labels", class_count)
    predicted = checks.classes(predicted, "predicted", class_count, length=len(labels), least=-1)
    columns = np.where(predicted < 0, class_count, predicted)
    cells = np.bincount(labels * (class_count + 1) + columns, minlength=class_count * (class_count + 1))
    return cells.reshape(class_count, class_count + 1).astype(np.int64)


def roc_auc(scores: NDArray[np.floating], positive: Bools) -> float:
    """Return the chance that a positive scores more than a negative; NaN without positives or negatives."""
    scores, positive = _scored(scores, positive)
    wanted = scores[positive]
    others = np.sort(scores[~positive])
    if not len(wanted) or not len(others):
        return math.nan
    # Counts are exact integers: twice the number of wins, ties once.
    below = np.searchsorted(others, wanted, "left") + np.searchsorted(others, wanted, "right")
    return int(below.sum()) / (2 * len(wanted) * len(others))


def average_precision(scores: NDArray[np.floating], positive: Bools) -> float:
    """Return the precision averaged over the recall gained at each distinct score; NaN without positives."""
    precision, recall = _precision_recall(scores, positive)
    return float((np.diff(recall, prepend=0.0) * precision).sum()) if len(recall) else math.nan


def eleven_point_ap(scores: NDArray[np.floating], positive: Bools) -> float:
    """Return VOC2007's average precision: the mean over recall 0, 0.1, …, 1 of the best precision from there.

    The development kit ranks equal scores in the order of its file; here they are one step of the curve.
    """
    precision, recall = _precision_recall(scores, positive)
    if not len(recall):
        return math.nan
    hits = np.rint(recall * int(np.sum(positive))).astype(np.int64)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    # Recall >= level / 10 in integers: 0.3 * 10 is not 3 in floating point.
    levels = np.arange(RECALL_LEVELS) * int(np.sum(positive))
    positions = np.searchsorted(hits * (RECALL_LEVELS - 1), levels, "left")
    return float(best[positions].sum() / RECALL_LEVELS)


def mean_eleven_point_ap(scores: NDArray[np.floating], labels: Ints) -> float:
    """Average `eleven_point_ap` over the classes that have positives.

    Labels (N, C) are as in VOC's files: 1 present, -1 absent, 0 difficult and left out of that class.
    """
    scores, labels = checks.array(scores, "scores", 2), checks.array(labels, "labels", 2)
    if labels.shape != scores.shape or not np.isin(labels, (-1, 0, 1)).all():
        what = "labels has to be -1, 0 or 1 for each score"
        raise ArrayError(what, found=labels.shape, expected=scores.shape)
    by_class = [
        eleven_point_ap(scores[kept, c], labels[kept, c] > 0)
        for c, kept in enumerate((labels != 0).T)
        if (labels[:, c] > 0).any()
    ]
    return float(np.mean(by_class)) if by_class else math.nan


def mean_average_precision(scores: NDArray[np.floating], positive: NDArray[np.bool_]) -> float:
    """Average `average_precision` over classes (N, C); one without positives is 0, as in CLIP_benchmark."""
    by_class = [
        average_precision(of_class, marks) for of_class, marks in zip(scores.T, positive.T, strict=True)
    ]
    return float(np.nan_to_num(by_class).mean())


@dataclass(frozen=True, slots=True)
class Reliability:
    """Answers, mean confidence and accuracy (NaN in an empty bin) in B bins of equal width over (0, 1]."""

    counts: Ints
    confidences: Doubles
    accuracies: Doubles

    @property
    def error(self) -> float:
        """The expected calibration error in [0, 1] (Guo et al. 2017); NaN of none."""
        if not self.counts.sum():
            return math.nan
        gaps = np.nan_to_num(np.abs(self.accuracies - self.confidences))
        return float((self.counts * gaps).sum() / self.counts.sum())


def reliability(
    confidence: NDArray[np.floating], right: Bools, *, bins: int = CALIBRATION_BINS
) -> Reliability:
    """Sort answers into B bins of confidence (N,) in [0, 1]: b holds (b / B, (b + 1) / B], the first 0."""
    confidence = checks.numbers(confidence, "confidence")
    right = checks.flags(right, "right", length=len(confidence))
    if len(confidence) and not 0 <= confidence.min() <= confidence.max() <= 1:
        raise ArrayError("confidence is no probability", found=f"{confidence.min()} to {confidence.max()}")
    edges = np.arange(1, checks.whole(bins, "bins")) / bins
    bin_of = np.searchsorted(edges, confidence, "left")
    counts = np.bincount(bin_of, minlength=bins).astype(np.int64)
    with np.errstate(invalid="ignore"):
        confidences = np.bincount(bin_of, weights=confidence, minlength=bins) / counts
        accuracies = np.bincount(bin_of, weights=right, minlength=bins) / counts
    return Reliability(counts, confidences, accuracies)


def _precision_recall(scores: NDArray[np.floating], positive: Bools) -> tuple[Doubles, Doubles]:
    """Return precision and recall at each distinct score, falling; empty without positives."""
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
