"""Turn scores into numbers that can be trusted: accuracies, recalls, confusion, intervals.

Three rules hold in every function here:

- **Ties are pessimistic.** A wrong answer that scores exactly as high as the right one stands before it. A
  model that gives every class the same score has 0 % accuracy, never 100 %.
- **A row of NaN is wrong.** Unreadable images arrive as NaN rows; they stay in the denominator, at every k.
- **Memory is bounded, ties are exact.** Scores are compared in chunks and never kept; see `ranks`.

Source: Radford et al. 2021, section 3.1 (top-k, mean per class); Efron 1979 (percentile bootstrap); Bonett
and Price 2012 (interval of a paired difference).
"""

import math

import numpy as np
from numpy.typing import NDArray

from diptych.core import checks
from diptych.core.seeds import numpy_rng
from diptych.evaluate.metrics.ranks import NEVER as NEVER
from diptych.evaluate.metrics.ranks import Bools as Bools
from diptych.evaluate.metrics.ranks import Floats as Floats
from diptych.evaluate.metrics.ranks import Ints as Ints
from diptych.evaluate.metrics.ranks import first_best, paired_ranks

Interval = tuple[float, float]

Z95 = 1.959963984540054
"""The 97.5 % point of the standard normal distribution: two-sided 95 %."""

RESAMPLES = 2000
"""Bootstrap draws: the end points of a 95 % interval then wander by about 0.05 standard errors."""


def label_ranks(image_embeds: Floats, labels: Ints, classifier: Floats) -> Ints:
    """Count the other classes that score as high as the true class or higher.

    Args:
        image_embeds: (N, E) float32, unit length; a row of NaN is an unreadable image.
        labels: (N,) int64, the true class, in [0, C).
        classifier: (C, E) float32, unit length.

    Returns:
        (N,) int64 in [0, C), or `NEVER` for an unreadable picture. Rank 0 is right; rank < k is a hit at k.

    >>> classifier = np.eye(3, dtype=np.float32)
    >>> images = np.array([[0.9, 0.1, 0.0], [0.5, 0.5, 0.0]], dtype=np.float32)
    >>> label_ranks(images, np.array([0, 0]), classifier)
    array([0, 1])
    """
    classifier = checks.rows(classifier, "classifier")
    image_embeds = checks.rows(image_embeds, "image_embeds", width=classifier.shape[1], missing=True)
    labels = checks.classes(labels, "labels", len(classifier), length=len(image_embeds))
    pairs = np.stack([np.arange(len(labels)), labels], axis=1)
    return paired_ranks(image_embeds, classifier, pairs, both=False)[0]


def predictions(image_embeds: Floats, classifier: Floats) -> Ints:
    """Name the best class of every image; among equal scores the first; -1 where the image is unreadable.

    Args:
        image_embeds: (N, E) float32, unit length, NaN rows where unreadable.
        classifier: (C, E) float32, unit length.

    Returns:
        (N,) int64 in [-1, C).
    """
    classifier = checks.rows(classifier, "classifier", least=1)
    return first_best(
        checks.rows(image_embeds, "image_embeds", width=classifier.shape[1], missing=True), classifier
    )


def class_accuracies(hits: Bools, labels: Ints, class_count: int) -> NDArray[np.float64]:
    """Return the share of hits of each class: (C,) float64 in [0, 1], NaN for a class without images."""
    hits, labels = _hits(hits, labels, class_count)
    totals = np.bincount(labels, minlength=class_count)
    right = np.bincount(labels[hits], minlength=class_count)
    with np.errstate(invalid="ignore"):
        return np.asarray(right / totals, dtype=np.float64)


def mean_per_class(hits: Bools, labels: Ints, class_count: int) -> float:
    """Average the accuracies of the classes that have images, each class counting the same.

    >>> mean_per_class(np.array([True, True, False]), np.array([0, 0, 2]), 3)
    0.5
    """
    accuracies = class_accuracies(hits, labels, class_count)
    filled = accuracies[~np.isnan(accuracies)]
    return float(filled.mean()) if len(filled) else math.nan


def confusion_matrix(labels: Ints, predicted: Ints, class_count: int) -> Ints:
    """Count (true class, answer) pairs.

    Args:
        labels: (N,) int64 in [0, C).
        predicted: (N,) int64 in [-1, C); -1 for no answer.
        class_count: C.

    Returns:
        (C, C + 1) int64; the last column holds the pictures without an answer, so that rows add up to all
        images.

    >>> confusion_matrix(np.array([0, 1, 1]), np.array([0, 0, -1]), 2)
    array([[1, 0, 0],
           [1, 0, 1]])
    """
    labels = checks.classes(labels, "labels", class_count)
    predicted = checks.classes(predicted, "predicted", class_count, length=len(labels), least=-1)
    answers = np.where(predicted < 0, class_count, predicted)
    cells = np.bincount(labels * (class_count + 1) + answers, minlength=class_count * (class_count + 1))
    return cells.reshape(class_count, class_count + 1).astype(np.int64)


def bootstrap_mean_per_class(
    hits: Bools, labels: Ints, class_count: int, *, seed: int = 0
) -> Interval | None:
    """Return the 95 % percentile interval of `mean_per_class` when pictures are drawn anew with replacement.

    A draw of N images is one multinomial over the (class, hit) cells, so 2,000 draws cost 2,000 x 2C
    numbers and no pass over the images. A class that a draw misses is left out of that draw's mean.
    """
    hits, labels = _hits(hits, labels, class_count)
    count = len(labels)
    if count == 0:
        return None
    totals = np.bincount(labels, minlength=class_count)
    right = np.bincount(labels[hits], minlength=class_count)
    draws = numpy_rng(seed, "mean_per_class").multinomial(
        count, np.concatenate([right, totals - right]) / count, size=RESAMPLES
    )
    drawn_right, drawn_wrong = draws[:, :class_count], draws[:, class_count:]
    drawn = drawn_right + drawn_wrong
    shares = np.divide(drawn_right, drawn, out=np.zeros(drawn.shape), where=drawn > 0)
    means = shares.sum(axis=1) / (drawn > 0).sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def paired_gain(before: Bools, after: Bools) -> tuple[float, Interval | None]:
    """Return how much the share of hits rises from `before` to `after` on the same pictures, and its 95 %
    interval.

    Only images on which the two differ carry information; one is added to both kinds so that the interval
    has width when there are none.

    Source: Bonett and Price 2012, "Adjusted Wald confidence interval for a difference of binomial proportions
        based on
    paired data".

    Args:
        before: (N,) bool, hits of the one.
        after: (N,) bool, hits of the other, image by image.

    Returns:
        The gain in [-1, 1], and its interval (None when N is 0).
    """
    before = checks.flags(before, "before")
    count, after = len(before), checks.flags(after, "after", length=len(before))
    if count == 0:
        return math.nan, None
    won, lost = int((after & ~before).sum()), int((before & ~after).sum())
    share_won, share_lost = (won + 1) / (count + 2), (lost + 1) / (count + 2)
    centre = share_won - share_lost
    half = Z95 * math.sqrt((share_won + share_lost - centre * centre) / (count + 2))
    return (won - lost) / count, (max(-1.0, centre - half), min(1.0, centre + half))


def _hits(hits: Bools, labels: Ints, class_count: int) -> tuple[Bools, Ints]:
    labels = checks.classes(labels, "labels", class_count)
    return checks.flags(hits, "hits", length=len(labels)), labels
