"""Resize a picture and keep one window of it: to the bit as Pillow does, or through torch within one level.

Both resize in two passes, columns first, as Pillow's own resize does inside. With Pillow, what falls outside
the window is cut away between the passes and never computed.

Reads and writes: pixels in memory.
Source: Pillow's `Image.resize` (antialiased filters in fixed point, 22 bits); its bicubic is Keys 1981 with
a = -0.5. Cutting first with its `box` would not do: the box is held in single precision, and shifts pixels by
a level.
"""

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diptych.data.jpeg import Pixels
from diptych.data.picture_limits import MAX_PIXELS

if TYPE_CHECKING:
    from torch import Tensor

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
REACH = {"bicubic": 2.0, "bilinear": 1.0}
"""How far a filter reaches, in pixels of the coarser of the two pictures."""
PRECISION_BITS = 22
"""Of Pillow's filter weights: 32 less 8 of the pixel and 2 of headroom."""
PLAIN_MODES = frozenset({"RGB", "L", "CMYK"})
"""Modes whose channels are resized as they are; some of the others Pillow converts first."""

Size = tuple[int, int]


def cover(image_size: Size, size: Size) -> Size:
    """Return the height and width of the picture scaled until it just covers `size`.

    Square targets cut the long side down to an integer, others round it: torchvision and open_clip differ in
    this.

    >>> cover((480, 641), (224, 224)), cover((480, 641), (80, 60)), cover((80, 60), (80, 60))
    ((224, 299), (80, 107), (80, 60))
    """
    (image_height, image_width), (height, width) = image_size, size
    if height == width:
        short, long = min(image_size), max(image_size)
        scaled = int(height * long / short)
        return (scaled, width) if image_width <= image_height else (height, scaled)
    ratio = min(image_height / height, image_width / width)
    return round(image_height / ratio), round(image_width / ratio)


