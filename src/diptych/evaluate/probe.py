"""The linear probe of the paper: logistic regression on features, its penalty chosen on validation data.

Features are the image tower's before the projection (`embed_features`). The strength of the penalty comes
from 96 logarithmic steps of C from 1e-6 to 1e6, eight a decade, of which a search in halves tries 15; then
everything is fitted once more on training and validation data together. C is scikit-learn's; the paper's
λ runs over the same range, which is its own mirror image.

Reads: arrays. Writes: nothing.
Source: Radford et al. 2021, section 3.2 and appendix A.3; scikit-learn 1.9 `LogisticRegression`. We differ:
every fit starts where the next stronger penalty ended; a fit that does not converge is an error.
"""

import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from diptych.core.errors import ArrayError, DataError, UsageError, unknown_name
from diptych.core.records import Metric
from diptych.evaluate.estimator import as_labels, as_table, from_sklearn
from diptych.evaluate.metrics import bootstrap_mean_per_class, mean_per_class, wilson
from diptych.evaluate.metrics_scores import score_ranks, top_k
from diptych.evaluate.ranks import Doubles, Ints

STEPS_PER_DECADE = 8
LOWEST, HIGHEST = -6 * STEPS_PER_DECADE, 6 * STEPS_PER_DECADE
"""C = 10 ** (step / 8): 1e-6 … 1e6 in 96 steps."""

FIRST_STRIDE = 2 * STEPS_PER_DECADE
"""The search begins at 1e-6, 1e-4, …, 1e6."""

PRECISE_CELLS = 1 << 20
"""Tables up to this size are fitted in float64: it costs nothing there."""

Select = Callable[[Doubles, Ints], float]
"""What validation data chooses by: scores (N, C) and labels (N,) in, larger is better."""


class LinearProbe:
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
        from diptych.evaluate.probe_solver import minimise

        table, labels, classes = _checked(X, y)
        problem = _problem(table, labels, len(classes), self)
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
        if not self.__sklearn_is_fitted__():
            what = f"This {type(self).__name__} instance is not fitted yet. Call 'fit' first."
            raise from_sklearn("NotFittedError", UsageError)(what)
        table = as_table(X)
        if table.shape[1] != self.n_features_in_:
            raise ArrayError(
                f"X has {table.shape[1]} features, but {type(self).__name__} is expecting "
                f"{self.n_features_in_} features as input"
            )
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

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:  # noqa: N803
        """Return the share of rows in [0, 1] whose best class is `y`, weighted if there are weights."""
        return float(np.average(self.predict(X) == as_labels(y), weights=sample_weight))

    def get_params(self, deep: bool = True) -> dict[str, Any]:  # noqa: ARG002 — no parameter has parameters
        """Return the constructor's arguments by name."""
        return {name: getattr(self, name) for name in _DEFAULTS}

    def set_params(self, **params: Any) -> "LinearProbe":
        """Set arguments of the constructor.

        Raises:
            UnknownNameError: there is no such argument.
        """
        for name, value in params.items():
            if name not in _DEFAULTS:
                raise unknown_name(f"parameter of {type(self).__name__}", name, _DEFAULTS)
            setattr(self, name, value)
        return self

    def _keep(self, solution: Any, table: NDArray[Any], labels: Ints, classes: NDArray[Any]) -> None:
        """Take over a solution, after checking it in float64."""
        from diptych.evaluate.probe_solver import measure

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
        warnings.warn(from_sklearn("ConvergenceWarning", UserWarning)(str(error)), stacklevel=4)

    def __repr__(self) -> str:
        told = [f"{name}={value!r}" for name, value in self.get_params().items() if value != _DEFAULTS[name]]
        return f"{type(self).__name__}({', '.join(told)})"

    def __sklearn_is_fitted__(self) -> bool:
        """Say whether `fit` was called."""
        return hasattr(self, "coef_")

    def __sklearn_tags__(self) -> Any:
        """Tell scikit-learn what this is."""
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags

        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=True),
            classifier_tags=ClassifierTags(),
            input_tags=InputTags(),
        )


_DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(LinearProbe.__init__).parameters.items()
    if name != "self"
}


