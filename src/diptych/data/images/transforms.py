"""Images to pixels: the one transform for evaluation, in every command, and the paper's for training.

The evaluation transform is open_clip's to the bit, on images as a viewer shows them: turned as EXIF says and
gray of more than 8 bits scaled. With `Preprocess(orientation="stored")` files are read as open_clip does,
without either. Figures: docs/preprocessing.md.

Source: Radford et al. 2021, section 2.4 ("a random square crop from resized images is the only data
augmentation") and the released evaluation transform: shortest side resized (bicubic, antialiased), center
crop. Sizes and offsets are rounded as torchvision and open_clip 3.3 round them.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image

from diptych.core.errors import SettingsError, UsageError
from diptych.data.images.decode import (
    decode,
    decode_with,
    orientation,
    stored_corner,
    swapped,
    to_rgb,
    turned,
    upright,
)
from diptych.data.images.jpeg import Pixels, PlainJpeg, plain_jpeg
from diptych.data.images.limits import DEFAULT_LIMITS, ImageLimits
from diptych.data.images.resize import (
    FILTERS,
    Window,
    as_array,
    as_image,
    boxed_window,
    cover,
    cut,
    exact_window,
    goes_down_first,
    size_of,
)
from diptych.data.images.resize_weights import Size

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CLIP_MEAN", "CLIP_STD", "Orientation", "Pixels", "Preprocess", "decode", "evaluation_pixels",
           "read_pixels", "training_pixels"]  # fmt: skip

Orientation = Literal["upright", "stored"]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of the paper's training images, red green blue, range 0..1
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
CROP_MARGIN = 8 / 7  # 256 before a crop of 224: the ratio of the ImageNet recipes
FAST_SCALE = 1.9
"""Reduction from which on torch's resize is used. Below it the 15-bit weights of its two passes add up to two
levels in some photos (of 54, 12 at 336 px and 3 at 256 px, in one of a million values); above, in none."""
SPARE_SCALE = 2
"""A JPEG is decoded at the smallest size that is this many times the target's: Nyquist's factor, without
which the DCT's own low-pass filter would show."""
FAST_WASTE = 4
"""Resized pixels per pixel kept beyond which torch's resize, which computes whole columns, is no gain."""


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How an image becomes the pixels that a model sees.

    Attributes:
        size: target height and width.
        resize: "shortest": scale until the image covers the target, then crop; "squash": resize to the
            target.
        interpolation: resampling filter, antialiased.
        mean: subtracted after division by 255, red green blue.
        std: divided by after the mean.
        train_resize: shortest side of what the image covers before the random crop; None: 8/7 of the
            target's.
        train_pad: pixels by which a training image's edge is repeated on every side before the random crop:
            shifts without zoom, as for CIFAR (He et al. 2016, section 4.2).
        horizontal_flip: mirror every second training image (the paper does not: captions say left and
            right).
        orientation: "upright": images as a viewer shows them, turned as their EXIF orientation says and gray
            of more than 8 bits scaled to 8; "stored": neither, as open_clip reads files.
        scaled_jpeg: decode JPEG files of four times the needed size and more at half of it or less: sooner,
            but no longer exact (docs/preprocessing.md).
    """

    size: tuple[int, int] = (224, 224)
    resize: Literal["shortest", "squash"] = "shortest"
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    train_resize: int | None = None
    train_pad: int = 0
    horizontal_flip: bool = False
    orientation: Orientation = "upright"
    scaled_jpeg: bool = False

    def __post_init__(self) -> None:
        """Raise SettingsError for values that no image can have, or that no transform knows."""
        for name, length in (("size", 2), ("mean", 3), ("std", 3)):
            if np.shape(v := getattr(self, name)) != (length,) or not np.isfinite(np.array(v, float)).all():
                raise SettingsError(f"{name} is not {length} numbers", where="preprocess", found=v)
        if min(self.size) < 1 or not all(isinstance(side, int | np.integer) for side in self.size):
            raise SettingsError("image size is too small", found=self.size, expected="whole sides from 1")
        short = min(self.size)
        if self.train_resize is not None and self.train_resize < short:
            what = "train_resize is smaller than the image that is cut out of it"
            raise SettingsError(what, found=self.train_resize, expected=f"at least {short}")
        if not 0 <= self.train_pad < short:
            expected = f"0 to {short - 1}, less than the image's shortest side"
            raise SettingsError("train_pad is not a border", found=self.train_pad, expected=expected)
        if self.resize not in ("shortest", "squash") or self.interpolation not in FILTERS:
            actual, expected = (
                f"{self.resize}, {self.interpolation}",
                "shortest or squash; bicubic or bilinear",
            )
            raise SettingsError("unknown way to resize", found=actual, expected=expected)
        if min(self.std) <= 0:
            raise SettingsError("std must be positive", found=self.std)
        if self.orientation not in ("upright", "stored"):
            raise SettingsError("unknown orientation", found=self.orientation, expected="upright or stored")

    @property
    def reading(self) -> dict[str, Any]:
        """How files are read, as indexes and results record it; the rest of the transform is the model's."""
        return {"orientation": self.orientation, "scaled_jpeg": self.scaled_jpeg}

    @property
    def reading_name(self) -> str:
        """The same in one word: upright, stored, upright-scaled or stored-scaled."""
        return self.orientation + "-scaled" * self.scaled_jpeg

    def digest_with(self, digest: str) -> str:
        """Return the digest of a model that reads images like this: its own where that is the usual way.

        >>> Preprocess().digest_with("ab"), Preprocess(scaled_jpeg=True).digest_with("ab")[:4]
        ('ab', '3b2b')
        """
        if self.reading == Preprocess().reading:
            return digest
        return hashlib.sha256(f"{digest} {json.dumps(self.reading)}".encode()).hexdigest()

    def train_size(self) -> Size:
        """Return height and width, of the target's aspect, that a training image covers before the crop.

        >>> Preprocess().train_size(), Preprocess(size=(80, 60), train_resize=66).train_size()
        ((256, 256), (88, 66))
        """
        shortest = min(self.size)
        wanted = round(shortest * CROP_MARGIN) if self.train_resize is None else self.train_resize
        height, width = (round(side * wanted / shortest) for side in self.size)
        return height, width

    def normalize(self, pixels: "Tensor") -> "Tensor":
        """Return x / 255, less the mean, divided by the deviation, each rounded to float32 as by open_clip.

        Args:
            pixels: (..., 3, H, W) uint8, 0..255; the result is float32 on the same device.
        """
        floats = pixels.float().div_(255)
        mean, std = (floats.new_tensor(value).view(3, 1, 1) for value in (self.mean, self.std))
        lasting = floats.movedim(-3, -1)
        if lasting.is_contiguous():
            # Channels-last: as rows of W·3 values, or each loop inside would be three values long.
            mean, std = (constant.flatten().repeat(pixels.shape[-1]) for constant in (mean, std))
            lasting.view(*lasting.shape[:-2], len(mean)).sub_(mean).div_(std)
            return floats
        return floats.sub_(mean).div_(std)

    def __call__(self, image: Image.Image) -> "Tensor":
        """Return the `evaluation_pixels` as (3, H, W) float32, normalized: a row for `Model.encode_image`."""
        import torch

        pixels = torch.from_numpy(evaluation_pixels(image, self)).permute(2, 0, 1)
        return self.normalize(pixels.contiguous())


