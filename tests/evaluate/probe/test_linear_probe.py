"""The probe beside scikit-learn's, and the paper's search beside a brute one."""

import warnings

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from sklearn.utils.estimator_checks import check_estimator

from diptych.core.errors import ArrayError, DataError
from diptych.evaluate.probe import linear_probe as probe_module
from diptych.evaluate.probe.linear_probe import LinearProbe, PenaltySearch, Trial, search, strength


def features_of(seed: int, count: int, classes: int, width: int = 12, noise: float = 1.0):
    """Features with very unequal columns that are far from their origin, as towers make them."""
    means = np.random.default_rng(classes).normal(size=(classes, width))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, size=count)
    scale = np.arange(1, width + 1) ** -1.0
    return ((means[labels] + noise * rng.normal(size=(count, width))) * scale + 3).astype(np.float32), labels


def objective(theta: np.ndarray, rows: np.ndarray, labels: np.ndarray, classes: int, c: float) -> float:
    """scikit-learn's documented objective over C times N, written down once more."""
    theta = theta.reshape(classes, -1)
    logits = rows @ theta[:, :-1].T + theta[:, -1]
    top = logits.max(axis=1)
    losses = np.log(np.exp(logits - top[:, None]).sum(axis=1)) + top - logits[np.arange(len(rows)), labels]
    return float(losses.mean() + (theta[:, :-1] ** 2).sum() / (2 * c * len(rows)))


def test_it_is_a_scikit_learn_estimator() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_estimator(LinearProbe(), on_skip=None)


@pytest.mark.parametrize("c", [1e-4, 0.1, 10.0])
@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("precise", [True, False])
def test_coefficients_and_objective_equal_scikit_learn(monkeypatch, c, classes, precise) -> None:
    monkeypatch.setattr(probe_module, "PRECISE_CELLS", 1 << 20 if precise else 0)
    rows, labels = features_of(0, 400, classes)
    theirs = LogisticRegression(C=c, tol=1e-9, max_iter=10_000).fit(rows.astype(np.float64), labels)
    ours = LinearProbe(c, tolerance=1e-6).fit(rows, labels)
    assert ours.gradient_norm_ <= 2e-6
    assert np.abs(ours.predict_proba(rows) - theirs.predict_proba(rows)).max() < 2e-3
    assert ours.coef_.shape == theirs.coef_.shape
    if classes > 2:
        best = objective(np.c_[theirs.coef_, theirs.intercept_].ravel(), rows, labels, classes, c)
        assert best - 1e-9 <= ours.objective_ <= best * 1.001 + 1e-9
        mine = objective(np.c_[ours.coef_, ours.intercept_].ravel(), rows, labels, classes, c)
        assert ours.objective_ == pytest.approx(mine, abs=1e-9)


def test_accuracy_is_within_a_tenth_of_a_point_of_scikit_learn() -> None:
    rows, labels = features_of(0, 1500, 10, noise=1.0)
    test_rows, test_labels = features_of(1, 3000, 10, noise=1.0)
    for c in (1e-3, 0.316, 100.0):
        theirs = LogisticRegression(C=c, max_iter=5000, tol=1e-6).fit(rows, labels)
        ours = LinearProbe(c, tolerance=1e-5).fit(rows, labels)
        assert abs(ours.score(test_rows, test_labels) - theirs.score(test_rows, test_labels)) <= 1e-3


def test_the_end_is_near_the_minimum_even_where_the_penalty_is_weak() -> None:
    rows, labels = features_of(3, 300, 4, width=6, noise=1.5)
    ours = LinearProbe(1e6).fit(rows, labels)
    start = np.c_[ours.coef_, ours.intercept_].ravel()
    theirs = minimize(objective, start, args=(rows.astype(np.float64), labels, 4, 1e6), method="L-BFGS-B")
    assert ours.objective_ <= theirs.fun * 1.003 + 1e-5


def test_without_an_intercept() -> None:
    rows, labels = features_of(0, 300, 3)
    theirs = LogisticRegression(fit_intercept=False, tol=1e-9, max_iter=9000).fit(rows, labels)
    ours = LinearProbe(fit_intercept=False, tolerance=1e-7).fit(rows, labels)
    assert not ours.intercept_.any()
    assert np.abs(ours.predict_proba(rows) - theirs.predict_proba(rows)).max() < 2e-3


def test_a_fit_that_does_not_converge_is_an_error_with_its_gradient() -> None:
    rows, labels = features_of(0, 300, 5)
    with pytest.raises(DataError, match="did not converge") as caught:
        LinearProbe(100.0, max_iterations=2).fit(rows, labels)
    assert "gradient of" in caught.value.found
    with pytest.warns(UserWarning, match="did not converge"):
        lenient = LinearProbe(100.0, max_iterations=2, on_unconverged="warn").fit(rows, labels)
    assert not lenient.converged_
    assert lenient.gradient_norm_ > 1e-4


def test_the_search_tries_what_the_paper_tries() -> None:
    rows, labels = features_of(0, 150, 6, noise=2.0)
    val_rows, val_labels = features_of(1, 400, 6, noise=2.0)
    result = search(rows, labels, val_rows, val_labels)
    steps = [round(np.log10(trial.C) * 8) for trial in result.trials]
    assert len(steps) <= 15
    assert set(range(-48, 49, 16)) <= set(steps)
    assert all(trial.solution.converged for trial in result.trials)
    scores = {}
    for trial in result.trials:
        theirs = LogisticRegression(C=trial.C, tol=1e-8, max_iter=20_000).fit(rows, labels)
        scores[trial.C] = theirs.score(val_rows, val_labels)
        assert trial.accuracy == pytest.approx(scores[trial.C], abs=0.011)
    best = max(result.trials, key=lambda trial: trial.accuracy)
    assert result.probe.C == best.C
    both = LogisticRegression(C=best.C, tol=1e-8, max_iter=20_000)
    both.fit(np.concatenate([rows, val_rows]), np.concatenate([labels, val_labels]))
    assert np.abs(result.probe.predict_proba(rows) - both.predict_proba(rows)).max() < 0.02


def test_the_search_ends_at_eight_steps_a_decade_beside_the_best() -> None:
    wanted = 13  # C = 10 ** (13 / 8)
    rows, labels = features_of(0, 60, 3)
    tried = PenaltySearch(rows, labels, rows, labels, LinearProbe())
    for step in tried.steps():
        tried.trials[step] = Trial(strength(step), -abs(step - wanted), None)
    assert list(tried.trials) == [-48, -32, -16, 0, 16, 32, 48, 8, 24, 12, 20, 10, 14, 11, 13]
    assert tried.best() == wanted


def test_what_cannot_be_fitted_is_refused() -> None:
    rows, labels = features_of(0, 20, 3)
    with pytest.raises(ArrayError, match="two classes"):
        LinearProbe().fit(rows, np.zeros(20))
    with pytest.raises(ArrayError, match="positive"):
        LinearProbe(C=0.0).fit(rows, labels)
