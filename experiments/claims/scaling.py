"""Say how fast one thing falls with another, and how early a curve reaches a level.

Source: Radford et al. 2021, figure 2 (models compared by the pairs they need for equal accuracy) and figure
9 (log of the zero-shot error against log of compute, least squares).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diptych.core.errors import ArrayError
from diptych.core.seeds import numpy_rng
from diptych.evaluate.metrics.intervals import RESAMPLES, Interval


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """y = factor * x ** exponent, fitted to logarithms by least squares.

    Attributes:
        exponent: slope of the line through the logarithms.
        factor: y at x = 1.
        interval: of the exponent, 95 %, from drawing every y's hits anew; None without counts.
        r_squared: share of the variance of log y that the line explains.
    """

    exponent: float
    factor: float
    interval: Interval | None
    r_squared: float

    def at(self, x: float) -> float:
        """Return y at a positive x."""
        return float(self.factor * x**self.exponent)


def power_law(x: Sequence[float], y: Sequence[float]) -> PowerLaw:
    """Fit a line to log y against log x.

    Args:
        x: at least two different positive numbers.
        y: as many positive numbers.

    Raises:
        ArrayError: too few numbers, or one that has no logarithm.

    >>> law = power_law([1, 10, 100], [1, 0.1, 0.01])
    >>> round(law.exponent, 6), round(law.factor, 6), round(law.r_squared, 6)
    (-1.0, 1.0, 1.0)
    """
    if len(x) != len(y) or len(set(x)) < 2 or min(*x, *y) <= 0:
        raise ArrayError(
            "there is no power law through these numbers",
            found=f"{len(x)} and {len(y)} numbers, the smallest {min([*x, *y], default=math.nan)}",
            expected="pairs of positive numbers, at least two different ones in x",
        )
    across, up = np.log(x), np.log(y)
    slope, level = np.polyfit(across, up, 1)
    left = up - (slope * across + level)
    spread = float(((up - up.mean()) ** 2).sum())
    explained = 1.0 - float((left**2).sum()) / spread if spread else 1.0
    return PowerLaw(float(slope), float(np.exp(level)), None, explained)


def error_law(compute: Sequence[float], hits: Sequence[int], count: int, *, seed: int = 0) -> PowerLaw:
    """Fit the error of several models to their compute, with an interval from the finite test set.

    Each draw gives every model new hits, binomial with its own share; that the models were examined with the
    same images is not used, and other seeds of training are not covered.

    Args:
        compute: of each model, any unit.
        hits: of each model, less than `count`.
        count: test images.
        seed: of the draws.

    Raises:
        ArrayError: see `power_law`; a model without a mistake has no logarithm.
    """
    shares = np.asarray(hits) / count
    law = power_law(compute, (1 - shares).tolist())
    drawn = numpy_rng(seed, "error_law").binomial(count, shares, size=(RESAMPLES, len(shares)))
    errors = np.maximum(count - drawn, 0.5) / count  # half a mistake where a draw has none
    slopes = np.polyfit(np.log(compute), np.log(errors).T, 1)[0]
    low, high = np.quantile(slopes, [0.025, 0.975])
    return PowerLaw(law.exponent, law.factor, (float(low), float(high)), law.r_squared)


def needed(x: Sequence[float], y: Sequence[float], level: float) -> float:
    """Return where a curve first reaches a level, between two points by a straight line; inf if never.

    Args:
        x: rising.
        y: as many values.
        level: to reach.

    >>> needed([0, 10, 20], [0.0, 0.2, 0.6], 0.4), needed([0, 10], [0.0, 0.1], 0.5)
    (15.0, inf)
    """
    before: tuple[float, float] | None = None
    for place, value in zip(x, y, strict=True):
        if value >= level:
            if before is None or value == before[1]:
                return float(place)
            share = (level - before[1]) / (value - before[1])
            return float(before[0] + share * (place - before[0]))
        before = (place, value)
    return math.inf
