"""EXIF orientations of pixel arrays: turn an image, or find in it what is seen in the turned one.

Orientations are the numbers 1 (upright) to 8 of the EXIF standard; any other counts as upright.

Reads and writes: pixels in memory.
"""

import numpy as np

from diptych.data.images.jpeg import Pixels

Size = tuple[int, int]

SIDEWAYS = frozenset({5, 6, 7, 8})
"""Orientations that swap height and width."""
STEPS = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}
"""Direction in which rows and columns are read, after height and width were swapped."""


def turned(pixels: Pixels, orientation: int) -> Pixels:
    """Turn stored pixels (H, W, …) upright, as Pillow's `transpose` does.

    >>> turned(np.arange(6, dtype=np.uint8).reshape(2, 3), 6).tolist()
    [[3, 0], [4, 1], [5, 2]]
    """
    if orientation in SIDEWAYS:
        pixels = np.swapaxes(pixels, 0, 1)
    rows, columns = STEPS.get(orientation, (1, 1))
    return np.ascontiguousarray(pixels[::rows, ::columns])


def swapped(size: Size, orientation: int) -> Size:
    """Return (height, width) in the other frame, upright for stored and stored for upright."""
    return size[::-1] if orientation in SIDEWAYS else size


def stored_corner(whole: Size, corner: Size, size: Size, orientation: int) -> Size:
    """Return top and left, in the stored image, of a window of the upright one.

    Args:
        whole: height and width of the upright image.
        corner: top and left of the window in it.
        size: height and width of the window.
        orientation: EXIF's number.

    >>> stored_corner((30, 20), (5, 2), (10, 10), 6)
    (8, 5)
    """
    stored = tuple(
        start if step > 0 else side - length - start
        for side, start, length, step in zip(whole, corner, size, STEPS.get(orientation, (1, 1)), strict=True)
    )
    return swapped((stored[0], stored[1]), orientation)
