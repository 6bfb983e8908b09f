"""Confidence intervals of metrics, and tests whether one model is better than another.

Source: Clopper and Pearson 1934 (exact interval of a fraction); Efron 1979 (percentile bootstrap); Bonett and
Price 2012 (interval of a paired difference); McNemar 1947 in its exact form; Efron and Tibshirani 1993,
chapter 16 (paired bootstrap).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from diptych.core import checks
from diptych.core.checks import Bools, Doubles, Ints
from diptych.core.intervals import exact_interval
from diptych.core.records import Metric
from diptych.core.seeds import numpy_rng
from diptych.evaluate.metrics.classification import class_hits

Interval = tuple[float, float]

LEVEL = 0.95
Z95 = 1.959963984540054  # the 97.5 % point of the standard normal distribution
RESAMPLES = 2000  # ends of a 95 % bootstrap interval then vary by about 0.05 standard errors


@lru_cache(maxsize=4096)
def clopper_pearson(hits: int, count: int) -> Interval | None:
    """Return the exact 95 % interval of a fraction, None when nothing was counted."""
    checks.part(hits, count)
    return exact_interval(hits, count, level=LEVEL) if count else None


def share(task: str, name: str, hits: int, count: int) -> Metric:
    """Return a fraction of hits with its exact 95 % interval; NaN without an interval of nothing."""
    return Metric(task, name, hits / count if count else math.nan, clopper_pearson(hits, count), count)


def bootstrap(
    statistic: Callable[[Ints], float], count: int, *, seed: int = 0, resamples: int = RESAMPLES
) -> Interval | None:
    """Return the 95 % percentile interval of anything that can be computed from drawn rows, or None.

    The statistic takes (N,) int64 rows, drawn with replacement, and may be NaN of a draw, which is left out.
    """
    if count == 0:
        return None
    rng = numpy_rng(seed, "bootstrap")
    values = np.array([statistic(rng.integers(0, count, size=count)) for _ in range(resamples)])
    return _percentiles(values[~np.isnan(values)])


def bootstrap_mean_per_class(
    hits: Bools, labels: Ints, class_count: int, *, seed: int = 0
) -> Interval | None:
    """Return the 95 % percentile interval of `mean_per_class` when images are drawn anew.

    A draw of N images is one multinomial over the (class, hit) cells: no pass over the images.
    """
    right, totals = class_hits(hits, labels, class_count)
    count = int(totals.sum())
    if count == 0:
        return None
    draws = numpy_rng(seed, "mean_per_class").multinomial(
        count, np.concatenate([right, totals - right]) / count, size=RESAMPLES
    )
    drawn_right, drawn_wrong = draws[:, :class_count], draws[:, class_count:]
    drawn = drawn_right + drawn_wrong
    accuracies = np.divide(drawn_right, drawn, out=np.zeros(drawn.shape), where=drawn > 0)
    low, high = np.quantile(accuracies.sum(axis=1) / (drawn > 0).sum(axis=1), [0.025, 0.975])
    return float(low), float(high)


def paired_gain(before: Bools, after: Bools) -> tuple[float, Interval | None]:
    """Return how much the fraction of hits (N,) rises on the same images, and its 95 % interval.

    Only images on which the two differ count; one is added to both kinds, so that the interval has width.
    """
    won, lost, count = _won_lost(before, after)
    if count == 0:
        return math.nan, None
    share_won, share_lost = (won + 1) / (count + 2), (lost + 1) / (count + 2)
    center = share_won - share_lost
    half = Z95 * math.sqrt((share_won + share_lost - center * center) / (count + 2))
    return (won - lost) / count, (max(-1.0, center - half), min(1.0, center + half))


def mcnemar(before: Bools, after: Bools) -> float:
    """Return the exact two-sided p-value that two models hit (N,) equally often on the same items."""
    won, lost, _ = _won_lost(before, after)
    total = won + lost
    ways = term = 1
    for number in range(min(won, lost)):
        term = term * (total - number) // (number + 1)
        ways += term
    return float(min(1.0, 2 * ways / 2**total)) if won != lost else 1.0


@dataclass(frozen=True, slots=True)
class PairedTest:
    """Two models on the same items: mean gain, its interval, the chance of such a gain of equal models."""

    gain: float
    interval: Interval | None
    p_value: float


def paired_bootstrap(
    before: NDArray[np.floating] | Bools,
    after: NDArray[np.floating] | Bools,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> PairedTest:
    """Compare two models on the same items, a number (N,) per item of each, by drawing items anew."""
    before = checks.numbers(before, "before")
    gains = checks.numbers(after, "after", length=len(before)) - before.astype(np.float64)
    count = len(gains)
    if count == 0:
        return PairedTest(math.nan, None, math.nan)
    rng = numpy_rng(seed, "paired_bootstrap")
    # Few distinct gains (of hits: -1, 0, 1) are drawn as counts, which costs no pass over the items.
    values, counts = np.unique(gains, return_counts=True)
    if len(values) * 4 < count:
        means = rng.multinomial(count, counts / count, size=resamples) @ values / count
    else:
        means = np.array([gains[rng.integers(0, count, size=count)].mean() for _ in range(resamples)])
    gain = float(gains.mean())
    as_far = int((np.abs(means - gain) >= abs(gain)).sum())
    return PairedTest(gain, _percentiles(means), (as_far + 1) / (resamples + 1))


def _won_lost(before: Bools, after: Bools) -> tuple[int, int, int]:
    before = checks.flags(before, "before")
    after = checks.flags(after, "after", length=len(before))
    return int((after & ~before).sum()), int((before & ~after).sum()), len(before)


def _percentiles(values: Doubles) -> Interval | None:
    if not len(values):
        return None
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
