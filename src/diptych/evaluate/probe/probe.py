"""Logistic regression on features, with scikit-learn's face and objective.

Reads: arrays. Writes: nothing.
Source: Radford et al. 2021, section 3.2 and appendix A.3; scikit-learn 1.9 `LogisticRegression`. We differ: a
fit that does not converge is an error.
"""

import warnings
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from diptych.core import checks
from diptych.core.checks import Doubles, Ints
from diptych.core.errors import ArrayError, DataError, unknown_name
from diptych.evaluate.sklearn_base import Classifier, ConvergenceWarning, as_labels

PRECISE_CELLS = 1 << 20
"""Tables up to this size are fitted in float64: it costs nothing there."""


class LinearProbe(Classifier):
    """Multinomial logistic regression with scikit-learn's face, objective and C, solved faster.

    Args:
        C: inverse strength of the penalty: C times the summed loss plus half the squared coefficients.
        fit_intercept: whether there is an intercept; it is not penalised.
        tolerance: the largest entry of the gradient of the mean loss at which the fit ends.
        max_iterations: steps at most.
        on_unconverged: what a fit does that has not reached the tolerance then: "raise" or "warn".
        device: where to compute.

    Attributes:
        classes_: (C,) labels, sorted.
        coef_: (C, D) float64; (1, D) of two classes, as in scikit-learn.
        intercept_: (C,) float64; (1,) of two classes.
        objective_: the mean loss plus |coef|^2 / (2 C N), in float64.
        gradient_norm_: the largest absolute entry of its gradient, in float64.
        n_iter_: steps taken.
        converged_: whether the tolerance was reached.
        n_features_in_: D.
        feature_names_in_: the names of the columns, where X was a table with names.

    >>> LinearProbe(C=0.316)
    LinearProbe(C=0.316)
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
        """Fit the coefficients.

        Args:
            X: (N, D) features.
            y: (N,) labels, at least two different ones.

        Raises:
            ArrayError: X and y do not fit, or there is one class only.
            DataError: the fit did not converge.
        """
        from diptych.evaluate.probe.solver import minimise

        if self.on_unconverged not in ("raise", "warn"):
            raise unknown_name("on_unconverged", str(self.on_unconverged), ("raise", "warn"))
        checks.whole(self.max_iterations, "max_iterations", least=0)
        table, labels, classes = checked(self._table(X, fitting=True), y)
        problem = prepared(table, labels, len(classes), self)
        solution = minimise(
            problem,
            penalty_of(self.C, len(table), len(classes)),
            tolerance=self.tolerance,
            max_iterations=self.max_iterations,
        )
        self._keep(solution, table, labels, classes)
        return self

    def decision_function(self, X: Any) -> Doubles:  # noqa: N803
        """Return the logits (N, C); of two classes (N,), above 0 for the second."""
        self._require_fitted()
        table = self._table(X)
        logits: Doubles = table @ self.coef_.T + self.intercept_
        return logits[:, 0] if len(self.classes_) == 2 else logits

    def predict_proba(self, X: Any) -> Doubles:  # noqa: N803
        """Return the shares (N, C) of the classes."""
        logits = self.decision_function(X)
        if logits.ndim == 1:
            logits = np.stack([-logits / 2, logits / 2], axis=1)
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        found: Doubles = shares / shares.sum(axis=1, keepdims=True)
        return found

    def predict(self, X: Any) -> NDArray[Any]:  # noqa: N803
        """Return the best class (N,) of each row; of equal ones, the first."""
        logits = self.decision_function(X)
        best = (logits > 0).astype(np.int64) if logits.ndim == 1 else logits.argmax(axis=1)
        found: NDArray[Any] = self.classes_[best]
        return found

    def _keep(self, solution: Any, table: NDArray[Any], labels: Ints, classes: NDArray[Any]) -> None:
        """Take over a solution, after checking it in float64."""
        from diptych.evaluate.probe.solver import measure

        penalty = penalty_of(self.C, len(table), len(classes))
        coef, intercept = solution.coef, solution.intercept
        self.objective_, self.gradient_norm_ = measure(
            table, labels, coef, intercept, penalty, fit_intercept=self.fit_intercept
        )
        self.converged_ = bool(solution.converged and self.gradient_norm_ <= 2 * self.tolerance)
        self.n_iter_, self.n_features_in_, self.classes_ = solution.iterations, table.shape[1], classes
        if len(classes) == 2:
            coef, intercept = coef[1:] - coef[:1], intercept[1:] - intercept[:1]
        self.coef_, self.intercept_ = coef, intercept
        if not self.converged_:
            self._complain()

    def _complain(self) -> None:
        error = DataError(
            "the probe did not converge",
            where=f"C = {self.C:g}, after {self.n_iter_} of {self.max_iterations} steps",
            found=f"a gradient of {self.gradient_norm_:.2e}",
            expected=f"at most {self.tolerance:g}",
            fix="scale the features, allow more iterations, or a stronger penalty (a smaller C)",
        )
        if self.on_unconverged == "raise":
            raise error
        warnings.warn(ConvergenceWarning(str(error)), stacklevel=4)


def penalty_of(C: float, rows: int, class_count: int) -> float:  # noqa: N803
    """Return the factor of |W|^2 / 2 in the mean loss.

    scikit-learn penalises one vector w for two classes. Two vectors -w / 2 and w / 2 have half its square.
    """
    if not isinstance(C, int | float) or not C > 0:
        raise ArrayError("C has to be positive", found=C, expected="more than 0")
    return (2.0 if class_count == 2 else 1.0) / (C * rows)


def checked(X: Any, y: Any) -> tuple[NDArray[np.floating], Ints, NDArray[Any]]:  # noqa: N803
    """Return the features, labels by number, and the classes."""
    checked, labels = checks.rows(X, "X", least=1), as_labels(y)
    checks.same_length(labels, "y", len(checked))
    classes, numbers = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise ArrayError("a probe needs at least two classes", found=f"{len(classes)} class in y")
    return checked, numbers.astype(np.int64), classes


def prepared(table: NDArray[np.floating], labels: Ints, class_count: int, probe: LinearProbe) -> Any:
    """Return the `Problem` of a table: in float64 where that costs nothing, else in float32."""
    import torch

    from diptych.evaluate.probe.solver import Problem

    small = table.size <= PRECISE_CELLS and not probe.device.startswith("mps")
    dtype = torch.float64 if small else torch.float32
    return Problem(
        table, labels, class_count, fit_intercept=probe.fit_intercept, device=probe.device, dtype=dtype
    )
