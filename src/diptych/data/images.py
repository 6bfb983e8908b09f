"""Pictures to pixels: the paper's transforms for training and for evaluation, on upright 8-bit RGB.

Reads: encoded bytes or Pillow pictures. Writes: nothing.
Source: Radford et al. 2021, section 2.4 ("a random square crop from resized images is the only data
augmentation") and the released evaluation transform: shortest side resized (bicubic, antialiased), centre
crop. Sizes and offsets are rounded as torchvision and open_clip 3.3 round them, and `evaluation_pixels` is
bit-equal to theirs.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from diptych.core.errors import SettingsError
from diptych.data.decoding import (
    DEFAULT_LIMITS,
    MAX_PIXELS,
    ImageLimits,
    Pixels,
    decode,
    decode_plain_jpeg,
    inspect,
    to_rgb,
)

__all__ = [
    "CLIP_MEAN",
    "CLIP_STD",
    "ImageLimits",
    "Pixels",
    "Preprocess",
    "decode",
    "evaluation_pixels",
    "inspect",
    "read_pixels",
    "training_pixels",
]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of the paper's training images, red green blue, range 0..1
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
CROP_MARGIN = 8 / 7  # 256 before a crop of 224: the ratio of the ImageNet recipes
FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How a picture becomes the pixels that a model sees.

    Attributes:
        size: target height and width.
        resize: "shortest": scale until the picture covers the target, then crop; "squash": resize to the
            target.
        interpolation: resampling filter, antialiased.
        mean: subtracted after division by 255, red green blue.
        std: divided by after the mean.
        train_resize: shortest side of what the picture covers before the random crop; None: 8/7 of the
            target's.
        train_pad: pixels by which a training picture's edge is repeated on every side before the random crop:
            shifts without zoom, as for CIFAR (He et al. 2016, section 4.2).
        horizontal_flip: mirror every second training picture (the paper does not: captions say left and
            right).
    """

    size: tuple[int, int] = (224, 224)
    resize: Literal["shortest", "squash"] = "shortest"
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    train_resize: int | None = None
    train_pad: int = 0
    horizontal_flip: bool = False

    def __post_init__(self) -> None:
        """Refuse sizes that no picture can have.

        Raises:
            SettingsError: for a size below one, a training size below the target, a border as wide as the
                picture, or a zero deviation.
        """
        if min(self.size) < 1:
            raise SettingsError(
                "image size is too small", found=self.size, expected="height and width of 1 or more"
            )
        if self.train_resize is not None and self.train_resize < min(self.size):
            raise SettingsError(
                "train_resize is smaller than the picture that is cut out of it",
                found=self.train_resize,
                expected=f"at least {min(self.size)}",
            )
        if not 0 <= self.train_pad < min(self.size):
            raise SettingsError(
                "train_pad is not a border",
                found=self.train_pad,
                expected=f"0 to {min(self.size) - 1}, less than the picture's shortest side",
            )
        if self.resize not in ("shortest", "squash") or self.interpolation not in FILTERS:
            raise SettingsError(
                "unknown way to resize",
                found=f"{self.resize}, {self.interpolation}",
                expected="shortest or squash; bicubic or bilinear",
            )
        if min(self.std) <= 0:
            raise SettingsError("std must be positive", found=self.std)

    def train_size(self) -> tuple[int, int]:
        """Return height and width, of the target's aspect, that a training picture covers before the crop.

        >>> Preprocess().train_size(), Preprocess(size=(80, 60), train_resize=66).train_size()
        ((256, 256), (88, 66))
        """
        shortest = min(self.size)
        wanted = round(shortest * CROP_MARGIN) if self.train_resize is None else self.train_resize
        height, width = (round(side * wanted / shortest) for side in self.size)
        return height, width


def evaluation_pixels(image: Image.Image, preprocess: Preprocess) -> Pixels:
    """Resize and centre-crop a picture, bit-equal to open_clip's evaluation transform.

    Other modes are turned into RGB first (open_clip turns them afterwards, and so resizes palette pictures
    without interpolation); for RGB pictures there is no difference. Very long strips, which would pass 25
    million pixels before the crop, may differ by one level.

    Args:
        image: any picture; `decode` gives upright RGB.
        preprocess: size and filter.

    Returns:
        (H, W, 3) uint8 RGB, a writable copy.

    Source: torchvision `Resize` + `CenterCrop`; for targets that are not square open_clip's
    `ResizeKeepRatio`.
    """
    return _evaluation(to_rgb(image), preprocess)


def training_pixels(image: Image.Image, preprocess: Preprocess, rng: np.random.Generator) -> Pixels:
    """Cut a random window of the target's size from the resized picture.

    Args:
        image: any picture; `decode` gives upright RGB.
        preprocess: size, filter, margin and flip.
        rng: source of chance; exactly three numbers are drawn, whatever the settings.

    Returns:
        (H, W, 3) uint8 RGB, a writable copy.

    Source: Radford et al. 2021, section 2.4. Crop and resize are one step (Pillow's `box`), which differs
    from resizing first by at most one level in 255 and computes only the pixels that are kept.
    """
    return _training(to_rgb(image), preprocess, rng)


