"""Overlap analysis: how much a score owes to evaluation images that are also in the training set.

An evaluation set is split in two: Overlap, the images with a copy in the training set, and Clean, those
without. What contamination adds to the score of all images (All) is the difference All - Clean; whether
Overlap is answered better than Clean is tested, and its accuracy gets an interval, for it is often small.

Source: Radford et al. 2021, section 5 and figure 17 (binomial test of Overlap against the accuracy on Clean,
one-sided greater; 99.5 % Clopper-Pearson intervals).
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
    """One evaluation set, with and without what training has seen of it; accuracies of no images are NaN.

    Attributes:
        n: images in it, `n_overlap` of these with a copy in the training set.
        difference: all_accuracy - clean_accuracy, what contamination adds; NaN where nothing is clean.
        overlap_interval: Clopper-Pearson interval of overlap_accuracy at `level`.
        p_value: chance of so many right answers on Overlap, or more, at the accuracy of Clean.
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


def overlap_report(is_overlap: Bools, correct: Bools, *, task: str = "") -> OverlapReport:
    """Compare the images that training has seen with those that it has not.

    Args:
        is_overlap: (N,) bool, which have a copy in the training set.
        correct: (N,) bool, which were answered right.
        task: name of the evaluation set.

    Raises:
        ArrayError: the arrays do not fit each other.

    >>> seen = np.arange(1000) < 100
    >>> report = overlap_report(seen, np.arange(1000) % 2 == 0, task="even")
    >>> report.n_overlap, report.difference, round(report.p_value, 2)
    (100, 0.0, 0.54)
    """
    seen, right = np.asarray(is_overlap, np.bool_), np.asarray(correct, np.bool_)
    if seen.ndim != 1 or seen.shape != right.shape:
        what, actual = (
            "`is_overlap` and `correct` must have one value for each image",
            (seen.shape, right.shape),
        )
        raise ArrayError(what, found=f"{actual[0]} and {actual[1]}", expected="(N,) and (N,)")
    n_overlap, hits = int(seen.sum()), int((seen & right).sum())
    overall, on_overlap, clean = (
        float(part.mean()) if len(part) else math.nan for part in (right, right[seen], right[~seen])
    )
    return OverlapReport(
        task=task,
        n=len(seen),
        n_overlap=n_overlap,
        all_accuracy=overall,
        overlap_accuracy=on_overlap,
        clean_accuracy=clean,
        difference=overall - clean,
        overlap_interval=exact_interval(hits, n_overlap, level=LEVEL),
        p_value=binomial_greater(hits, n_overlap, clean) if n_overlap else math.nan,
    )


def binomial_greater(hits: int, n: int, probability: float) -> float:
    """Return the chance of at least so many hits in n trials, the one-sided binomial test; NaN gives NaN.

    >>> round(binomial_greater(3, 3, 0.5), 12)
    0.125
    """
    if math.isnan(probability):
        return math.nan
    return 1.0 if hits <= 0 else incomplete_beta(hits, n - hits + 1, probability)
