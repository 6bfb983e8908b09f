"""Intervals and tests against scipy, and against their own promise: to cover the truth."""

import math

import numpy as np
import pytest
from scipy import stats

from diptych.evaluate.metrics import intervals as ours
from diptych.evaluate.metrics.classification import mean_per_class


def test_clopper_pearson_equals_scipy() -> None:
    rng = np.random.default_rng(0)
    cases = [(0, 1), (1, 1), (0, 50_000), (50_000, 50_000), (31_234, 50_000), (1, 50_000)]
    cases += [(int(rng.integers(0, n + 1)), int(n)) for n in rng.integers(1, 3000, size=200)]
    for hits, count in cases:
        theirs = stats.binomtest(hits, count).proportion_ci(0.95, method="exact")
        assert ours.clopper_pearson(hits, count) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert ours.clopper_pearson(0, 0) is None


def test_mcnemar_equals_the_exact_binomial_test() -> None:
    for case in range(200):
        rng = np.random.default_rng(case)
        count = int(rng.integers(1, 300))
        before, after = rng.random(count) < 0.6, rng.random(count) < rng.uniform(0.4, 0.8)
        won, lost = int((after & ~before).sum()), int((before & ~after).sum())
        expected = stats.binomtest(won, won + lost).pvalue if won + lost else 1.0
        assert ours.mcnemar(before, after) == pytest.approx(expected, abs=1e-12)


def test_mcnemar_of_a_large_difference_does_not_overflow() -> None:
    before = np.zeros(20_000, dtype=bool)
    assert ours.mcnemar(before, np.arange(20_000) % 4 > 0) == 0.0
    before[:9_900] = True
    assert ours.mcnemar(before, ~before) == pytest.approx(stats.binomtest(9_900, 20_000).pvalue, rel=1e-9)


def test_bootstrap_covers_the_mean_nineteen_times_in_twenty() -> None:
    rng = np.random.default_rng(5)
    covered = 0
    for case in range(300):
        values = rng.exponential(size=80)
        low, high = ours.bootstrap(lambda rows: float(values[rows].mean()), 80, seed=case, resamples=300)  # noqa: B023
        covered += low <= 1.0 <= high
    assert 0.88 <= covered / 300 <= 0.98


def test_bootstrap_leaves_out_draws_without_a_value() -> None:
    assert ours.bootstrap(lambda rows: math.nan, 5, resamples=10) is None
    assert ours.bootstrap(lambda rows: 1.0, 0) is None
    assert ours.bootstrap(lambda rows: 2.0 if 0 in rows else math.nan, 3, resamples=50) == (2.0, 2.0)


def test_bootstrap_of_the_mean_per_class_agrees_with_resampling_image_by_image() -> None:
    rng = np.random.default_rng(7)
    labels = rng.integers(0, 5, size=300)
    hits = rng.random(300) < 0.2 + 0.15 * labels
    draws = rng.integers(0, 300, size=(2000, 300))
    slow = np.quantile([mean_per_class(hits[draw], labels[draw], 6) for draw in draws], [0.025, 0.975])
    fast = ours.bootstrap_mean_per_class(hits, labels, 6, seed=1)
    assert fast == pytest.approx(tuple(slow), abs=0.008)
    assert fast == ours.bootstrap_mean_per_class(hits, labels, 6, seed=1)


def test_paired_gain_by_hand() -> None:
    """10 images, 4 won, 1 lost: center (5 - 2) / 12, half 1.96 sqrt((7/12 - 1/16) / 12)."""
    before = np.array([0, 0, 0, 0, 1, 1, 1, 1, 0, 0], dtype=bool)
    after = np.array([1, 1, 1, 1, 0, 1, 1, 1, 0, 0], dtype=bool)
    gain, interval = ours.paired_gain(before, after)
    half = 1.959963984540054 * math.sqrt((7 / 12 - 1 / 16) / 12)
    assert gain == pytest.approx(0.3)
    assert interval == pytest.approx((0.25 - half, 0.25 + half), abs=1e-12)


def test_paired_gain_covers_the_truth_nineteen_times_in_twenty() -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(1000):
        chance = rng.random(200)
        before, after = chance < 0.4, (chance < 0.35) | (chance > 0.9)
        _, (low, high) = ours.paired_gain(before, after)
        covered += low <= 0.05 <= high
    assert 0.93 <= covered / 1000 <= 0.98


@pytest.mark.parametrize("continuous", [False, True])
def test_paired_bootstrap_agrees_with_the_normal_theory(continuous: bool) -> None:
    rng = np.random.default_rng(1)
    before = rng.normal(size=400) if continuous else rng.random(400) < 0.5
    after = before + rng.normal(0.1, 1, size=400) if continuous else before ^ (rng.random(400) < 0.2)
    tested = ours.paired_bootstrap(before, after, resamples=4000)
    gains = after.astype(float) - before.astype(float)
    error = gains.std() / 20
    assert tested.gain == pytest.approx(gains.mean(), abs=1e-12)
    low_high = (gains.mean() - 1.96 * error, gains.mean() + 1.96 * error)
    assert tested.interval == pytest.approx(low_high, abs=0.15 * error)
    assert tested.p_value == pytest.approx(2 * stats.norm.sf(abs(gains.mean()) / error), abs=0.04)


def test_paired_bootstrap_of_alike_models() -> None:
    same = ours.paired_bootstrap(np.ones(5), np.ones(5))
    assert (same.gain, same.interval, same.p_value) == (0.0, (0.0, 0.0), 1.0)


def test_nothing_to_count_is_no_interval() -> None:
    none, labels = np.zeros(0, dtype=bool), np.zeros(0, dtype=np.int64)
    assert ours.bootstrap_mean_per_class(none, labels, 3) is None
    gain, interval = ours.paired_gain(none, none)
    assert math.isnan(gain) and interval is None
    assert ours.paired_bootstrap(np.empty(0), np.empty(0)).interval is None
