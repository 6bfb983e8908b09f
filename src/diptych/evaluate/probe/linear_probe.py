"""Linear probe: logistic regression on features with scikit-learn's interface, and the paper's search for C.

C, scikit-learn's, comes from 96 logarithmic steps from 1e-6 to 1e6 (which is its own mirror image: the
paper's λ runs over it too), of which a search in halves tries 15 on validation data. We differ: a fit that
does not converge is an error, and every fit of a search starts where the next stronger penalty ended.

Source: Radford et al. 2021, section 3.2 and appendix A.3; scikit-learn 1.9 `LogisticRegression`.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from diptych.core import checks
from diptych.core.checks import Doubles, Ints
from diptych.core.errors import ArrayError, DataError, unknown_name
from diptych.evaluate.metrics.classification import score_ranks, top_k
from diptych.evaluate.probe.solver import Problem, Solution, measure, minimize
from diptych.evaluate.sklearn_base import Classifier, ConvergenceWarning, as_labels

PRECISE_CELLS = 1 << 20  # tables up to this size are fitted in float64: it costs nothing there
STEPS_PER_DECADE = 8  # C = 10 ** (step / 8): 1e-6 … 1e6 in 96 steps
LOWEST, HIGHEST = -6 * STEPS_PER_DECADE, 6 * STEPS_PER_DECADE
FIRST_STRIDE = 2 * STEPS_PER_DECADE  # the search begins at 1e-6, 1e-4, …, 1e6


class LinearProbe(Classifier):
    """Multinomial logistic regression with scikit-learn's interface, objective and C, solved faster.

    Args:
        C: inverse strength of the penalty: C times the summed loss plus half the squared coefficients.
        fit_intercept: whether there is an intercept; it is not penalized.
        tolerance: the largest entry of the gradient of the mean loss at which the fit ends.
        max_iterations: steps at most.
        on_unconverged: what a fit does that has not reached the tolerance then: "raise" or "warn".
        device: where to compute.

    Attributes:
        objective_: the mean loss plus |coef|^2 / (2 C N), in float64.
        gradient_norm_: the largest absolute entry of its gradient, in float64.
    """

    def __init__(
        self,
        C: float = 1.0,  # noqa: N803 — scikit-learn's name
        *,
        fit_intercept: bool = True,
        tolerance: float = 1e-4,
        max_iterations: int = 1000,
        on_unconverged: Literal["raise", "warn"] = "raise",
        device: str = "cpu",
    ) -> None:
        self.C = C
        self.fit_intercept = fit_intercept
        self.tolerance = tolerance
        self.max_iterations = max_iterations
        self.on_unconverged = on_unconverged
        self.device = device

    def fit(self, X: Any, y: Any = None) -> "LinearProbe":  # noqa: N803
        """Fit to features X (N, D) and labels y (N,); a fit that does not converge is a DataError."""
        if self.on_unconverged not in ("raise", "warn"):
            raise unknown_name("on_unconverged", str(self.on_unconverged), ("raise", "warn"))
        checks.whole(self.max_iterations, "max_iterations", least=0)
        table, labels, self.classes_ = _labeled_rows(self._table(X, fitting=True), y)
        penalty = _penalty(self.C, len(table), len(self.classes_))
        problem = self.problem(table, labels, len(self.classes_))
        solution = minimize(problem, penalty, tolerance=self.tolerance, max_iterations=self.max_iterations)
        coef, intercept, self.n_iter_ = solution.coef, solution.intercept, solution.iterations
        # The solution is checked in float64, from the rows as given.
        self.objective_, self.gradient_norm_ = measure(
            table, labels, coef, intercept, penalty, fit_intercept=self.fit_intercept
        )
        self.converged_ = bool(solution.converged and self.gradient_norm_ <= 2 * self.tolerance)
        if len(self.classes_) == 2:
            coef, intercept = coef[1:] - coef[:1], intercept[1:] - intercept[:1]
        self.coef_, self.intercept_ = coef, intercept
        if not self.converged_:
            error = DataError(
                "the probe did not converge",
                where=f"C = {self.C:g}, after {self.n_iter_} of {self.max_iterations} steps",
                found=f"a gradient of {self.gradient_norm_:.2e}",
                expected=f"at most {self.tolerance:g}",
                fix="scale the features, allow more iterations, or a stronger penalty (a smaller C)",
            )
            if self.on_unconverged == "raise":
                raise error
            warnings.warn(ConvergenceWarning(str(error)), stacklevel=2)
        return self

    def decision_function(self, X: Any) -> Doubles:  # noqa: N803
        """Return the logits (N, C); of two classes (N,), above 0 for the second."""
        self._require_fitted()
        logits: Doubles = self._table(X) @ self.coef_.T + self.intercept_
        return logits[:, 0] if len(self.classes_) == 2 else logits

    def predict_proba(self, X: Any) -> Doubles:  # noqa: N803
        """Return the probabilities (N, C) of the classes."""
        logits = self.decision_function(X)
        if logits.ndim == 1:
            logits = np.stack([-logits / 2, logits / 2], axis=1)
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities: Doubles = odds / odds.sum(axis=1, keepdims=True)
        return probabilities

    def predict(self, X: Any) -> NDArray[Any]:  # noqa: N803
        """Return the best class (N,) of each row; of equal ones, the first."""
        logits = self.decision_function(X)
        best = (logits > 0).astype(np.int64) if logits.ndim == 1 else logits.argmax(axis=1)
        classes: NDArray[Any] = self.classes_[best]
        return classes

    def problem(self, table: NDArray[np.floating], labels: Ints, class_count: int) -> Problem:
        """Prepare the rows (N, D): in float64 where that costs nothing, else in float32."""
        small = table.size <= PRECISE_CELLS and not self.device.startswith("mps")
        dtype = torch.float64 if small else torch.float32
        return Problem(
            table, labels, class_count, fit_intercept=self.fit_intercept, device=self.device, dtype=dtype
        )


@dataclass(frozen=True, slots=True)
class Trial:
    """One strength of the penalty: top-1 accuracy on validation data, and where the fit ended."""

    C: float
    accuracy: float
    solution: Solution


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """The final probe, every C that was tried, ascending, and rows of NaN that the fit left out."""

    probe: LinearProbe
    trials: tuple[Trial, ...]
    unreadable: int


def search(
    features: NDArray[np.floating],
    labels: NDArray[Any],
    val_features: NDArray[np.floating],
    val_labels: NDArray[Any],
) -> ProbeResult:
    """Choose C by the accuracy on validation data as the paper did, then fit on everything.

    Features are (N, D), a row of NaN is an unreadable image, in validation counted as wrong; a validation
    label that training does not have is always wrong. Only the last fit has to converge.
    """
    penalties = PenaltySearch(features, labels, val_features, val_labels, LinearProbe())
    for step in penalties.steps():
        penalties.attempt(step)
    features, labels = np.concatenate([features, val_features]), np.concatenate([labels, val_labels])
    readable = ~np.isnan(features).any(axis=1)
    final = LinearProbe(strength(penalties.best())).fit(features[readable], labels[readable])
    trials = tuple(penalties.trials[step] for step in sorted(penalties.trials))
    return ProbeResult(final, trials, int((~readable).sum()))


def strength(step: int) -> float:
    """Return C at a step."""
    return float(10.0 ** (step / STEPS_PER_DECADE))


class PenaltySearch:
    """Fits with one penalty after the other on the same training data, each from the nearest stronger one.

    Seven values are two decades apart; then four times the distance is halved, and the neighbors of the best
    value are tried: 15 fits, with the settings of `probe`. Of equally good values the strongest penalty is
    taken.
    """

    def __init__(
        self,
        features: NDArray[np.floating],
        labels: NDArray[Any],
        val_features: NDArray[np.floating],
        val_labels: NDArray[Any],
        probe: LinearProbe,
    ) -> None:
        readable = ~np.isnan(features).any(axis=1)
        table, numbers, self.classes = _labeled_rows(features[readable], np.asarray(labels)[readable])
        self.count, self.probe = len(table), probe
        self.problem = probe.problem(table, numbers, len(self.classes))
        self.val_features = val_features.astype(np.float64)
        nearest = np.searchsorted(self.classes, val_labels)
        known = self.classes[np.minimum(nearest, len(self.classes) - 1)] == val_labels
        self.val_labels = np.where(known, nearest, len(self.classes))  # one more class for unknown labels
        self.trials: dict[int, Trial] = {}

    def steps(self) -> Iterator[int]:
        """Yield what to attempt next, given what was attempted so far."""
        yield from range(LOWEST, HIGHEST + 1, FIRST_STRIDE)
        stride = FIRST_STRIDE // 2
        while stride:
            best = self.best()
            yield from (step for step in (best - stride, best + stride) if LOWEST <= step <= HIGHEST)
            stride //= 2

    def attempt(self, step: int) -> None:
        """Fit with the C of a step, and score it on validation data."""
        stronger = [other for other in self.trials if other < step]
        start = self.trials[max(stronger)].solution if stronger else None
        solution = minimize(
            self.problem,
            _penalty(strength(step), self.count, len(self.classes)),
            start=None if start is None else (start.coef, start.intercept),
            tolerance=self.probe.tolerance,
            max_iterations=self.probe.max_iterations,
        )
        logits = self.val_features @ solution.coef.T + solution.intercept
        never = np.where(np.isnan(logits[:, :1]), np.nan, -np.inf)
        ranks = score_ranks(np.concatenate([logits, never], axis=1), self.val_labels)
        self.trials[step] = Trial(strength(step), top_k(ranks, 1), solution)

    def best(self) -> int:
        """Return the best step so far, the lowest of equals."""
        return max(sorted(self.trials), key=lambda step: self.trials[step].accuracy)


def _penalty(C: float, rows: int, class_count: int) -> float:  # noqa: N803
    """Return the factor of |W|^2 / 2 in the mean loss.

    scikit-learn penalizes one vector w for two classes. Two vectors -w / 2 and w / 2 have half its square.
    """
    if not isinstance(C, int | float) or not C > 0:
        raise ArrayError("C has to be positive", found=C, expected="more than 0")
    return (2.0 if class_count == 2 else 1.0) / (C * rows)


def _labeled_rows(X: Any, y: Any) -> tuple[NDArray[np.floating], Ints, NDArray[Any]]:  # noqa: N803
    """Return the features, labels by number, and the classes."""
    table, labels = checks.rows(X, "X", least=1), as_labels(y)
    checks.same_length(labels, "y", len(table))
    classes, numbers = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise ArrayError("a probe needs at least two classes", found=f"{len(classes)} class in y")
    return table, numbers.astype(np.int64), classes