def evaluation_pixels(image: Image.Image, preprocess: Preprocess) -> Pixels:
    """Resize and center-crop an image as open_clip's evaluation transform does, bit-equal.

    Args:
        image: any image, as it was opened: "upright" obeys the orientation that its EXIF still states.
        preprocess: size, filter and orientation.

    Returns:
        (H, W, 3) uint8 RGB, a writable copy.

    Source: torchvision `Resize` + `CenterCrop`; for targets that are not square open_clip's
    `ResizeKeepRatio`.

    Raises:
        UsageError: this is no Pillow image, or one without pixels.
    """
    if not isinstance(image, Image.Image) or 0 in image.size:
        raise UsageError("this is no Pillow image with pixels", found=type(image).__name__)
    if preprocess.orientation == "upright":
        image = upright(image)
        if image.mode.startswith("I") or image.mode == "F":
            image = to_rgb(image)
    return _transformed(image, preprocess)


def training_pixels(image: Image.Image, preprocess: Preprocess, rng: np.random.Generator) -> Pixels:
    """Cut a random window of the target's size from the resized image.

    Args:
        image: any image; `decode` gives upright RGB.
        preprocess: size, filter, margin and flip.
        rng: exactly three numbers are drawn, whatever the settings.

    Returns:
        (H, W, 3) uint8 RGB, a writable copy, within one level of resizing first and cropping then.

    Source: Radford et al. 2021, section 2.4.
    """
    return _transformed(to_rgb(image), preprocess, rng)


