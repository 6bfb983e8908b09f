"""Say how sure a number is, and whether one is really larger than another.

Source: Clopper and Pearson 1934 (exact interval of a share); Efron 1979 (percentile bootstrap); McNemar 1947
in its exact form (paired shares); Efron and Tibshirani 1993, chapter 16 (paired bootstrap).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from diptych.core import checks
from diptych.core.intervals import exact_interval
from diptych.core.records import Metric
from diptych.core.seeds import numpy_rng
from diptych.evaluate.metrics.accuracy import RESAMPLES, Interval
from diptych.evaluate.metrics.ranks import Bools, Ints

LEVEL = 0.95


@lru_cache(maxsize=4096)
def clopper_pearson(hits: int, count: int, *, level: float = LEVEL) -> Interval | None:
    """Return the exact interval of a share: it never covers the truth less often than `level` says.

    Args:
        hits: successes.
        count: trials.
        level: of confidence.

    Returns:
        Both ends in [0, 1]; None when nothing was counted.

    >>> low, high = clopper_pearson(8, 10)
    >>> round(low, 4), round(high, 4)
    (0.4439, 0.9748)
    """
    checks.part(hits, count)
    if count == 0:
        return None
    return exact_interval(hits, count, level=level)


def share(task: str, name: str, hits: int, count: int) -> Metric:
    """Return a share of hits with its exact 95 % interval; NaN without an interval of nothing."""
    return Metric(task, name, hits / count if count else math.nan, clopper_pearson(hits, count), count)


def bootstrap(
    statistic: Callable[[Ints], float],
    count: int,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Interval | None:
    """Return the percentile interval of anything that can be computed from drawn rows.

    Args:
        statistic: takes (N,) int64 rows, drawn with replacement; NaN where a draw leaves nothing to compute.
        count: N.
        seed: of the draws.
        resamples: draws.
        level: of confidence.

    Returns:
        None when there are no rows, or no draw gives a number.

    >>> values = np.array([0.0, 1.0, 1.0, 2.0])
    >>> bootstrap(lambda rows: float(values[rows].mean()), 4, resamples=200)
    (0.25, 1.75)
    """
    if count == 0:
        return None
    rng = numpy_rng(seed, "bootstrap")
    found = np.array([statistic(rng.integers(0, count, size=count)) for _ in range(resamples)])
    return _percentiles(found[~np.isnan(found)], level)


@dataclass(frozen=True, slots=True)
class PairedTest:
    """Two models on the same items.

    Attributes:
        gain: the mean of the second minus that of the first.
        interval: of the gain; None when there are no items.
        p_value: the chance of a gain at least as far from 0 if the two were alike.
    """

    gain: float
    interval: Interval | None
    p_value: float


def mcnemar(before: Bools, after: Bools) -> float:
    """Return the exact two-sided p-value that two models hit equally often.

    Only items on which they differ tell: each is a fair coin if the models are alike.

    Args:
        before: (N,) bool, hits of the one.
        after: (N,) bool, hits of the other, item by item.

    >>> mcnemar(np.array([True] + [False] * 9), np.array([False] + [True] * 7 + [False] * 2)) == 18 / 256
    True
    """
    before = checks.flags(before, "before")
    after = checks.flags(after, "after", length=len(before))
    won, lost = int((after & ~before).sum()), int((before & ~after).sum())
    total = won + lost
    ways = term = 1
    for number in range(min(won, lost)):
        term = term * (total - number) // (number + 1)
        ways += term
    return float(min(1.0, 2 * ways / 2**total)) if won != lost else 1.0


def paired_bootstrap(
    before: NDArray[np.floating] | Bools,
    after: NDArray[np.floating] | Bools,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> PairedTest:
    """Compare two models on the same items by drawing items anew.

    Args:
        before: (N,) a number per item of the one.
        after: (N,) of the other, item by item.
        seed: of the draws.
        resamples: draws.
        level: of confidence.

    Returns:
        The gain, its percentile interval, and a two-sided p-value from draws around no gain.

    >>> paired_bootstrap(np.zeros(8), np.ones(8)).interval
    (1.0, 1.0)
    """
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
    return PairedTest(gain, _percentiles(means, level), (as_far + 1) / (resamples + 1))


def _percentiles(found: NDArray[np.float64], level: float) -> Interval | None:
    if not len(found):
        return None
    checks.fraction(level, "level")
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
