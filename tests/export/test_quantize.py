"""Bytes that mean the same on every processor."""

import numpy as np
import pytest

from diptych.export.quantize import quantized


@pytest.mark.parametrize("columns", [1, 7, 768])
def test_neighboring_products_fit_sixteen_bits(columns: int) -> None:
    """An int8 file exported where VNNI is gave cosines of 0.957 where it is not: `vpmaddubsw` cuts sums off.

    The instruction multiplies two neighboring unsigned bytes by two signed ones and keeps the sum between
    -32768 and 32767; the largest activation is 255.
    """
    weight = np.random.default_rng(0).standard_normal((64, columns)).astype(np.float32)
    weight[0] = 1.0
    bytes_, scale = quantized(weight)
    wide = np.pad(bytes_.astype(np.int64), ((0, 0), (0, columns % 2))).reshape(64, -1, 2)
    for sign in (1, -1):
        sums = 255 * (wide * sign).clip(min=0).sum(axis=2)
        assert sums.max() <= 32_767
    np.testing.assert_allclose(bytes_ * scale[:, None], weight, atol=float(scale.max()) / 2 + 1e-6)