def read_pixels(
    data: bytes,
    preprocess: Preprocess,
    *,
    limits: ImageLimits = DEFAULT_LIMITS,
    rng: np.random.Generator | None = None,
) -> Pixels:
    """Decode a file and transform it in one call: what every command does with every image.

    Args:
        data: the encoded file.
        preprocess: the transform, and how files are read.
        limits: what is allowed.
        rng: draws the training window; None: the evaluation transform.

    Returns:
        (H, W, 3) uint8 RGB, writable.

    Raises:
        BadSampleError: with the reason.
    """
    obeyed = preprocess.orientation == "upright"
    plain = plain_jpeg(data, limits)
    if plain is not None:
        turn = orientation(data, limits) if plain.may_be_turned and obeyed else 1
        small = _read_small(plain, turn, preprocess, rng) if preprocess.scaled_jpeg else None
        if small is not None:
            return small
        array = plain.decode()
        if array is not None:
            return _transformed(turned(array, turn), preprocess, rng)

    def pixels(image: Image.Image) -> Pixels:
        if rng is None:
            return evaluation_pixels(image, preprocess)
        return training_pixels(upright(image) if obeyed else image, preprocess, rng)

    return decode_with(data, limits, pixels)


def _read_small(
    plain: PlainJpeg, turn: int, preprocess: Preprocess, rng: np.random.Generator | None
) -> Pixels | None:
    """Read a JPEG that is several times the target's size from its lower frequencies; None: it is not.

    The window is cut out of the image as it is stored and turned then: libjpeg rounds the size of what it
    decodes up, and only in the stored orientation is the part of a pixel that this adds at the far ends.
    """
    size, stored = preprocess.size, plain.size
    covered = _covered(swapped(stored, turn), preprocess, rng)
    least = swapped((SPARE_SCALE * covered[0], SPARE_SCALE * covered[1]), turn)
    if rng is not None and preprocess.train_pad:
        return None
    if stored[0] < 2 * least[0] or stored[1] < 2 * least[1] or not _is_compact(covered, size):
        return None
    array = plain.decode(at_least=least)
    if array is None:
        return None
    corner, mirror = _corner(covered, preprocess, rng)
    stored_window = stored_corner(covered, corner, size, turn)
    window = Window(swapped(covered, turn), stored_window, swapped(size, turn), preprocess.interpolation)
    eighths = max(array.shape[:2]) * 8 // max(stored)
    extent = stored[0] * eighths / 8, stored[1] * eighths / 8
    if rng is not None:
        pixels = fast_window(array, window, extent=extent)
    elif extent == array.shape[:2]:
        pixels = exact_window(array, window)
    else:
        pixels = boxed_window(array, window, extent=extent)
    return _mirrored(turned(pixels, turn), mirror)


