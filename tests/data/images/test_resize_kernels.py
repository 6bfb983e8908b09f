"""What makes images smaller is Pillow's, to the bit."""

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("numba")

from diptych.data.images.resize import goes_down_first
from diptych.data.images.resize_kernels import bicubic


@pytest.mark.parametrize("seed", range(60))
def test_pixels_are_those_of_pillow(seed: int) -> None:
    rng = np.random.default_rng(seed)
    new_height, height = np.sort(rng.integers(1, 300, 2)).tolist()
    new_width, width = np.sort(rng.integers(1, 300, 2)).tolist()
    if seed % 4 == 1:
        new_height = height  # one pass only
    if seed % 4 == 2:
        new_width = width
    noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels = noise if seed % 2 else np.where(noise > 127, 255, 0).astype(np.uint8)  # the largest overshoot
    whole = np.asarray(Image.fromarray(pixels).resize((new_width, new_height), Image.Resampling.BICUBIC))
    covered = (new_height, new_width)
    top, left = int(rng.integers(new_height)), int(rng.integers(new_width))
    size = int(rng.integers(1, new_height - top + 1)), int(rng.integers(1, new_width - left + 1))
    window = whole[top : top + size[0], left : left + size[1]]
    down_first = goes_down_first((height, width), covered)
    assert np.array_equal(bicubic(pixels, covered, (0, 0), covered, down_first=down_first), whole)
    assert np.array_equal(bicubic(pixels, covered, (top, left), size, down_first=down_first), window)


def test_a_view_of_an_image_that_cannot_be_written_will_do() -> None:
    image = np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)[:, ::-1]
    image.flags.writeable = False
    expected = Image.fromarray(image).resize((30, 40), Image.Resampling.BICUBIC)
    actual = bicubic(image, (40, 30), (0, 0), (40, 30), down_first=goes_down_first((90, 70), (40, 30)))
    assert np.array_equal(actual, expected)
