"""The paper's protocol for a linear probe: its penalty is chosen on validation data.

Features are the image tower's before the projection. The strength of the penalty comes from 96 logarithmic
steps of C from 1e-6 to 1e6, eight a decade, of which a search in halves tries 15; then everything is fitted
once more on training and validation data together. C is scikit-learn's; the paper's λ runs over the same
range, which is its own mirror image.

Reads: arrays. Writes: nothing.
Source: Radford et al. 2021, section 3.2 and appendix A.3. We differ: every fit starts where the next stronger
penalty ended.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diptych.core.checks import Doubles, Ints
from diptych.evaluate.metrics.classification import score_ranks, top_k
from diptych.evaluate.probe.probe import LinearProbe, checked, penalty_of, prepared

STEPS_PER_DECADE = 8
LOWEST, HIGHEST = -6 * STEPS_PER_DECADE, 6 * STEPS_PER_DECADE
"""C = 10 ** (step / 8): 1e-6 … 1e6 in 96 steps."""

FIRST_STRIDE = 2 * STEPS_PER_DECADE
"""The search begins at 1e-6, 1e-4, …, 1e6."""

Select = Callable[[Doubles, Ints], float]
"""What validation data chooses by: scores (N, C) and labels (N,) in, larger is better."""


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
        features: (N, D) of training; a row of NaN is an unreadable image.
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
    trainer = Trainer(*_readable(features, labels), val_features, np.asarray(val_labels), probe, select)
    for step in trainer.steps():
        trainer.attempt(step)
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


class Trainer:
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
        table, self.labels, self.classes = checked(table, labels)
        self.count, self.probe = len(table), probe
        self.problem = prepared(table, self.labels, len(self.classes), probe)
        self.val = val_table, val_labels
        self.select = select or (lambda scores, right: top_k(score_ranks(scores, right), 1))
        self.trials: dict[int, Trial] = {}
        self.solutions: dict[int, Any] = {}

    def steps(self) -> Iterator[int]:
        """Yield what to attempt next, given what was attempted so far."""
        yield from range(LOWEST, HIGHEST + 1, FIRST_STRIDE)
        stride = FIRST_STRIDE // 2
        while stride:
            best = self.best()
            yield from (step for step in (best - stride, best + stride) if LOWEST <= step <= HIGHEST)
            stride //= 2

    def attempt(self, step: int) -> None:
        """Fit with the C of a step, and see what validation data says."""
        from diptych.evaluate.probe.solver import minimise

        stronger = [other for other in self.solutions if other < step]
        start = self.solutions[max(stronger)] if stronger else None
        solution = minimise(
            self.problem,
            penalty_of(strength(step), self.count, len(self.classes)),
            start=None if start is None else (start.coef, start.intercept),
            tolerance=self.probe.tolerance,
            max_iterations=self.probe.max_iterations,
        )
        self.solutions[step] = solution
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
