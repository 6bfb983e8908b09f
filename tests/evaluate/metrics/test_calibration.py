"""Calibrated scores: rates hold, probabilities are calibrated, a damaged file is refused."""

from pathlib import Path

import numpy as np
import pytest

from diptych.core.errors import DataError, IntegrityError
from diptych.evaluate.metrics.calibration import Calibration, calibrate

DIMENSIONS = 32


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def pairs(count: int, *, seed: int, noise: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
    """Texts that are noisy copies of their images, in a cone as CLIP's are."""
    rng = np.random.default_rng(seed)
    meaning = rng.normal(size=(count, DIMENSIONS))
    images = meaning + noise * rng.normal(size=meaning.shape) + np.r_[4.0, np.zeros(DIMENSIONS - 1)]
    texts = meaning + noise * rng.normal(size=meaning.shape) + np.r_[0.0, 4.0, np.zeros(DIMENSIONS - 2)]
    return unit(images), unit(texts)


def test_z_scores_are_deviations_over_the_bank() -> None:
    images, texts = pairs(300, seed=1)
    calibration = Calibration(images[:200], texts[:200], np.zeros(3))
    over_bank = images[:200].astype(np.float64) @ texts[250:].astype(np.float64).T
    scores = images[250:].astype(np.float64) @ texts[250:].astype(np.float64).T
    expected = (scores - over_bank.mean(axis=0)) / over_bank.std(axis=0)
    assert np.abs(calibration.z_scores(images[250:], texts[250:]) - expected).max() < 1e-4


def test_probabilities_are_honest_on_pairs_never_seen() -> None:
    """Of pairs that are called 80 % probable about 80 % match: expected calibration error below 0.03."""
    calibration = calibrate(*pairs(3000, seed=2))
    images, texts = pairs(2000, seed=3)
    right = np.diag(calibration.probabilities(images, texts))
    wrong = np.diag(calibration.probabilities(images, np.roll(texts, 1, axis=0)))
    stated = np.r_[right, wrong]
    truth = np.r_[np.ones(2000), np.zeros(2000)]
    bins = np.minimum((stated * 10).astype(int), 9)
    error = sum(
        abs(stated[bins == b].mean() - truth[bins == b].mean()) * (bins == b).mean()
        for b in range(10)
        if (bins == b).any()
    )
    assert error < 0.03
    assert right.mean() > 0.8


def test_a_prior_moves_the_odds_by_itself() -> None:
    calibration = calibrate(*pairs(500, seed=4))
    images, texts = pairs(20, seed=5)
    even = calibration.probabilities(images, texts)
    rare = calibration.probabilities(images, texts, prior=0.01)
    odds, fewer = even / (1 - even), rare / (1 - rare)
    assert fewer == pytest.approx(odds * (0.01 / 0.99), rel=1e-6)


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.2])
def test_unknown_pictures_pass_at_the_stated_rate(rate: float) -> None:
    """Conformal p-values: three deviations of a binomial above the rate would be a mistake."""
    calibration = calibrate(*pairs(4000, seed=6))
    classes = unit(np.random.default_rng(7).normal(size=(40, DIMENSIONS)))
    unknown, _ = pairs(4000, seed=13)
    passed = (calibration.p_values(unknown, classes) <= rate).mean()
    assert abs(passed - rate) < 3 * np.sqrt(rate * (1 - rate) * (1 / 4000 + 1 / 1000))


def test_a_calibration_is_saved_and_loaded(tmp_path: Path) -> None:
    calibration = calibrate(*pairs(100, seed=11))
    calibration.save(tmp_path / "calibration.npz")
    again = Calibration.load(tmp_path / "calibration.npz")
    assert all(
        np.array_equal(getattr(again, name), getattr(calibration, name)) for name in Calibration.__slots__
    )
    arrays = {name: getattr(calibration, name) for name in Calibration.__slots__}
    np.savez(tmp_path / "old.npz", picture_bank=arrays.pop("image_bank"), **arrays)
    assert np.array_equal(Calibration.load(tmp_path / "old.npz").image_bank, calibration.image_bank)
    data = (tmp_path / "calibration.npz").read_bytes()
    (tmp_path / "calibration.npz").write_bytes(data[: len(data) // 2])
    with pytest.raises(IntegrityError, match="diptych calibrate"):
        Calibration.load(tmp_path / "calibration.npz")


def test_unreadable_pictures_are_left_out_and_too_few_refused() -> None:
    images, texts = pairs(60, seed=12)
    images[::2] = np.nan
    assert np.isfinite(calibrate(images, texts).weights).all()
    with pytest.raises(DataError, match="too few images"):
        calibrate(images[:30], texts[:30])
