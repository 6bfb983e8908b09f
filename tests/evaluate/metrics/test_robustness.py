"""Effective robustness against a fit by scipy, and by hand."""

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit, logit

from diptych.core.errors import DataError
from diptych.evaluate.metrics.robustness import fit_line, relative, shifts


def test_the_line_equals_scipys() -> None:
    for case in range(200):
        rng = np.random.default_rng(case)
        accuracies = rng.uniform(0.05, 0.95, size=int(rng.integers(2, 30)))
        shifted = expit(0.8 * logit(accuracies) - 1 + 0.1 * rng.normal(size=len(accuracies)))
        theirs = stats.linregress(logit(accuracies), logit(shifted))
        line = fit_line(accuracies, shifted)
        assert (line.slope, line.offset) == pytest.approx((theirs.slope, theirs.intercept), abs=1e-9)
        expected = float(expit(theirs.slope * logit(0.7) + theirs.intercept))
        assert line.effective(0.7, 0.65) == pytest.approx(0.65 - expected, abs=1e-9)


def test_models_on_the_line_have_no_effective_robustness() -> None:
    line = fit_line([0.5, 0.9], [0.2, 0.6])
    assert line.effective(0.5, 0.2) == pytest.approx(0)
    assert line.effective(0.9, 0.7) == pytest.approx(0.1)
    assert relative(0.2, 0.35) == pytest.approx(0.15)


@pytest.mark.parametrize(
    ("accuracies", "shifted"), [([0.5], [0.4]), ([0.5, 0.5], [0.4, 0.3]), ([0.5, 1.0], [0.4, 0.5])]
)
def test_what_has_no_line_is_told(accuracies: list[float], shifted: list[float]) -> None:
    with pytest.raises(DataError):
        fit_line(accuracies, shifted)


def test_shifts_are_held_against_the_line_of_a_table() -> None:
    table = {
        "a": {"IN": 0.5, "R": 0.2, "Other": 0.1},
        "b": {"IN": 0.9, "R": 0.6},
        "c": {"IN": 0.7},  # was not scored on R
        "d": {"IN": 1.0, "R": 0.9},  # its logit is infinite
    }
    columns = {"imagenet": "IN", "imagenet-r": "R", "sketch": "Sketch"}
    (shift,) = shifts({"imagenet": 0.9, "imagenet-r": 0.7, "sketch": 0.5, "mnist": 0.9}, columns, table)
    assert (shift.task, shift.accuracy, shift.shifted, shift.models) == ("imagenet-r", 0.9, 0.7, 2)
    assert (shift.expected, shift.effective) == pytest.approx((0.6, 0.1))
    assert shifts({"imagenet-r": 0.7}, columns, table) == []
    assert shifts({"imagenet": 0.0, "imagenet-r": 0.7}, columns, table) == []
