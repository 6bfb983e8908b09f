"""Metrics of data sets from outcomes, against scikit-learn and the published codes' formulas."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import average_precision_score, precision_recall_curve

from diptych.evaluate.suite.scoring import TaskLabels, classify, further_metrics, main_metric

EYE = np.eye(2, dtype=np.float32)


def unit_rows(rng: np.random.Generator, count: int) -> np.ndarray:
    rows = rng.normal(size=(count, 6)) + 1
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def eleven_points(positive: np.ndarray, scores: np.ndarray) -> float:
    """VOC's development kit: the best precision from each of eleven recalls on, averaged."""
    precision, recall = (values[:-1] for values in precision_recall_curve(positive, scores)[:2])
    return float(np.mean([precision[recall >= level / 10 - 1e-9].max() for level in range(11)]))


def several(marks: np.ndarray) -> TaskLabels:
    """Labels of images with several classes each, all of them with the first one."""
    count, classes = marks.shape
    return TaskLabels(np.arange(count), tuple(map(str, range(classes))), np.zeros(count, np.int64), marks)


def multilabel(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    marks = rng.choice([-1, 0, 1], size=(40, 5), p=[0.6, 0.1, 0.3])
    marks[:, 0] = 1
    return unit_rows(rng, 40), unit_rows(rng, 5), marks


@pytest.mark.parametrize("seed", range(5))
def test_voc_ranks_class_probabilities(seed: int) -> None:
    """openai/CLIP issue 153: a softmax over the classes gives the paper's 83 %, cosines give 76 %."""
    images, classes, marks = multilabel(seed)
    shares = softmax(20 * images.astype(np.float64) @ classes.T, axis=1)
    outcome = classify(images, several(marks), classes, "map_11pt", probabilities=shares)
    found = main_metric(outcome, "map_11pt", task="voc2007")
    cosines = images.astype(np.float64) @ classes.T.astype(np.float64)
    kept = marks != 0
    expected = [eleven_points(marks[kept[:, c], c] > 0, shares[kept[:, c], c]) for c in range(5)]
    assert found.value == pytest.approx(np.mean(expected), abs=1e-9)
    raw = [eleven_points(marks[kept[:, c], c] > 0, cosines[kept[:, c], c]) for c in range(5)]
    assert abs(found.value - np.mean(raw)) > 1e-3


def test_the_average_precision_of_clip_benchmark_is_that_of_cosines() -> None:
    """Their `voc2007_multilabel` marks difficult objects as present."""
    images, classes, marks = multilabel(3)
    outcome = classify(images, several(marks), classes, "map_11pt")
    named = {found.metric: found.value for found in further_metrics(outcome, task="voc2007")}
    expected = [average_precision_score(marks[:, c] >= 0, images @ classes[c]) for c in range(5)]
    assert named["mean_average_precision"] == pytest.approx(np.mean(expected), abs=1e-9)


def test_an_unreadable_image_is_wrong_in_both_average_precisions() -> None:
    images = np.array([[1, 0], [np.nan, np.nan]], dtype=np.float32)
    marks = np.array([[1, -1], [1, -1]])
    outcome = classify(images, several(marks), EYE, "map_11pt", probabilities=images @ EYE)
    assert main_metric(outcome, "map_11pt", task="t").value == 1.0  # found first, then last of two
    named = {found.metric: found.value for found in further_metrics(outcome, task="t")}
    assert named["mean_average_precision"] == 0.5  # class 1 has no positives and counts as 0
