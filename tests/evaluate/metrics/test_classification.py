"""Metrics against scikit-learn or brute force: random cases with ties, empty classes, unreadable images."""

import math

import numpy as np
import pytest
from sklearn import metrics as theirs

from diptych.evaluate.metrics import classification as ours
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


def pessimistic_ranks(scores: np.ndarray, labels: np.ndarray) -> list[float]:
    """Sort the classes by falling score, the true one last among its equals; find it."""
    ranks = []
    for row, label in zip(scores, labels, strict=True):
        order = sorted(range(len(row)), key=lambda c: (-row[c], c == label))
        ranks.append(math.inf if np.isnan(row).any() else order.index(label))
    return ranks


@pytest.mark.parametrize("chunk_cells", [1, 7, 1 << 22])
def test_ranks_equal_a_pessimistic_sort(monkeypatch: pytest.MonkeyPatch, chunk_cells: int) -> None:
    monkeypatch.setattr(ranks_module, "CHUNK_CELLS", chunk_cells)
    for case in range(CASES):
        images, labels, classifier = classification_case(case)
        scores = images.astype(float) @ classifier.astype(float).T
        brute = pessimistic_ranks(scores, labels)
        for ranks in (ours.label_ranks(images, labels, classifier), ours.score_ranks(scores, labels)):
            for k in (1, 2, 5, 10**6):
                assert [bool(rank < k) for rank in ranks] == [rank < k for rank in brute]
                assert ours.top_k(ranks, k) == pytest.approx(np.mean(np.array(brute) < k), abs=1e-12)


def test_top_k_equals_scikit_learn_where_no_scores_tie() -> None:
    for case in range(CASES):
        rng = np.random.default_rng(case)
        classes = int(rng.integers(3, 12))
        images = rng.normal(size=(30, 4)).astype(np.float32)
        classifier = rng.normal(size=(classes, 4)).astype(np.float32)
        labels = rng.integers(0, classes, size=30)
        ranks = ours.label_ranks(images, labels, classifier)
        for k in (1, 2):
            expected = theirs.top_k_accuracy_score(
                labels, images @ classifier.T, k=k, labels=np.arange(classes)
            )
            assert (ranks < k).mean() == pytest.approx(expected, abs=1e-12)


def test_mean_per_class_and_confusion_equal_scikit_learn() -> None:
    for case in range(CASES):
        images, labels, classifier = classification_case(case)
        predicted = ours.predictions(images, classifier)
        present = np.unique(labels)
        expected = theirs.recall_score(labels, predicted, labels=present, average="macro", zero_division=0)
        mean = ours.mean_per_class(predicted == labels, labels, len(classifier))
        assert mean == pytest.approx(expected, abs=1e-12)
        confusion = ours.confusion_matrix(labels, predicted, len(classifier))
        names = [*range(len(classifier)), -1]
        assert np.array_equal(confusion, theirs.confusion_matrix(labels, predicted, labels=names)[:-1])


def test_a_model_that_scores_everything_alike_is_never_right() -> None:
    images, classifier = np.ones((10, 2), dtype=np.float32), np.ones((4, 2), dtype=np.float32)
    assert (ours.label_ranks(images, np.zeros(10, dtype=np.int64), classifier) == 3).all()


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
    total, precisions = int(positive.sum()), []
    for tenth in range(11):
        best = 0.0
        for threshold in set(scores.tolist()):
            above = scores >= threshold
            hits = int((above & positive).sum())
            if 10 * hits >= tenth * total:
                best = max(best, hits / int(above.sum()))
        precisions.append(best)
    return sum(precisions) / 11


def test_mean_ap_leaves_out_difficult_objects_and_classes_without_positives() -> None:
    for case in range(CASES):
        expected = brute_eleven_points(*binary_case(case))
        assert ours.eleven_point_ap(*binary_case(case)) == pytest.approx(expected, abs=1e-12)
        rng = np.random.default_rng(case)
        scores = rng.integers(0, 9, size=(25, 4)).astype(float)
        labels = rng.choice([-1, 0, 1], size=(25, 4), p=[0.6, 0.2, 0.2])
        labels[:, 3] = np.minimum(labels[:, 3], 0)
        labels[0, :3] = 1
        brute = [
            brute_eleven_points(scores[known, c], labels[known, c] == 1)
            for c, known in enumerate((labels != 0).T[:3])
        ]
        assert ours.mean_eleven_point_ap(scores, labels) == pytest.approx(sum(brute) / 3, abs=1e-12)
    assert np.isnan(ours.mean_eleven_point_ap(scores, -np.ones_like(labels)))


def test_calibration_error_equals_brute_force() -> None:
    for case in range(CASES):
        rng = np.random.default_rng(case)
        count, bins = int(rng.integers(1, 80)), int(rng.integers(1, 20))
        confidence = rng.integers(0, 41, size=count) / 40  # many on the edges of bins
        right = rng.random(count) < confidence
        total = 0.0
        for b in range(bins):
            inside = [b / bins < c <= (b + 1) / bins or (b == 0 and c == 0) for c in confidence]
            total += abs(right[inside].sum() - confidence[inside].sum())
        table = ours.reliability(confidence, right, bins=bins)
        assert table.error == pytest.approx(total / count, abs=1e-12)
        assert table.counts.sum() == count


def test_undefined_is_not_a_number() -> None:
    scores, none = np.arange(3.0), np.zeros(3, dtype=bool)
    for undefined in (
        ours.roc_auc(scores, none),
        ours.roc_auc(scores, ~none),
        ours.average_precision(scores, none),
        ours.eleven_point_ap(scores, none),
        ours.top_k(np.empty(0, np.int64), 1),
        ours.mean_per_class(np.empty(0, bool), np.empty(0, np.int64), 2),
        ours.reliability(np.empty(0), np.empty(0, dtype=bool)).error,
    ):
        assert np.isnan(undefined)
