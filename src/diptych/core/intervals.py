"""The exact interval of a share, and the function behind it.

Source: Clopper and Pearson 1934 (the interval); Press et al. 2007, section 6.4 (the incomplete beta
function as a continued fraction, by Lentz's method).
"""

import math

_TINY = 1e-300
_CLOSE = 1e-16
_STEPS = 10_000  # the fraction needs about the square root of the larger parameter: enough for ten million


def exact_interval(hits: int, count: int, *, level: float) -> tuple[float, float]:
    """Return the exact interval of `hits` of `count` trials at a level of confidence; of no trials, [0, 1].

    >>> low, high = exact_interval(0, 10, level=0.95)
    >>> low, round(high, 4)
    (0.0, 0.3085)
    """
    tail = (1 - level) / 2
    low = 0.0 if hits == 0 else beta_quantile(tail, hits, count - hits + 1)
    high = 1.0 if hits == count else beta_quantile(1 - tail, hits + 1, count - hits)
    return low, high


def beta_quantile(share: float, a: float, b: float) -> float:
    """Return x with I_x(a, b) = share, to the last bits, by halving.

    >>> round(beta_quantile(0.6875, 2, 3), 12)
    0.5
    """
    low, high = 0.0, 1.0
    while True:
        middle = (low + high) / 2
        if middle in (low, high):
            return middle
        if incomplete_beta(a, b, middle) < share:
            low = middle
        else:
            high = middle


def incomplete_beta(a: float, b: float, x: float) -> float:
    """Return the regularized incomplete beta function I_x(a, b): the upper tail of a binomial, among others.

    >>> round(incomplete_beta(2, 3, 0.5), 6)
    0.6875
    """
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast below the mean only
        return 1 - incomplete_beta(b, a, 1 - x)
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(front) * _beta_fraction(a, b, x) / a


def _beta_fraction(a: float, b: float, x: float) -> float:
    upper, lower = 1.0, 1 / _far_from_zero(1 - (a + b) * x / (a + 1))
    value = lower
    for step in range(1, _STEPS):
        even = step * (b - step) * x / ((a + 2 * step - 1) * (a + 2 * step))
        odd = -(a + step) * (a + b + step) * x / ((a + 2 * step) * (a + 2 * step + 1))
        for term in (even, odd):
            lower = 1 / _far_from_zero(1 + term * lower)
            upper = _far_from_zero(1 + term / upper)
            value *= upper * lower
        if abs(upper * lower - 1) < _CLOSE:
            break
    return value


def _far_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
