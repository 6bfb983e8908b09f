"""Pillow's bicubic resize of RGB images to smaller ones, to the bit, in a quarter of its time.

Pillow goes pixel by pixel; here each weight is applied to a whole row or column of the image at once, which
compiles to vector instructions, and what lies outside the wanted window is left out. Weights are Pillow's:
rounded to 22 bits, with an 8-bit image between the two passes.

Source: Pillow, src/libImaging/Resample.c (ImagingResampleHorizontal_8bpc, ImagingResampleVertical_8bpc).
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numba import int32, int64, njit, types, uint8, uint32, void
from numpy.typing import NDArray

from diptych.data.images.resize_weights import PRECISION_BITS, Size, window_weights

HALF = 1 << (PRECISION_BITS - 1)
LARGEST = 255
BAND = 16  # rows that the pass across takes at once: their pixels, side by side, fill one line of the cache

PIXELS = types.Array(uint8, 3, "A", readonly=True)
"""Any (H, W, 3): one signature, so that no image waits for a compiler."""
LINES, SUMS, BYTES = types.Array(uint8, 2, "C", readonly=True), int32[::1], uint8[::1]
STARTS, WEIGHTS = int64[::1], int32[:, ::1]


class _Pass(NamedTuple):
    """What one pass computes: weighted sums of the lines from `begin` to `end`.

    `starts` (N,) is the first line of each, counted from `begin`; `weights` (N, K) are 0 behind its last.
    None: the lines are the results.
    """

    begin: int
    end: int
    starts: NDArray[np.int64] | None
    weights: NDArray[np.int32] | None


def bicubic(
    pixels: NDArray[np.uint8], covered: Size, corner: Size, size: Size, *, down_first: bool
) -> NDArray[np.uint8]:
    """Resize an image as `Image.resize(..., Image.Resampling.BICUBIC)` does, and cut a window out.

    Args:
        pixels: (H, W, 3) uint8.
        covered: height and width that the whole image is resized to, at most H and W.
        corner: top and left of the window in the resized image, `size` its height and width.
        down_first: begin with the columns, see `resize.goes_down_first`.
    """
    down = _pass(len(pixels), covered[0], corner[0], size[0])
    across = _pass(pixels.shape[1], covered[1], corner[1], size[1])
    pixels = pixels[down.begin : down.end, across.begin : across.end]
    if down_first:
        pixels = _lowered(pixels, down)
    if across.starts is not None:
        pixels = _across(pixels, across.starts, across.weights)
    return pixels if down_first else _lowered(pixels, down)


def _lowered(pixels: NDArray[np.uint8], down: _Pass) -> NDArray[np.uint8]:
    if down.starts is None:
        return pixels
    resized: NDArray[np.uint8] = _down(
        np.ascontiguousarray(pixels).reshape(len(pixels), -1), down.starts, down.weights
    )
    return resized.reshape(len(resized), -1, 3)


@lru_cache(maxsize=256)
def _pass(size: int, wanted: int, begin: int, count: int) -> _Pass:
    if size == wanted:
        return _Pass(begin, begin + count, None, None)
    starts, weights = window_weights(size, wanted, begin, count, "bicubic")
    first, end = int(starts[0]), min(size, int(starts[-1]) + weights.shape[1])
    return _Pass(first, end, starts - first, weights)


@njit(void(LINES, SUMS, SUMS, BYTES), cache=True, nogil=True)
def _sum(lines: Any, weights: Any, sums: Any, target: Any) -> None:
    """Write the weighted sum of the first lines (K, M) uint8 to `target` (M,) uint8; `sums` is room."""
    sums[:] = HALF
    for place in range(min(len(weights), len(lines))):
        weight, given = weights[place], lines[place]
        for at in range(len(sums)):
            sums[at] += np.int32(weight * np.int32(given[at]))
    for at in range(len(sums)):
        target[at] = min(max(sums[at] >> PRECISION_BITS, 0), LARGEST)


@njit(void(PIXELS, uint32[:, ::1]), cache=True, nogil=True)
def _stand(rows: Any, band: Any) -> None:
    """Turn rows of pixels into columns of whole pixels: (R, W, 3) uint8 to (W, BAND) uint32."""
    for row in range(len(rows)):
        line = rows[row]
        for column in range(len(band)):
            red, green, blue = line[column, 0], line[column, 1], line[column, 2]
            band[column, row] = np.uint32(red) | np.uint32(green) << 8 | np.uint32(blue) << 16


@njit(uint8[:, :, ::1](PIXELS, STARTS, WEIGHTS), cache=True, nogil=True)
def _across(pixels: Any, starts: Any, weights: Any) -> Any:
    """Return weighted sums of neighboring pixels of each row: (H, W, 3) uint8 to (H, N, 3) uint8."""
    height, columns, _ = pixels.shape
    out = np.empty((height, len(starts), 3), np.uint8)
    band = np.zeros((columns, BAND), np.uint32)
    lines, sums, packed = band.view(np.uint8), np.empty(4 * BAND, np.int32), np.empty(4 * BAND, np.uint8)
    for top in range(0, height, BAND):
        rows = pixels[top : top + BAND]
        _stand(rows, band)
        for column in range(len(starts)):
            _sum(lines[starts[column] :], weights[column], sums, packed)
            for row in range(len(rows)):
                target, at = out[top + row, column], 4 * row
                target[0], target[1], target[2] = packed[at], packed[at + 1], packed[at + 2]
    return out


@njit(uint8[:, ::1](LINES, STARTS, WEIGHTS), cache=True, nogil=True)
def _down(lines: Any, starts: Any, weights: Any) -> Any:
    """Return weighted sums of neighboring lines: (L, M) uint8 to (N, M) uint8."""
    out = np.empty((len(starts), lines.shape[1]), np.uint8)
    sums = np.empty(lines.shape[1], np.int32)
    for line in range(len(starts)):
        _sum(lines[starts[line] :], weights[line], sums, out[line])
    return out
