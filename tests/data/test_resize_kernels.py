"""What makes fetched pictures smaller is Pillow's, to the bit."""

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("numba")

from diptych.data.resize_kernels import bicubic


@pytest.mark.parametrize("seed", range(40))
def test_pixels_are_those_of_pillow(seed: int) -> None:
    rng = np.random.default_rng(seed)
    width, new_width = sorted(rng.integers(1, 300, 2).tolist(), reverse=True)
    new_height = int(rng.integers(1, 200))
    height = new_height + int(rng.integers(0, 3 * (width - new_width) // 2 + 1))
    if seed % 4 == 1:
        new_height = height  # one pass only
    noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels = noise if seed % 2 else np.where(noise > 127, 255, 0).astype(np.uint8)  # the largest overshoot
    expected = Image.fromarray(pixels).resize((new_width, new_height), Image.Resampling.BICUBIC)
    assert np.array_equal(bicubic(pixels, new_height, new_width), np.asarray(expected))