def exact_window(
    image: Image.Image, covered: Size, corner: Size, size: Size, filter_name: str
) -> Image.Image:
    """Resize with Pillow and crop, bit-equal to doing just that.

    Args:
        image: any mode.
        covered: height and width that the whole picture would be resized to.
        corner: top and left of the window in the resized picture.
        size: height and width of the window.
        filter_name: "bicubic" or "bilinear".

    Returns:
        The window, of the picture's mode. Where the whole resized picture would pass 25 million pixels, other
        modes than RGB, L and CMYK come back as RGB.
    """
    resample = FILTERS[filter_name]
    (height, width), (top, left) = size, corner
    if covered[0] * covered[1] > MAX_PIXELS and image.mode not in PLAIN_MODES:
        image = image.convert("RGB")
    if image.mode not in PLAIN_MODES:
        image = image.resize((covered[1], covered[0]), resample)
        return image.crop((left, top, left + width, top + height))
    if covered[1] > width:
        image = image.resize((covered[1], image.height), resample).crop((left, 0, left + width, image.height))
    if covered[0] == height:
        return image.resize((width, height), resample)
    first, last = _rows_read(image.height, covered[0], top, height, REACH[filter_name])
    rows = image.crop((0, first, image.width, last))
    if image.width != width:
        rows = rows.resize((width, rows.height), resample)
    if covered[0] == image.height:
        return rows
    if covered[0] * width > MAX_PIXELS:
        # A strip of 1×20,000 pixels would grow to 224×4,480,000 before the crop, 4 GB.
        strip = _vertical_window(
            np.asarray(rows), image.height, covered[0], (first, top), height, filter_name
        )
        return Image.fromarray(strip, rows.mode)
    whole = Image.new(rows.mode, (width, image.height))
    whole.paste(rows, (0, first))
    return whole.resize((width, covered[0]), resample).crop((0, top, width, top + height))


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
        covered: height and width that the whole picture would be resized to.
        corner: top and left of the window in the resized picture.
        size: height and width of the window.
        filter_name: "bicubic" or "bilinear".
        extent: height and width of the picture in pixels, where the last row or column is only in part its.

    Returns:
        (height, width, 3) uint8, each value at most 1 from `exact_window`'s.
    """
    import torch
    from torch.nn.functional import interpolate

    (height, width), (top, left) = size, corner
    # (1, 3, H, W) seen on (H, W, 3): channels-last in memory, which torch has vector code for.
    picture = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    if extent is None or extent == pixels.shape[:2]:
        picture = interpolate(picture, size=covered, mode=filter_name, antialias=True)
    else:
        for axis in (1, 0):
            picture = _resized(picture, axis, covered[axis], extent[axis], filter_name)
    window = picture[0, :, top : top + height, left : left + width].numpy()
    found: Pixels = np.empty((height, width, 3), dtype=np.uint8)
    for channel in range(3):  # torch hands planes back; plane by plane they are woven together soonest
        found[..., channel] = window[channel]
    return found


def _resized(picture: "Tensor", axis: int, covered: int, extent: float, filter_name: str) -> "Tensor":
    """Resize rows (axis 0) or columns (1) so that the first `extent` of them become `covered`."""
    from torch.nn.functional import interpolate

    size = [picture.shape[2], picture.shape[3]]
    if extent == size[axis]:
        size[axis] = covered
        return interpolate(picture, size=size, mode=filter_name, antialias=True)
    factors = [1.0, 1.0]
    factors[axis] = covered / extent
    return interpolate(picture, scale_factor=factors, mode=filter_name, antialias=True)


def _rows_read(rows: int, covered: int, top: int, height: int, reach: float) -> Size:
    """Return the first row that the window reads, and the one behind the last; one more than needed each."""
    if covered == rows:
        return top, top + height
    scale = rows / covered
    margin = reach * max(scale, 1.0) + 1
    return max(0, math.floor(top * scale - margin)), min(rows, math.ceil((top + height) * scale + margin))


def _vertical_window(
    pixels: Pixels, rows: int, covered: int, firsts: Size, height: int, filter_name: str
) -> Pixels:
    """Compute `height` rows of a picture resized to `covered` rows, with Pillow's arithmetic.

    Args:
        pixels: (H, W, C) or (H, W) uint8, rows of the picture from `firsts[0]` on.
        rows: how many the whole picture has.
        covered: how many it is resized to.
        firsts: row of the picture that `pixels` starts with, and the first row to compute.
        height: rows to compute.
        filter_name: "bicubic" or "bilinear".
    """
    scale = rows / covered
    stretch = max(scale, 1.0)
    reach = REACH[filter_name] * stretch
    found = np.empty((height, *pixels.shape[1:]), dtype=np.uint8)
    for row in range(height):
        centre = (firsts[1] + row + 0.5) * scale
        begin, end = max(0, int(centre - reach + 0.5)), min(rows, int(centre + reach + 0.5))
        weights = _weights((np.arange(begin, end, dtype=np.float64) - centre + 0.5) / stretch, filter_name)
        fixed = np.trunc(weights / weights.sum() * 2**PRECISION_BITS + np.copysign(0.5, weights))
        window = pixels[begin - firsts[0] : end - firsts[0]].astype(np.int64)
        total = np.tensordot(fixed.astype(np.int64), window, axes=1) + 2 ** (PRECISION_BITS - 1)
        found[row] = (total >> PRECISION_BITS).clip(0, 255)
    return found


def _weights(distance: NDArray[np.float64], filter_name: str) -> NDArray[np.float64]:
    """Return a filter's values at distances in pixels.

    >>> _weights(np.array([0.0, 0.5, 1.5]), "bicubic").tolist()
    [1.0, 0.5625, -0.0625]
    """
    x = np.abs(distance)
    if filter_name == "bilinear":
        return np.maximum(1.0 - x, 0.0)
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((x - 5.0) * x + 8.0) * x - 4.0
    return np.where(x < 1.0, near, np.where(x < 2.0, -0.5 * far, 0.0))


def boxed_window(image: Image.Image, covered: Size, corner: Size, size: Size, filter_name: str) -> Pixels:
    """Resize only what the window at `corner` of the picture resized to `covered` shows.

    Returns:
        (H, W, 3) uint8 for an RGB picture, within one level of resizing first and cutting then.
    """
    (height, width), (top, left) = size, corner
    y_scale, x_scale = image.height / covered[0], image.width / covered[1]
    box = (
        left * x_scale,
        top * y_scale,
        min((left + width) * x_scale, image.width),
        min((top + height) * y_scale, image.height),
    )
    return np.array(image.resize((width, height), FILTERS[filter_name], box=box))
