"""Metrics of score tables against scikit-learn or brute force, 200 random cases each, ties included."""

import numpy as np
import pytest
from sklearn import metrics as theirs

from diptych.evaluate.metrics import scores as ours

CASES = 200


def binary_case(case: int) -> tuple[np.ndarray, np.ndarray]:
    """Few distinct scores, so that most of them tie; sometimes continuous ones; at least one of each kind."""
    rng = np.random.default_rng(case)
    count = int(rng.integers(2, 60))
    scores = rng.normal(size=count) if case % 4 == 0 else rng.integers(0, 6, size=count) / 7
    positive = rng.random(count) < rng.uniform(0.05, 0.95)
    positive[0], positive[1] = True, False
    return scores, positive


@pytest.mark.parametrize(
    ("mine", "reference"),
    [(ours.roc_auc, theirs.roc_auc_score), (ours.average_precision, theirs.average_precision_score)],
)
def test_ranking_metrics_equal_scikit_learn(mine, reference) -> None:
    for case in range(CASES):
        scores, positive = binary_case(case)
        assert mine(scores, positive) == pytest.approx(reference(positive, scores), abs=1e-12)
        order = np.random.default_rng(case).permutation(len(scores))
        assert mine(scores[order], positive[order]) == mine(scores, positive)


def brute_eleven_points(scores: np.ndarray, positive: np.ndarray) -> float:
    total, found = int(positive.sum()), []
    for tenth in range(11):
        best = 0.0
        for threshold in set(scores.tolist()):
            taken = scores >= threshold
            hits = int((taken & positive).sum())
            if 10 * hits >= tenth * total:
                best = max(best, hits / int(taken.sum()))
        found.append(best)
    return sum(found) / 11


def test_eleven_point_ap_equals_brute_force() -> None:
    for case in range(CASES):
        scores, positive = binary_case(case)
        assert ours.eleven_point_ap(scores, positive) == pytest.approx(
            brute_eleven_points(scores, positive), abs=1e-12
        )


def test_mean_ap_leaves_out_difficult_objects_and_classes_without_positives() -> None:
    for case in range(CASES):
        rng = np.random.default_rng(case)
        scores = rng.integers(0, 9, size=(25, 4)).astype(float)
        truth = rng.choice([-1, 0, 1], size=(25, 4), p=[0.6, 0.2, 0.2])
        truth[:, 3] = np.minimum(truth[:, 3], 0)
        truth[0, :3] = 1
        brute = []
        for c in range(3):
            rows = [row for row in range(25) if truth[row, c] != 0]
            brute.append(brute_eleven_points(scores[rows, c], truth[rows, c] == 1))
        assert ours.mean_eleven_point_ap(scores, truth) == pytest.approx(sum(brute) / 3, abs=1e-12)
    assert np.isnan(ours.mean_eleven_point_ap(scores, -np.ones_like(truth)))


def test_top_k_of_scores_equals_a_pessimistic_sort() -> None:
    for case in range(CASES):
        rng = np.random.default_rng(case)
        count, classes = (int(number) for number in rng.integers(1, 20, size=2))
        scores = rng.integers(0, 4, size=(count, classes)).astype(float)
        labels = rng.integers(0, classes, size=count)
        if case % 3 == 0:
            scores[0] = np.nan
        places = []
        for row, label in zip(scores, labels, strict=True):
            order = sorted(range(classes), key=lambda c: (-row[c], c == label))
            places.append(np.inf if np.isnan(row).any() else order.index(label))
        ranks = ours.score_ranks(scores, labels)
        tops = [sum(place < k for place in places) / count for k in (1, 5)]
        assert [ours.top_k(ranks, 1), ours.top_k(ranks, 5)] == pytest.approx(tops, abs=1e-12)
        assert ours.mean_top1_top5(ranks) == pytest.approx(sum(tops) / 2, abs=1e-12)


def test_calibration_error_equals_brute_force() -> None:
    for case in range(CASES):
        rng = np.random.default_rng(case)
        count, bins = int(rng.integers(1, 80)), int(rng.integers(1, 20))
        confidence = rng.integers(0, 41, size=count) / 40  # many on the edges of bins
        right = rng.random(count) < confidence
        total = 0.0
        for b in range(bins):
            low, high = b / bins, (b + 1) / bins
            inside = [low < c <= high or (b == 0 and c == 0) for c in confidence]
            if any(inside):
                total += abs(right[inside].sum() - confidence[inside].sum())
        found = ours.reliability(confidence, right, bins=bins)
        assert found.error == pytest.approx(total / count, abs=1e-12)
        assert found.counts.sum() == count


def test_undefined_is_not_a_number() -> None:
    scores, none = np.arange(3.0), np.zeros(3, dtype=bool)
    for undefined in (
        ours.roc_auc(scores, none),
        ours.roc_auc(scores, ~none),
        ours.average_precision(scores, none),
        ours.eleven_point_ap(scores, none),
        ours.top_k(np.empty(0, np.int64), 1),
        ours.reliability(np.empty(0), np.empty(0, dtype=bool)).error,
    ):
        assert np.isnan(undefined)
