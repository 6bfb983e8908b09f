"""Pillow's filter weights: which pixels each result reads, and how much of each.

Source: Pillow, src/libImaging/Resample.c (precompute_coeffs, normalize_coeffs_8bpc); Keys 1981 with a = -0.5.
"""

import numpy as np
from numpy.typing import NDArray

PRECISION_BITS = 22  # of Pillow's filter weights: 32 less 8 of the pixel and 2 of headroom
REACH = {"bicubic": 2.0, "bilinear": 1.0}
"""How far a filter reaches, in pixels of the coarser of the two images."""

Size = tuple[int, int]


def window_weights(
    size: int, wanted: int, begin: int, count: int, filter_name: str
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Compute Pillow's weights for `count` lines, from `begin` on, of `size` lines resized to `wanted`.

    Returns:
        Where each result's window begins (count,), and its weights (count, K) of 22 bits; those behind it
        are 0.
    """
    scale = size / wanted
    stretch = max(scale, 1.0)
    reach = REACH[filter_name] * stretch
    centers = (np.arange(begin, begin + count) + 0.5) * scale
    starts = np.maximum((centers - reach + 0.5).astype(np.int64), 0)
    ends = np.minimum((centers + reach + 0.5).astype(np.int64), size)
    places = np.arange((ends - starts).max())
    weights = _filter((places + starts[:, None] - centers[:, None] + 0.5) * (1.0 / stretch), filter_name)
    weights[places >= (ends - starts)[:, None]] = 0.0
    sums = np.zeros(count)
    for place in places:  # in Pillow's order: a sum of doubles depends on it
        sums += weights[:, place]
    weights *= (1.0 / sums)[:, None]
    return starts, np.trunc(weights * 2**PRECISION_BITS + np.copysign(0.5, weights)).astype(np.int32)


def _filter(distance: NDArray[np.float64], filter_name: str) -> NDArray[np.float64]:
    """Return a filter's values at distances in pixels.

    >>> _filter(np.array([0.0, 0.5, 1.5]), "bicubic").tolist()
    [1.0, 0.5625, -0.0625]
    """
    x = np.abs(distance)
    if filter_name == "bilinear":
        return np.maximum(1.0 - x, 0.0)
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((x - 5.0) * x + 8.0) * x - 4.0
    return np.where(x < 1.0, near, np.where(x < 2.0, -0.5 * far, 0.0))
