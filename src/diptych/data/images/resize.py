"""Resize an image and keep one window of it, to the bit as Pillow does.

Two passes, as Pillow's own resize does inside; what falls outside the window is cut away between them and
never computed. Where numba is installed, our own kernels do Pillow's bicubic for RGB images that shrink,
with the same pixels.

Source: Pillow's `Image.resize` (antialiased filters in fixed point, 22 bits); its bicubic is Keys 1981 with
a = -0.5. Cutting first with its `box` would not do: the box is held in single precision, and shifts pixels by
a level.
"""

import itertools
import math
from collections.abc import Callable
from functools import cache

import numpy as np
import PIL
from PIL import Image

from diptych.data.images.jpeg import Pixels
from diptych.data.images.limits import MAX_PIXELS
from diptych.data.images.resize_weights import PRECISION_BITS, REACH, Size, window_weights

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
PLAIN_MODES = frozenset({"RGB", "L", "CMYK"})
"""Modes whose channels are resized as they are; some of the others Pillow converts first."""

PASSES_VARY = int(PIL.__version__.partition(".")[0]) >= 13  # older Pillow always goes across first
IMAGES_BEFORE_KERNELS = 128  # loading the kernels takes half a second: no gain for so few images in a process

Kernel = Callable[..., Pixels]

_seen = itertools.count()


def cover(image_size: Size, size: Size) -> Size:
    """Return the height and width of the image scaled until it just covers `size`.

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


def size_of(image: Image.Image | Pixels) -> Size:
    """Return height and width."""
    return np.shape(image)[:2] if isinstance(image, np.ndarray) else (image.height, image.width)


@cache
def shrinking_kernel() -> Kernel | None:
    """Load `resize_kernels.bicubic`, compiled; None: numba is not installed, or cannot keep its work."""
    try:
        from diptych.data.images.resize_kernels import bicubic
    except (ImportError, RuntimeError):  # numba is no part of the smallest installation
        return None
    return bicubic


def _kernel(image_size: Size, covered: Size, filter_name: str) -> Kernel | None:
    """Return the kernel if it applies, and is loaded or worth it."""
    shrinks = image_size[0] >= covered[0] and image_size[1] >= covered[1] and image_size != covered
    if filter_name != "bicubic" or not shrinks:
        return None
    if not shrinking_kernel.cache_info().currsize and next(_seen) < IMAGES_BEFORE_KERNELS:
        return None
    return shrinking_kernel()


def goes_down_first(image_size: Size, covered: Size) -> bool:
    """Say whether Pillow's resize resizes the columns before the rows; the pixels between are rounded.

    >>> goes_down_first((480, 640), (224, 298))
    False
    """
    down, across = image_size[0] - covered[0], image_size[1] - covered[1]
    return PASSES_VARY and down > 0 and down > 2 * across


def exact_window(
    image: Image.Image | Pixels, covered: Size, corner: Size, size: Size, filter_name: str
) -> Pixels:
    """Resize with Pillow, crop and turn into RGB, bit-equal to doing just that.

    Args:
        image: of any mode, or (H, W, 3) uint8.
        covered: height and width that the whole image would be resized to.
        corner: top and left of the window in the resized image.
        size: height and width of the window.
        filter_name: "bicubic" or "bilinear".

    Returns:
        (height, width, 3) uint8. Where the whole resized image would pass 25 million pixels, other modes
        than RGB, L and CMYK are turned into RGB first.
    """
    image_size = size_of(image)
    if isinstance(image, np.ndarray) or image.mode == "RGB":
        kernel = _kernel(image_size, covered, filter_name)
        if kernel is not None:
            down_first = goes_down_first(image_size, covered)
            return kernel(np.asarray(image), covered, corner, size, down_first=down_first)
    window = _pillow_window(as_image(image), covered, corner, size, filter_name)
    window.info.pop("transparency", None)  # of a palette: converting warns of it, and drops it all the same
    return np.array(window.convert("RGB"))


def _pillow_window(
    image: Image.Image, covered: Size, corner: Size, size: Size, filter_name: str
) -> Image.Image:
    resample = FILTERS[filter_name]
    (height, width), (top, left) = size, corner
    if covered[0] * covered[1] > MAX_PIXELS and image.mode not in PLAIN_MODES:
        image = image.convert("RGB")
    if image.mode not in PLAIN_MODES:
        image = image.resize((covered[1], covered[0]), resample)
        return image.crop((left, top, left + width, top + height))
    if goes_down_first((image.height, image.width), covered):
        rows = image.resize((image.width, covered[0]), resample).crop((0, top, image.width, top + height))
        return rows.resize((covered[1], height), resample).crop((left, 0, left + width, height))
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
    """Compute `height` rows of an image resized to `covered` rows, with Pillow's arithmetic.

    Args:
        pixels: (H, W, C) or (H, W) uint8, rows of the image from `firsts[0]` on.
        rows: how many the whole image has.
        covered: how many it is resized to.
        firsts: row of the image that `pixels` starts with, and the first row to compute.
        height: rows to compute.
        filter_name: "bicubic" or "bilinear".
    """
    starts, weights = window_weights(rows, covered, firsts[1], height, filter_name)
    resized = np.empty((height, *pixels.shape[1:]), dtype=np.uint8)
    for row, start in enumerate(starts - firsts[0]):
        window = pixels[start : start + weights.shape[1]].astype(np.int64)
        total = np.tensordot(weights[row, : len(window)].astype(np.int64), window, axes=1)
        resized[row] = (total + 2 ** (PRECISION_BITS - 1) >> PRECISION_BITS).clip(0, 255)
    return resized


def boxed_window(
    image: Image.Image | Pixels,
    covered: Size,
    corner: Size,
    size: Size,
    filter_name: str,
    *,
    extent: tuple[float, float] | None = None,
) -> Pixels:
    """Resize only what the window at `corner` of the image resized to `covered` shows.

    Args:
        extent: height and width of the image in pixels, where the last row or column is only in part its.

    Returns:
        (H, W, 3) uint8 for an RGB image, within one level of resizing first and cutting then.
    """
    (height, width), (top, left) = size, corner
    rows, columns = size_of(image) if extent is None else extent
    y_scale, x_scale = rows / covered[0], columns / covered[1]
    box = (
        left * x_scale,
        top * y_scale,
        min((left + width) * x_scale, columns),
        min((top + height) * y_scale, rows),
    )
    return np.array(as_image(image).resize((width, height), FILTERS[filter_name], box=box))


def as_image(image: Image.Image | Pixels) -> Image.Image:
    """Return a Pillow image of either kind."""
    return image if isinstance(image, Image.Image) else Image.fromarray(image)