@dataclass(frozen=True, slots=True)
class Trial:
    """One strength of the penalty.

    Attributes:
        C: as scikit-learn means it.
        selected_by: what validation data says, larger is better.
        objective: the mean training loss plus penalty.
        gradient_norm: the largest absolute entry of its gradient.
        iterations: steps taken.
        converged: whether the tolerance was reached.
    """

    C: float
    selected_by: float
    objective: float
    gradient_norm: float
    iterations: int
    converged: bool


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What the paper's protocol found.

    Attributes:
        probe: fitted on training and validation data with the chosen C.
        trials: every C that was tried, ascending.
        unreadable: rows of NaN that were left out of training; in validation data they count as wrong.
    """

    probe: LinearProbe
    trials: tuple[Trial, ...]
    unreadable: int


def search(
    features: NDArray[np.floating],
    labels: NDArray[Any],
    val_features: NDArray[np.floating],
    val_labels: NDArray[Any],
    *,
    probe: LinearProbe | None = None,
    select: Select | None = None,
) -> ProbeResult:
    """Choose C on validation data as the paper did, then fit on everything.

    Seven values are two decades apart; then four times the distance is halved, and the neighbours of the best
    value are tried: 15 fits. Of equally good values the strongest penalty is taken.

    Args:
        features: (N, D) of training; a row of NaN is an unreadable picture.
        labels: (N,) any labels.
        val_features: (M, D) of validation.
        val_labels: (M,); one that training does not have is always wrong.
        probe: settings of every fit; its C is not looked at.
        select: what to choose by; top-1 accuracy if None.

    Raises:
        ArrayError: arrays do not fit.
        DataError: the last fit did not converge; those before it say so in their trial.
    """
    probe = probe or LinearProbe()
    trainer = _Trainer(*_readable(features, labels), val_features, np.asarray(val_labels), probe, select)
    for step in range(LOWEST, HIGHEST + 1, FIRST_STRIDE):
        trainer.attempt(step)
    stride = FIRST_STRIDE // 2
    while stride:
        best = trainer.best()
        for step in (best - stride, best + stride):
            if LOWEST <= step <= HIGHEST:
                trainer.attempt(step)
        stride //= 2
    both = np.concatenate([features, val_features]), np.concatenate([labels, val_labels])
    table, names = _readable(*both)
    final = LinearProbe(**{**probe.get_params(), "C": strength(trainer.best())}).fit(table, names)
    trials = tuple(trainer.trials[step] for step in sorted(trainer.trials))
    return ProbeResult(final, trials, len(both[0]) - len(table))


def strength(step: int) -> float:
    """Return C at a step.

    >>> strength(0), strength(-48), round(strength(-4), 3)
    (1.0, 1e-06, 0.316)
    """
    return float(10.0 ** (step / STEPS_PER_DECADE))


def penalty_of(C: float, rows: int, class_count: int) -> float:  # noqa: N803
    """Return the factor of |W|^2 / 2 in the mean loss.

    scikit-learn penalises one vector w for two classes. Two vectors -w / 2 and w / 2 have half its square.
    """
    if not C > 0:
        raise ArrayError("C has to be positive", found=C, expected="more than 0")
    return (2.0 if class_count == 2 else 1.0) / (C * rows)


def probe_metrics(
    probe: LinearProbe, features: NDArray[np.floating], labels: NDArray[Any], *, task: str, seed: int = 0
) -> list[Metric]:
    """Score test data; what a zero-shot classifier reports on the same rows is comparable.

    Args:
        probe: fitted.
        features: (N, D); a row of NaN is an unreadable picture and counts as wrong.
        labels: (N,); one that training did not have is wrong.
        task: the name the metrics carry.
        seed: of the bootstrap behind the interval of the mean per class.

    Returns:
        top1, top5 and mean_per_class in [0, 1] with 95 % intervals.
    """
    ranks = score_ranks(*_scores(probe, features, np.asarray(labels)))
    count = len(ranks)
    found = []
    for k in (1, 5):
        hits = int((ranks < k).sum())
        found.append(Metric(task, f"top{k}", top_k(ranks, k), wilson(hits, count), count))
    names, numbers = np.unique(labels, return_inverse=True)
    mean = mean_per_class(ranks < 1, numbers, len(names))
    interval = bootstrap_mean_per_class(ranks < 1, numbers, len(names), seed=seed)
    return [*found, Metric(task, "mean_per_class", mean, interval, count)]


class _Trainer:
    """Fits one penalty after the other on the same training data, each from the nearest stronger one."""

    def __init__(
        self,
        table: NDArray[Any],
        labels: NDArray[Any],
        val_table: NDArray[Any],
        val_labels: NDArray[Any],
        probe: LinearProbe,
        select: Select | None,
    ) -> None:
        table, self.labels, self.classes = _checked(table, labels)
        self.count, self.probe = len(table), probe
        self.problem = _problem(table, self.labels, len(self.classes), probe)
        self.val = val_table, val_labels
        self.select = select or (lambda scores, right: top_k(score_ranks(scores, right), 1))
        self.trials: dict[int, Trial] = {}
        self._solutions: dict[int, Any] = {}

    def attempt(self, step: int) -> None:
        """Fit with the C of a step, and see what validation data says."""
        from diptych.evaluate.probe_solver import minimise

        stronger = [other for other in self._solutions if other < step]
        start = self._solutions[max(stronger)] if stronger else None
        solution = minimise(
            self.problem,
            penalty_of(strength(step), self.count, len(self.classes)),
            start=None if start is None else (start.coef, start.intercept),
            tolerance=self.probe.tolerance,
            max_iterations=self.probe.max_iterations,
        )
        self._solutions[step] = solution
        candidate = LinearProbe(strength(step))
        candidate.coef_, candidate.intercept_ = solution.coef, solution.intercept
        candidate.classes_ = self.classes
        self.trials[step] = Trial(
            strength(step),
            self.select(*_scores(candidate, *self.val)),
            solution.objective,
            solution.gradient_norm,
            solution.iterations,
            solution.converged,
        )

    def best(self) -> int:
        """Return the best step so far, the lowest of equals."""
        return max(sorted(self.trials), key=lambda step: self.trials[step].selected_by)


def _scores(probe: LinearProbe, features: NDArray[np.floating], labels: NDArray[Any]) -> tuple[Doubles, Ints]:
    """Return scores (N, C + 1) and labels by number; class C is every label the probe does not know."""
    logits = features.astype(np.float64) @ probe.coef_.T + probe.intercept_
    if logits.shape[1] == 1:
        logits = np.concatenate([-logits / 2, logits / 2], axis=1)
    places = np.searchsorted(probe.classes_, labels)
    known = probe.classes_[np.minimum(places, len(probe.classes_) - 1)] == labels
    logits = np.concatenate([logits, np.full((len(logits), 1), -np.inf)], axis=1)
    logits[np.isnan(logits[:, 0])] = np.nan
    return logits, np.where(known, places, len(probe.classes_))


def _readable(features: NDArray[Any], labels: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    kept = ~np.isnan(features).any(axis=1)
    return features[kept], np.asarray(labels)[kept]


def _checked(X: Any, y: Any) -> tuple[NDArray[np.floating], Ints, NDArray[Any]]:  # noqa: N803
    """Return the features, labels by number, and the classes."""
    checked, labels = as_table(X), as_labels(y)
    if len(checked) != len(labels):
        raise ArrayError(
            "X and y have different lengths", found=f"{len(checked)} rows and {len(labels)} labels"
        )
    classes, numbers = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise ArrayError("a probe needs at least two classes", found=f"{len(classes)} class in y")
    kept: NDArray[np.floating] = X if isinstance(X, np.ndarray) and X.dtype == np.float32 else checked
    return kept, numbers.astype(np.int64), classes


def _problem(table: NDArray[np.floating], labels: Ints, class_count: int, probe: LinearProbe) -> Any:
    import torch

    from diptych.evaluate.probe_solver import Problem

    small = table.size <= PRECISE_CELLS and not probe.device.startswith("mps")
    dtype = torch.float64 if small else torch.float32
    return Problem(
        table, labels, class_count, fit_intercept=probe.fit_intercept, device=probe.device, dtype=dtype
    )
