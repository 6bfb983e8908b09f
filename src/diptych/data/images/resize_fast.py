"""Resize an image with torch's antialiased resize of bytes, within one level of Pillow's.

A file of its own: what only needs exact pixels, such as a curation, never comes near torch.
"""

from typing import TYPE_CHECKING

import numpy as np

from diptych.data.images.jpeg import Pixels
from diptych.data.images.resize import goes_down_first, size_of
from diptych.data.images.resize_weights import Size

if TYPE_CHECKING:
    from torch import Tensor


def fast_window(
    pixels: Pixels,
    covered: Size,
    corner: Size,
    size: Size,
    filter_name: str,
    *,
    extent: tuple[float, float] | None = None,
) -> Pixels:
    """Do what `exact_window` does with torch's antialiased resize of bytes.

    Args:
        pixels: (H, W, 3) uint8, contiguous and writable.
        covered: height and width that the whole image would be resized to.
        corner: top and left of the window in the resized image.
        size: height and width of the window.
        filter_name: "bicubic" or "bilinear".
        extent: height and width of the image in pixels, where the last row or column is only in part its.

    Returns:
        (height, width, 3) uint8, each value at most 1 from `exact_window`'s.
    """
    import torch
    from torch.nn.functional import interpolate

    (height, width), (top, left) = size, corner
    # (1, 3, H, W) seen on (H, W, 3): channels-last in memory, which torch has vector code for.
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    extent = pixels.shape[:2] if extent is None else extent
    down_first = goes_down_first(size_of(pixels), covered)
    if extent == pixels.shape[:2] and not down_first:
        image = interpolate(image, size=covered, mode=filter_name, antialias=True)
    else:
        for axis in (0, 1) if down_first else (1, 0):
            image = _resized_axis(image, axis, covered[axis], extent[axis], filter_name)
    window = image[0, :, top : top + height, left : left + width].numpy()
    resized: Pixels = np.empty((height, width, 3), dtype=np.uint8)
    for channel in range(3):  # torch hands planes back; plane by plane they are woven together soonest
        resized[..., channel] = window[channel]
    return resized


def _resized_axis(image: "Tensor", axis: int, covered: int, extent: float, filter_name: str) -> "Tensor":
    """Resize rows (axis 0) or columns (1) so that the first `extent` of them become `covered`."""
    from torch.nn.functional import interpolate

    size = [image.shape[2], image.shape[3]]
    if extent == size[axis]:
        size[axis] = covered
        return interpolate(image, size=size, mode=filter_name, antialias=True)
    factors = [1.0, 1.0]
    factors[axis] = covered / extent
    return interpolate(image, scale_factor=factors, mode=filter_name, antialias=True)
