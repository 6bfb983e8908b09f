"""Resize an image and keep one window of it: to the bit as Pillow does, or within one level of that.

Where numba is installed, our own kernels do Pillow's bicubic for RGB images that shrink, with the same
pixels; they leave out what lies outside the window. Pillow's resize of a box, which is held in single
precision, is at most one level off. What only needs these, such as a curation, never comes near torch.

Source: Pillow's `Image.resize` (antialiased filters in fixed point, 22 bits); its bicubic is Keys 1981 with
a = -0.5.
"""

import itertools
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import PIL
from PIL import Image

from diptych.data.images.jpeg import Pixels
from diptych.data.images.limits import MAX_PIXELS
from diptych.data.images.resize_weights import PRECISION_BITS, Size, window_weights

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
PLAIN_MODES = frozenset({"RGB", "L", "CMYK"})
"""Modes whose channels are resized as they are; some of the others Pillow converts first."""

PASSES_VARY = int(PIL.__version__.partition(".")[0]) >= 13  # older Pillow always goes across first
IMAGES_BEFORE_KERNELS = 128  # loading the kernels takes half a second: no gain for so few images in a process

_seen = itertools.count()


class Window(NamedTuple):
    """The part of a resized image that is kept; sizes and corners are (down, across) in pixels.

    Attributes:
        covered: height and width that the whole image is resized to.
        corner: top and left of the window in the resized image.
        filter_name: "bicubic" or "bilinear".
    """

    covered: Size
    corner: Size
    size: Size
    filter_name: str


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


def as_image(image: Image.Image | Pixels) -> Image.Image:
    """Return a Pillow image."""
    return image if isinstance(image, Image.Image) else Image.fromarray(image)


def as_array(image: Image.Image | Pixels) -> Pixels:
    """Return (H, W, …) uint8, writable; an array itself."""
    return image if isinstance(image, np.ndarray) else np.array(image)


def cut(pixels: Pixels, corner: Size, size: Size) -> Pixels:
    """Return a window of an image (H, W, …), contiguous."""
    return np.ascontiguousarray(pixels[corner[0] : corner[0] + size[0], corner[1] : corner[1] + size[1]])


@cache
def shrinking_kernel() -> Callable[..., Pixels] | None:
    """Load `resize_kernels.bicubic`, compiled; None: numba is not installed, or cannot keep its work."""
    try:
        from diptych.data.images.resize_kernels import bicubic
    except (ImportError, RuntimeError):  # numba is no part of the smallest installation
        return None
    return bicubic


def goes_down_first(image_size: Size, covered: Size) -> bool:
    """Say whether Pillow's resize resizes the columns before the rows; the pixels between are rounded.

    >>> goes_down_first((480, 640), (224, 298))
    False
    """
    down, across = image_size[0] - covered[0], image_size[1] - covered[1]
    return PASSES_VARY and down > 0 and down > 2 * across


def exact_window(image: Image.Image | Pixels, window: Window) -> Pixels:
    """Resize with Pillow, crop and turn into RGB, bit-equal to doing just that: (height, width, 3) uint8.

    Where the whole resized image would pass 25 million pixels, other modes than RGB, L and CMYK are turned
    into RGB first.
    """
    image_size, (covered, corner, size, filter_name) = size_of(image), window
    if isinstance(image, np.ndarray) and covered == image_size:
        return cut(image, corner, size)
    if isinstance(image, np.ndarray) or image.mode == "RGB":
        shrinks = image_size[0] >= covered[0] and image_size[1] >= covered[1] and image_size != covered
        kernel = _ready_kernel() if shrinks and filter_name == "bicubic" else None
        if kernel is not None:
            down_first = goes_down_first(image_size, covered)
            return kernel(np.asarray(image), covered, corner, size, down_first=down_first)
    image = as_image(image)
    if covered[0] * covered[1] <= MAX_PIXELS:
        (height, width), (top, left) = size, corner
        whole = image.resize(covered[::-1], FILTERS[filter_name])
        image = whole.crop((left, top, left + width, top + height))
    else:
        image = image if image.mode in PLAIN_MODES else image.convert("RGB")
        image = Image.fromarray(_resized_window(np.asarray(image), window), image.mode)
    image.info.pop("transparency", None)  # of a palette: converting warns of it, and drops it all the same
    return np.array(image.convert("RGB"))


def _ready_kernel() -> Callable[..., Pixels] | None:
    """Return the kernel if it is loaded or worth it."""
    if not shrinking_kernel.cache_info().currsize and next(_seen) < IMAGES_BEFORE_KERNELS:
        return None
    return shrinking_kernel()


def _resized_window(pixels: Pixels, window: Window) -> Pixels:
    """Compute a window alone, with Pillow's arithmetic: a strip of 1×20,000 pixels whole would take 4 GB."""
    covered = window.covered
    for axis in (0, 1) if goes_down_first(size_of(pixels), covered) else (1, 0):
        lines, begin, count = np.moveaxis(pixels, axis, 0), window.corner[axis], window.size[axis]
        if len(lines) == covered[axis]:
            resized = lines[begin : begin + count]
        else:
            starts, weights = window_weights(len(lines), covered[axis], begin, count, window.filter_name)
            resized = np.empty((count, *lines.shape[1:]), dtype=np.uint8)
            for line, start in enumerate(starts):
                read = lines[start : start + weights.shape[1]].astype(np.int64)
                total = np.tensordot(weights[line, : len(read)].astype(np.int64), read, axes=1)
                resized[line] = (total + 2 ** (PRECISION_BITS - 1) >> PRECISION_BITS).clip(0, 255)
        pixels = np.moveaxis(resized, 0, axis)
    return pixels


def boxed_window(
    image: Image.Image | Pixels, window: Window, *, extent: tuple[float, float] | None = None
) -> Pixels:
    """Resize with Pillow only what the window of an RGB image shows, within one level of `exact_window`.

    Args:
        image: RGB, or (H, W, 3) uint8.
        window: what to keep.
        extent: height and width of the image in pixels, where the last row or column is only in part its.
    """
    (height, width), (top, left) = window.size, window.corner
    rows, columns = size_of(image) if extent is None else extent
    y_scale, x_scale = rows / window.covered[0], columns / window.covered[1]
    right, bottom = min((left + width) * x_scale, columns), min((top + height) * y_scale, rows)
    box = (left * x_scale, top * y_scale, right, bottom)
    return np.array(as_image(image).resize((width, height), FILTERS[window.filter_name], box=box))
