"""Few pictures per class: which are drawn, and that the probe on them is scikit-learn's."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from diptych.evaluate.probe.linear_probe import LinearProbe
from diptych.evaluate.suite.few_shot import FEW_SHOT_C, draw_shots, probe_predictions
from diptych.evaluate.suite.scoring import TaskLabels


def blobs(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    means = np.random.default_rng(9).normal(size=(4, 8))
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 4
    return (means[labels] + rng.normal(size=(count, 8))).astype(np.float32), labels


def test_draws_are_seeded_balanced_nested_and_readable() -> None:
    labels = np.array([1, 0, 1, 0, 0, 1, 0, 2, 2, 2])
    readable = np.arange(10) != 4
    one, three = (draw_shots(labels, readable, shots, 0) for shots in (1, 3))
    assert np.bincount(labels[three]).tolist() == [3, 3, 3] and 4 not in three
    assert set(one.tolist()) <= set(three.tolist())
    assert np.array_equal(three, draw_shots(labels, readable, 3, 0))
    assert len({tuple(draw_shots(labels, readable, 1, draw)) for draw in range(20)}) > 5
    assert np.bincount(labels[draw_shots(labels, readable, 9, 0)]).tolist() == [3, 3, 3]  # what a class has


@pytest.mark.parametrize("shots", [1, 4])
def test_accuracy_is_scikit_learns_on_the_same_draw(shots: int) -> None:
    (train, labels), (test, right) = blobs(0, 200), blobs(1, 400)
    test[:20] = np.nan  # unreadable: never right
    for draw in range(3):
        rows = draw_shots(labels, np.ones(200, bool), shots, draw)
        fitted = LinearProbe(FEW_SHOT_C).fit(train[rows], labels[rows])
        ours = probe_predictions(fitted, test, TaskLabels(np.arange(400), tuple("abcd"), right))
        theirs = LogisticRegression(C=FEW_SHOT_C, tol=1e-8, max_iter=5000).fit(train[rows], labels[rows])
        expected = (theirs.predict(test[20:]) == right[20:]).sum()
        assert ours.hits.sum() == pytest.approx(expected, abs=2) and not ours.hits[:20].any()
