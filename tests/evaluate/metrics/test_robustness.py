"""Effective robustness against a fit by scipy, and by hand."""

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit, logit

from diptych.evaluate.metrics.robustness import shifts

COLUMNS = {"imagenet": "IN", "imagenet-r": "R", "sketch": "Sketch"}


def test_the_line_equals_scipys() -> None:
    for case in range(200):
        rng = np.random.default_rng(case)
        accuracies = rng.uniform(0.05, 0.95, size=int(rng.integers(2, 30)))
        shifted = expit(0.8 * logit(accuracies) - 1 + 0.1 * rng.normal(size=len(accuracies)))
        theirs = stats.linregress(logit(accuracies), logit(shifted))
        table = {
            str(row): {"IN": x, "R": y} for row, (x, y) in enumerate(zip(accuracies, shifted, strict=True))
        }
        (shift,) = shifts({"imagenet": 0.7, "imagenet-r": 0.65}, COLUMNS, table)
        expected = float(expit(theirs.slope * logit(0.7) + theirs.intercept))
        assert (shift.expected, shift.effective) == pytest.approx((expected, 0.65 - expected), abs=1e-9)


def test_shifts_are_compared_with_the_line_of_a_table() -> None:
    table = {
        "a": {"IN": 0.5, "R": 0.2, "Other": 0.1},
        "b": {"IN": 0.9, "R": 0.6},
        "c": {"IN": 0.7},  # was not scored on R
        "d": {"IN": 1.0, "R": 0.9},  # its logit is infinite
    }
    (shift,) = shifts({"imagenet": 0.9, "imagenet-r": 0.7, "sketch": 0.5, "mnist": 0.9}, COLUMNS, table)
    assert (shift.task, shift.accuracy, shift.shifted, shift.models) == ("imagenet-r", 0.9, 0.7, 2)
    assert (shift.expected, shift.effective) == pytest.approx((0.6, 0.1))
    assert shifts({"imagenet-r": 0.7}, COLUMNS, table) == []
    assert shifts({"imagenet": 0.0, "imagenet-r": 0.7}, COLUMNS, table) == []
