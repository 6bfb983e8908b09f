"""Few pictures per class: draws, the curve, and where it meets zero-shot."""

import math

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from diptych.core.errors import DataError
from diptych.evaluate.kshot import ShotCurve, draw_shots, k_shot


def blobs(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    means = np.random.default_rng(9).normal(size=(4, 8))
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 4
    return (means[labels] + rng.normal(size=(count, 8))).astype(np.float32), labels


def test_draws_are_seeded_balanced_and_nested() -> None:
    labels = np.array(["b", "a", "b", "a", "a", "b", "a", "c", "c", "c"])
    one, three = (draw_shots(labels, k, seed=1, repeat=0) for k in (1, 3))
    assert labels[three].tolist() == ["a"] * 3 + ["b"] * 3 + ["c"] * 3
    assert len(set(three.tolist())) == 9
    assert set(one.tolist()) <= set(three.tolist())
    assert np.array_equal(three, draw_shots(labels, 3, seed=1, repeat=0))
    draws = {tuple(draw_shots(labels, 1, seed=1, repeat=repeat)) for repeat in range(20)}
    assert len(draws) > 5


def test_each_accuracy_is_scikit_learns_on_the_same_draw() -> None:
    train, test = blobs(0, 200), blobs(1, 400)
    curve = k_shot(train, test, task="t", shots=(4, 1), repeats=3, seed=5)
    assert list(curve.accuracies) == [1, 4]
    for k, found in curve.accuracies.items():
        for repeat in range(3):
            rows = draw_shots(train[1], k, seed=5, repeat=repeat)
            theirs = LogisticRegression(C=0.316, tol=1e-8, max_iter=5000).fit(train[0][rows], train[1][rows])
            assert found[repeat] == pytest.approx(theirs.score(*test), abs=0.006)
    metric = curve.metrics()[1]
    assert (metric.metric, metric.n) == ("probe_top1@4", 400)
    assert metric.ci95 is not None
    assert metric.ci95[0] <= metric.value <= metric.ci95[1]


def test_unreadable_pictures_are_never_drawn_and_count_as_wrong() -> None:
    train, test = blobs(0, 40), blobs(1, 100)
    train[0][:20] = np.nan
    test[0][:50] = np.nan
    curve = k_shot(train, test, task="t", shots=(5,), repeats=2)
    assert curve.accuracies[5].max() <= 0.5
    with pytest.raises(DataError, match="too few"):
        k_shot(train, test, task="t", shots=(6,))


def test_shots_to_match_by_hand() -> None:
    curve = ShotCurve("t", {k: np.array([a]) for k, a in ((1, 0.4), (4, 0.6), (16, 0.8))}, 10)
    assert curve.shots_to_match(0.3) == 1
    assert curve.shots_to_match(0.5) == pytest.approx(2)
    assert curve.shots_to_match(0.8) == pytest.approx(16)
    assert curve.shots_to_match(0.81) == math.inf
