"""The schedule against its formula, written out once more with NumPy."""

import numpy as np
import pytest

from diptych.train.schedule import learning_rate


@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_schedule_is_linear_then_half_a_cosine(floor: float) -> None:
    peak, warmup, total = 3e-4, 20, 130
    found = [
        learning_rate(s, peak=peak, warmup_steps=warmup, total_steps=total, min_lr_ratio=floor)
        for s in range(total + 5)
    ]
    wave = (1 + np.cos(np.linspace(0, np.pi, total - warmup + 1))) / 2
    expected = [
        *np.linspace(0, peak, warmup + 1)[1:],
        *(peak * (floor + (1 - floor) * wave)),
        *[peak * floor] * 4,
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-18)


def test_no_warmup_starts_at_the_peak() -> None:
    assert learning_rate(0, peak=1.0, warmup_steps=0, total_steps=10) == 1.0