def _transformed(
    image: Image.Image | Pixels, preprocess: Preprocess, rng: np.random.Generator | None = None
) -> Pixels:
    """Return the evaluation's pixels or, drawn with `rng`, those of training; its images are RGB."""
    size, image_size = preprocess.size, size_of(image)
    covered = _covered(image_size, preprocess, rng)
    corner, mirror = _corner(covered, preprocess, rng)
    window = Window(covered, corner, size, preprocess.interpolation)
    if rng is None:
        return exact_window(image, window)
    if preprocess.train_pad:
        if covered != image_size:
            image = as_image(image).resize(covered[::-1], FILTERS[preprocess.interpolation])
        border = (preprocess.train_pad,) * 2
        pixels = cut(np.pad(as_array(image), (border, border, (0, 0)), mode="edge"), corner, size)
    elif covered == image_size:
        pixels = cut(as_array(image), corner, size)
    elif _reduction(image_size, covered) >= FAST_SCALE and _is_compact(covered, size):
        pixels = fast_window(as_array(image), window)
    else:
        pixels = boxed_window(image, window)
    return _mirrored(pixels, mirror)


def _covered(image_size: Size, preprocess: Preprocess, rng: np.random.Generator | None) -> Size:
    target = preprocess.size if rng is None else preprocess.train_size()
    return target if preprocess.resize == "squash" else cover(image_size, target)


def _corner(covered: Size, preprocess: Preprocess, rng: np.random.Generator | None) -> tuple[Size, bool]:
    """Return the window's corner, in the center or drawn, and whether the window is mirrored."""
    height, width = preprocess.size
    if rng is None:
        # round() takes halves to the even number, as torchvision's center_crop does.
        return (round((covered[0] - height) / 2.0), round((covered[1] - width) / 2.0)), False
    down, across, mirror = rng.random(3).tolist()
    border = 2 * preprocess.train_pad
    corner = int(down * (covered[0] + border - height + 1)), int(across * (covered[1] + border - width + 1))
    return corner, preprocess.horizontal_flip and mirror < 0.5


def _reduction(image_size: Size, covered: Size) -> float:
    return min(image_size[0] / covered[0], image_size[1] / covered[1])


def _is_compact(covered: Size, size: Size) -> bool:
    return covered[0] * covered[1] <= FAST_WASTE * size[0] * size[1]


def _mirrored(pixels: Pixels, mirror: bool) -> Pixels:
    return np.ascontiguousarray(pixels[:, ::-1]) if mirror else pixels


def fast_window(pixels: Pixels, window: Window, *, extent: tuple[float, float] | None = None) -> Pixels:
    """Do what `exact_window` does with torch's antialiased resize of bytes.

    Args:
        pixels: (H, W, 3) uint8, contiguous and writable.
        window: what to keep.
        extent: as in `boxed_window`.

    Returns:
        (height, width, 3) uint8, within one level of `exact_window`'s.
    """
    import torch
    from torch.nn.functional import interpolate

    covered, (top, left), (height, width), mode = window
    extent = pixels.shape[:2] if extent is None else extent
    # (1, 3, H, W) seen on (H, W, 3): channels-last in memory, which torch has vector code for.
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    down_first = goes_down_first(size_of(pixels), covered)
    if extent == pixels.shape[:2] and not down_first:
        image = interpolate(image, size=covered, mode=mode, antialias=True)
    else:
        for axis in (0, 1) if down_first else (1, 0):
            size, factors = list(image.shape[2:]), [1.0, 1.0]
            if extent[axis] == size[axis]:
                size[axis] = covered[axis]
                image = interpolate(image, size=size, mode=mode, antialias=True)
            else:
                factors[axis] = covered[axis] / extent[axis]
                image = interpolate(image, scale_factor=factors, mode=mode, antialias=True)
    kept = image[0, :, top : top + height, left : left + width].numpy()
    resized: Pixels = np.empty((height, width, 3), dtype=np.uint8)
    for channel in range(3):  # torch hands planes back; plane by plane they are woven together soonest
        resized[..., channel] = kept[channel]
    return resized
