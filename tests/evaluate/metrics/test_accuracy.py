"""Metrics against brute force over 200 random cases with ties, empty classes, unreadable pictures, shared
captions."""

import math

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from diptych.evaluate.metrics import accuracy as metrics
from diptych.evaluate.metrics import ranks as ranks_module

CASES = 200


def unit_grid(rng: np.random.Generator, rows: int, width: int) -> np.ndarray:
    """Rows with few distinct values whose products are exact in float32, so that ties are real ties."""
    return rng.integers(-2, 3, size=(rows, width)).astype(np.float32)


def classification_case(case: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(case)
    count, classes, width = rng.integers(1, 40), rng.integers(1, 12), rng.integers(1, 5)
    images, classifier = unit_grid(rng, count, width), unit_grid(rng, classes, width)
    labels = rng.integers(0, max(1, classes - rng.integers(0, 3)), size=count)
    if case % 3 == 0:
        images[rng.integers(0, count)] = np.nan
    return images, labels, classifier


def brute_rank(image: np.ndarray, label: int, classifier: np.ndarray) -> float:
    """Sort the classes by falling score, the true one last among its equals; find it."""
    if np.isnan(image).any():
        return math.inf
    scores = [float(np.dot(image.astype(float), row.astype(float))) for row in classifier]
    order = sorted(range(len(scores)), key=lambda c: (-scores[c], c == label))
    return order.index(label)


@pytest.mark.parametrize("chunk_cells", [1, 7, 1 << 22])
def test_label_ranks_equal_a_pessimistic_sort(monkeypatch: pytest.MonkeyPatch, chunk_cells: int) -> None:
    monkeypatch.setattr(ranks_module, "CHUNK_CELLS", chunk_cells)
    for case in range(CASES):
        images, labels, classifier = classification_case(case)
        ranks = metrics.label_ranks(images, labels, classifier)
        brute = [brute_rank(*row, classifier) for row in zip(images, labels, strict=True)]
        for k in (1, 2, 5, 10**6):
            assert [bool(rank < k) for rank in ranks] == [rank < k for rank in brute]


def test_top_k_equals_scikit_learn_where_no_scores_tie() -> None:
    for case in range(CASES):
        rng = np.random.default_rng(case)
        classes = int(rng.integers(3, 12))
        images = rng.normal(size=(30, 4)).astype(np.float32)
        classifier = rng.normal(size=(classes, 4)).astype(np.float32)
        labels = rng.integers(0, classes, size=30)
        ranks = metrics.label_ranks(images, labels, classifier)
        for k in (1, 2):
            theirs = sklearn_metrics.top_k_accuracy_score(
                labels, images @ classifier.T, k=k, labels=np.arange(classes)
            )
            assert (ranks < k).mean() == pytest.approx(theirs, abs=1e-12)


def test_mean_per_class_equals_scikit_learn_with_empty_classes() -> None:
    for case in range(CASES):
        images, labels, classifier = classification_case(case)
        predicted = metrics.predictions(images, classifier)
        hits = predicted == labels
        present = np.unique(labels)
        theirs = sklearn_metrics.recall_score(
            labels, predicted, labels=present, average="macro", zero_division=0
        )
        assert metrics.mean_per_class(hits, labels, len(classifier)) == pytest.approx(theirs, abs=1e-12)
        empty = np.setdiff1d(np.arange(len(classifier)), present)
        assert np.isnan(metrics.class_accuracies(hits, labels, len(classifier))[empty]).all()


def test_confusion_equals_scikit_learn_and_keeps_every_picture() -> None:
    for case in range(CASES):
        images, labels, classifier = classification_case(case)
        predicted = metrics.predictions(images, classifier)
        ours = metrics.confusion_matrix(labels, predicted, len(classifier))
        names = [*range(len(classifier)), -1]
        theirs = sklearn_metrics.confusion_matrix(labels, predicted, labels=names)
        assert np.array_equal(ours, theirs[:-1])
        assert ours.sum() == len(labels)


def test_a_model_that_scores_everything_alike_is_never_right() -> None:
    images, classifier = np.ones((10, 2), dtype=np.float32), np.ones((4, 2), dtype=np.float32)
    labels = np.zeros(10, dtype=np.int64)
    ranks = metrics.label_ranks(images, labels, classifier)
    assert (ranks == 3).all()


def test_bootstrap_agrees_with_resampling_picture_by_picture() -> None:
    rng = np.random.default_rng(7)
    labels = rng.integers(0, 5, size=300)
    hits = rng.random(300) < 0.2 + 0.15 * labels
    means = []
    for _ in range(2000):
        draw = rng.integers(0, 300, size=300)
        means.append(metrics.mean_per_class(hits[draw], labels[draw], 6))
    slow = np.quantile(means, [0.025, 0.975])
    fast = metrics.bootstrap_mean_per_class(hits, labels, 6)
    assert fast == pytest.approx(tuple(slow), abs=0.008)


def test_bootstrap_is_seeded_and_holds_the_mean() -> None:
    labels, hits = np.repeat([0, 1, 2], 40), np.tile([True, False, True, True], 30)
    first = metrics.bootstrap_mean_per_class(hits, labels, 3, seed=1)
    assert first == metrics.bootstrap_mean_per_class(hits, labels, 3, seed=1)
    assert first is not None
    assert first[0] < metrics.mean_per_class(hits, labels, 3) < first[1]


def test_paired_gain_by_hand() -> None:
    """10 pictures, 4 won, 1 lost: centre (5 - 2) / 12, half 1.96 sqrt((7/12 - 1/16) / 12)."""
    before = np.array([0, 0, 0, 0, 1, 1, 1, 1, 0, 0], dtype=bool)
    after = np.array([1, 1, 1, 1, 0, 1, 1, 1, 0, 0], dtype=bool)
    gain, interval = metrics.paired_gain(before, after)
    half = 1.959963984540054 * math.sqrt((7 / 12 - 1 / 16) / 12)
    assert gain == pytest.approx(0.3)
    assert interval == pytest.approx((0.25 - half, 0.25 + half), abs=1e-12)


def test_paired_gain_covers_the_truth_nineteen_times_in_twenty() -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(1000):
        chance = rng.random(200)
        before, after = chance < 0.4, (chance < 0.35) | (chance > 0.9)
        _, interval = metrics.paired_gain(before, after)
        assert interval is not None
        covered += interval[0] <= 0.05 <= interval[1]
    assert 0.93 <= covered / 1000 <= 0.98


def test_nothing_to_count_is_no_interval() -> None:
    none, labels = np.zeros(0, dtype=bool), np.zeros(0, dtype=np.int64)
    assert metrics.bootstrap_mean_per_class(none, labels, 3) is None
    gain, interval = metrics.paired_gain(none, none)
    assert math.isnan(gain)
    assert interval is None