def read_pixels(
    data: bytes,
    preprocess: Preprocess,
    *,
    limits: ImageLimits = DEFAULT_LIMITS,
    rng: np.random.Generator | None = None,
) -> Pixels:
    """Decode a file and transform it in one call: what the loader does with every sample.

    The same pixels as `training_pixels(decode(data), …)`, or `evaluation_pixels` without `rng`, and faster:
    plain JPEGs that need no resizing are never turned into a Pillow picture.

    Args:
        data: the encoded file.
        preprocess: size, filter, margin and flip.
        limits: what is allowed.
        rng: draws the training window; None: the evaluation transform.

    Returns:
        (H, W, 3) uint8 RGB, writable.

    Raises:
        BadSampleError: with the reason.
    """
    array = decode_plain_jpeg(data, limits)
    picture = decode(data, limits) if array is None else array
    return _evaluation(picture, preprocess) if rng is None else _training(picture, preprocess, rng)


def _evaluation(picture: Image.Image | Pixels, preprocess: Preprocess) -> Pixels:
    height, width = preprocess.size
    image_height, image_width = _size(picture)
    if preprocess.resize == "squash":
        covered = preprocess.size
    else:
        covered = _cover(image_height, image_width, preprocess.size)
    # round() takes halves to the even number, as torchvision's center_crop does.
    top, left = round((covered[0] - height) / 2.0), round((covered[1] - width) / 2.0)
    if covered == (image_height, image_width):
        return _cut(picture, top, left, preprocess.size)
    if covered[0] * covered[1] > MAX_PIXELS:
        # A strip of 1×20,000 pixels would grow to 224×4,480,000 before the crop, 4 GB: only the window is
        # computed.
        return _window(picture, covered, (top, left), preprocess)
    image = _as_image(picture).resize((covered[1], covered[0]), FILTERS[preprocess.interpolation])
    return _cut(image, top, left, preprocess.size)


def _training(picture: Image.Image | Pixels, preprocess: Preprocess, rng: np.random.Generator) -> Pixels:
    height, width = preprocess.size
    image_height, image_width = _size(picture)
    if preprocess.resize == "squash":
        covered = preprocess.train_size()
    else:
        covered = _cover(image_height, image_width, preprocess.train_size())
    down, across, mirror = rng.random(3).tolist()
    pad = preprocess.train_pad
    top, left = (
        int(down * (covered[0] + 2 * pad - height + 1)),
        int(across * (covered[1] + 2 * pad - width + 1)),
    )
    if pad:
        pixels = _cut(_padded(picture, covered, preprocess), top, left, preprocess.size)
    elif covered == (image_height, image_width):
        pixels = _cut(picture, top, left, preprocess.size)
    else:
        pixels = _window(picture, covered, (top, left), preprocess)
    if preprocess.horizontal_flip and mirror < 0.5:
        return np.ascontiguousarray(pixels[:, ::-1])
    return pixels


def _padded(picture: Image.Image | Pixels, covered: tuple[int, int], preprocess: Preprocess) -> Pixels:
    """Resize to `covered` and repeat the edge on every side."""
    if covered != _size(picture):
        picture = _as_image(picture).resize((covered[1], covered[0]), FILTERS[preprocess.interpolation])
    pad = preprocess.train_pad
    return np.pad(np.asarray(picture), ((pad, pad), (pad, pad), (0, 0)), mode="edge")


def _window(
    picture: Image.Image | Pixels, covered: tuple[int, int], corner: tuple[int, int], preprocess: Preprocess
) -> Pixels:
    """Resize only what the window at `corner` of the picture resized to `covered` shows."""
    (height, width), (image_height, image_width) = preprocess.size, _size(picture)
    (top, left), y_scale, x_scale = corner, image_height / covered[0], image_width / covered[1]
    box = (
        left * x_scale,
        top * y_scale,
        min((left + width) * x_scale, image_width),
        min((top + height) * y_scale, image_height),
    )
    return np.array(_as_image(picture).resize((width, height), FILTERS[preprocess.interpolation], box=box))


def _cover(image_height: int, image_width: int, size: tuple[int, int]) -> tuple[int, int]:
    """Return the height and width of the picture scaled until it just covers `size`.

    Square targets cut the long side down to an integer, others round it: torchvision and open_clip differ in
    this.

    >>> _cover(480, 641, (224, 224)), _cover(480, 641, (80, 60)), _cover(80, 60, (80, 60))
    ((224, 299), (80, 107), (80, 60))
    """
    height, width = size
    if height == width:
        short, long = min(image_height, image_width), max(image_height, image_width)
        scaled = int(height * long / short)
        return (scaled, width) if image_width <= image_height else (height, scaled)
    ratio = min(image_height / height, image_width / width)
    return round(image_height / ratio), round(image_width / ratio)


def _size(picture: Image.Image | Pixels) -> tuple[int, int]:
    if isinstance(picture, Image.Image):
        return picture.height, picture.width
    return picture.shape[0], picture.shape[1]


def _as_image(picture: Image.Image | Pixels) -> Image.Image:
    return picture if isinstance(picture, Image.Image) else Image.fromarray(picture)


def _cut(picture: Image.Image | Pixels, top: int, left: int, size: tuple[int, int]) -> Pixels:
    """Return the window as a contiguous array that nothing else refers to."""
    height, width = size
    if isinstance(picture, Image.Image):
        whole = (width, height) == picture.size
        return np.array(picture if whole else picture.crop((left, top, left + width, top + height)))
    return np.ascontiguousarray(picture[top : top + height, left : left + width])
