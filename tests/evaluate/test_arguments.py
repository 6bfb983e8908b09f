"""Public functions of evaluation refuse what scikit-learn refuses, and give its value for the rest."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics as theirs
from tests.evaluate.metrics.test_calibration import pairs

from diptych.core.errors import ArrayError, DataError, IntegrityError, UsageError
from diptych.evaluate.metrics import calibration, intervals
from diptych.evaluate.metrics import classification as metrics
from diptych.evaluate.suite import retrieval

SCORES = np.array([0.1, 0.4, 0.4, 0.8, 0.3])
PAIRS: list[tuple[Any, Any]] = [
    (metrics.roc_auc, theirs.roc_auc_score),
    (metrics.average_precision, theirs.average_precision_score),
]
EYE = np.eye(3, dtype=np.float32)


@pytest.mark.parametrize(("ours", "oracle"), PAIRS)
@pytest.mark.parametrize(
    ("scores", "positive"),
    [
        (SCORES, np.array([0, 1, 2, 1, 0])),
        (SCORES, np.array([0.0, 0.5, 1.0, 1.0, 0.0])),
        (np.where(SCORES == 0.8, np.nan, SCORES), np.array([0, 1, 1, 1, 0])),
        (SCORES[:4], np.array([0, 1, 1, 1, 0])),
        (SCORES, np.array(["no", "yes", "maybe", "yes", "no"])),
    ],
    ids=["three classes", "between two classes", "NaN", "another length", "three names"],
)
def test_curves_refuse_what_scikit_learn_refuses(ours: Any, oracle: Any, scores: Any, positive: Any) -> None:
    with pytest.raises(ValueError):
        oracle(positive, scores)
    with pytest.raises(ArrayError):
        ours(scores, positive)


@pytest.mark.parametrize(("ours", "oracle"), PAIRS)
@pytest.mark.parametrize("kind", [list, np.int64, np.float64, np.bool_, torch.tensor])
def test_curves_take_zeros_and_ones_of_any_type(ours: Any, oracle: Any, kind: Any) -> None:
    numbers = [0, 1, 0, 1, 1]
    positive = kind(numbers) if kind in (list, torch.tensor) else np.array(numbers, kind)
    assert ours(SCORES, positive) == pytest.approx(oracle(numbers, SCORES))
    assert ours(SCORES.tolist(), positive) == pytest.approx(oracle(numbers, SCORES))


def test_hits_of_zeros_and_ones_count_like_flags() -> None:
    """As numbers they would pick the rows 0 and 1 again and again."""
    assert metrics.mean_per_class([1, 0, 1, 0], [0, 1, 1, 2], 3) == 0.5  # type: ignore[arg-type]
    gain, _ = intervals.paired_gain([0, 0, 1], [1, 1, 1])  # type: ignore[arg-type]
    assert gain == pytest.approx(2 / 3)


ARRAYS: dict[str, Callable[[], Any]] = {
    "fewer labels than images": lambda: metrics.label_ranks(EYE, np.array([0, 1]), EYE),
    "a label behind the classes": lambda: metrics.label_ranks(EYE, np.array([0, 1, 3]), EYE),
    "a label before the classes": lambda: metrics.label_ranks(EYE, np.array([0, 1, -1]), EYE),
    "names for labels": lambda: metrics.label_ranks(EYE, np.array(["a", "b", "c"]), EYE),
    "labels in a column": lambda: metrics.label_ranks(EYE, np.array([[0], [1], [2]]), EYE),
    "a classifier of another width": lambda: metrics.label_ranks(EYE, np.arange(3), EYE[:, :2]),
    "a classifier of NaN": lambda: metrics.label_ranks(EYE, np.arange(3), EYE * np.float32("nan")),
    "infinite images": lambda: metrics.predictions(np.full((3, 3), np.inf, np.float32), EYE),
    "no classes": lambda: metrics.predictions(EYE, EYE[:0]),
    "one image": lambda: metrics.predictions(EYE[0], EYE),
    "an answer behind the classes": lambda: metrics.confusion_matrix(np.arange(3), np.arange(3) + 1, 3),
    "fewer answers": lambda: metrics.confusion_matrix(np.arange(3), np.arange(1), 3),
    "hits of three kinds": lambda: metrics.mean_per_class(np.arange(3), np.arange(3), 3),  # type: ignore[arg-type]
    "fewer hits": lambda: intervals.bootstrap_mean_per_class(np.ones(2, bool), np.arange(3), 3),
    "classes beyond the count": lambda: metrics.mean_per_class(np.ones(3, bool), np.arange(3), 2),
    "two lengths of hits": lambda: intervals.paired_gain(np.ones(1, bool), np.ones(2, bool)),
    "two lengths of flags": lambda: intervals.mcnemar(np.ones(1, bool), np.ones(2, bool)),
    "NaN in a comparison": lambda: intervals.paired_bootstrap(np.array([np.nan]), np.ones(1)),
    "a row of which one score is NaN": lambda: metrics.score_ranks(
        np.array([[np.nan, 1.0, 2.0]]), np.array([1])
    ),
    "a score's label behind": lambda: metrics.score_ranks(EYE, np.array([0, 1, 3])),
    "truth of other numbers": lambda: metrics.mean_eleven_point_ap(EYE, np.full((3, 3), 2)),
    "truth of another shape": lambda: metrics.mean_eleven_point_ap(EYE, np.ones((2, 3), int)),
    "confidence above one": lambda: metrics.reliability(np.array([1.5]), np.array([True])),
    "confidence of NaN": lambda: metrics.reliability(np.array([np.nan]), np.array([True])),
    "right of three kinds": lambda: metrics.reliability(np.ones(3), np.arange(3)),  # type: ignore[arg-type]
}
COUNTS: dict[str, Callable[[], Any]] = {
    "more hits than trials": lambda: intervals.clopper_pearson(12, 10),
    "hits of NaN": lambda: intervals.clopper_pearson(float("nan"), 10),
    "trials below none": lambda: intervals.clopper_pearson(0, -5),
    "a first of nothing": lambda: metrics.top_k(np.arange(3), 0),
    "no bins": lambda: metrics.reliability(np.ones(1), np.ones(1, bool), bins=0),
    "letters for captions": lambda: retrieval.distinct_texts(["ab", "cd"]),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_that_do_not_fit_are_refused(name: str) -> None:
    with pytest.raises(ArrayError):
        ARRAYS[name]()


@pytest.mark.parametrize("name", COUNTS)
def test_counts_that_are_none_are_refused(name: str) -> None:
    with pytest.raises(UsageError):
        COUNTS[name]()


def test_an_unreadable_image_has_no_p_value() -> None:
    images, texts = pairs(200, seed=3)
    held = calibration.calibrate(images, texts)
    rows = images[:3].copy()
    rows[1] = np.nan
    values = held.p_values(rows, texts[:4])
    assert np.isnan(values).tolist() == [False, True, False]
    assert np.array_equal(values[[0, 2]], held.p_values(images[[0, 2]], texts[:4]))
    assert np.isnan(held.probabilities(rows, texts[:4])[1]).all()


@pytest.mark.parametrize("method", ["p_values", "z_scores", "probabilities"])
def test_a_calibration_takes_unit_rows_of_its_width(method: str) -> None:
    images, texts = pairs(200, seed=3)
    ask = getattr(calibration.calibrate(images, texts), method)
    for one, other in (
        (images * 10, texts),
        (images * 0, texts),
        (images[:, :-1], texts),
        (images[0], texts),
        (images, texts[:0]),
        (images, texts * np.float32("nan")),
    ):
        with pytest.raises(ArrayError):
            ask(one, other)


def test_rates_and_priors_are_fractions() -> None:
    images, texts = pairs(200, seed=3)
    held = calibration.calibrate(images, texts)
    for prior in (0, 1, 2, float("nan"), True, "0.5"):
        with pytest.raises(UsageError):
            held.probabilities(images, texts, prior=prior)  # type: ignore[arg-type]


def test_pairs_that_cannot_be_told_apart_are_not_calibrated_on() -> None:
    images, texts = pairs(200, seed=3)
    one_text, one_image = np.repeat(texts[:1], 200, axis=0), np.repeat(images[:1], 200, axis=0)
    with pytest.raises(DataError, match=r"nearly all the same[\s\S]*1 different texts"):
        calibration.calibrate(images, one_text)
    nearly = one_text.copy()
    nearly[0] = texts[1]
    with pytest.raises(DataError, match="nearly all the same"):
        calibration.calibrate(images, nearly)
    with pytest.raises(DataError, match="of 1 different images"):
        calibration.calibrate(one_image, texts)
    for images_given, texts_given in ((images, texts[:50]), (images * 10, texts), (images, texts[:, :-1])):
        with pytest.raises(ArrayError):
            calibration.calibrate(images_given, texts_given)
    assert np.isfinite(calibration.calibrate(images, texts[np.arange(200) % 2]).weights).all()


def test_a_calibration_file_of_other_arrays_is_refused(tmp_path: Path) -> None:
    images, texts = pairs(200, seed=3)
    held = calibration.calibrate(images, texts)
    for change in ({"weights": np.ones(2)}, {"text_bank": texts[:, :-1]}, {"image_bank": images * np.nan}):
        path = tmp_path / "calibration.npz"
        np.savez(path, **({name: getattr(held, name) for name in calibration._FIELDS} | change))
        with pytest.raises(IntegrityError, match="calibration"):
            calibration.Calibration.load(path)
