"""Overlap analysis: how much a score owes to evaluation images that are also in the training set.

An evaluation set is split in two: Overlap, the images with a copy in the training set, and Clean, those
without. What contamination adds to the score of all images (All) is the difference All - Clean; whether
Overlap is answered better than Clean is tested, and its accuracy gets an interval, for it is often small.

Source: Radford et al. 2021, section 5 and figure 17 (binomial test of Overlap against the accuracy on Clean,
one-sided greater; 99.5 % Clopper-Pearson intervals); Clopper and Pearson 1934; the incomplete beta function
by Lentz's continued fraction, Abramowitz and Stegun 26.5.8.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from diptych.core.checks import Bools
from diptych.core.errors import ArrayError
from diptych.core.intervals import exact_interval, incomplete_beta

LEVEL = 0.995  # level of the intervals in the paper's figure 17

SIGNIFICANT = 0.05
"""One-sided level of the binomial test; the paper also states it after a Bonferroni correction."""


@dataclass(frozen=True, slots=True)
class OverlapReport:
    """One evaluation set, with and without what training has seen of it.

    Attributes:
        task: name of the evaluation set.
        n: images in it.
        n_overlap: of these with a copy in the training set.
        all_accuracy: share of right answers among all.
        overlap_accuracy: among those with a copy; NaN where there are none.
        clean_accuracy: among those without; NaN where there are none.
        difference: all_accuracy - clean_accuracy, what contamination adds; NaN where nothing is clean.
        overlap_interval: Clopper-Pearson interval of overlap_accuracy at `level`.
        p_value: chance of so many right answers on Overlap, or more, at the accuracy of Clean.
        level: of the interval.
    """

    task: str
    n: int
    n_overlap: int
    all_accuracy: float
    overlap_accuracy: float
    clean_accuracy: float
    difference: float
    overlap_interval: tuple[float, float]
    p_value: float
    level: float = LEVEL

    @property
    def overlap_share(self) -> float:
        """Share of the images with a copy in the training set."""
        return self.n_overlap / self.n if self.n else math.nan

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, which has no word for NaN: that becomes null."""
        values = {**asdict(self), "overlap_share": self.overlap_share}
        values["overlap_interval"] = list(self.overlap_interval)
        return {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in values.items()
        }


def overlap_report(
    is_overlap: Bools, correct: Bools, *, task: str = "", level: float = LEVEL
) -> OverlapReport:
    """Compare the images that training has seen with those that it has not.

    Args:
        is_overlap: (N,) bool, who has a copy in the training set.
        correct: (N,) bool, who was answered right.
        task: name of the evaluation set.
        level: of the interval, in (0, 1).

    Returns:
        The report.

    Raises:
        ArrayError: the arrays do not fit each other.

    >>> seen = np.arange(1000) < 100
    >>> report = overlap_report(seen, np.arange(1000) % 2 == 0, task="even")
    >>> report.n_overlap, report.difference, round(report.p_value, 2)
    (100, 0.0, 0.54)
    """
    seen, right = np.asarray(is_overlap, np.bool_), np.asarray(correct, np.bool_)
    if seen.ndim != 1 or seen.shape != right.shape:
        raise ArrayError(
            "`is_overlap` and `correct` must have one value for each image",
            found=f"{seen.shape} and {right.shape}",
            expected="(N,) and (N,)",
        )
    n_overlap, hits = int(seen.sum()), int((seen & right).sum())
    overall, clean = _share(right), _share(right[~seen])
    return OverlapReport(
        task=task,
        n=len(seen),
        n_overlap=n_overlap,
        all_accuracy=overall,
        overlap_accuracy=_share(right[seen]),
        clean_accuracy=clean,
        difference=overall - clean,
        overlap_interval=exact_interval(hits, n_overlap, level=level),
        p_value=binomial_greater(hits, n_overlap, clean) if n_overlap else math.nan,
        level=level,
    )


def binomial_greater(hits: int, n: int, probability: float) -> float:
    """Return the chance of at least so many hits in n trials: the one-sided binomial test.

    Args:
        hits: in [0, n].
        n: trials.
        probability: of a hit, in [0, 1]; NaN gives NaN.

    >>> round(binomial_greater(3, 3, 0.5), 12)
    0.125
    """
    if math.isnan(probability):
        return math.nan
    if hits <= 0:
        return 1.0
    return incomplete_beta(hits, n - hits + 1, probability)


def _share(right: Bools) -> float:
    return float(right.mean()) if len(right) else math.nan
