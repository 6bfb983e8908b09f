"""Solver of multinomial logistic regression with an L2 penalty, on the CPU or a GPU.

The objective is scikit-learn's, divided by C times the number of rows as scikit-learn does inside:

    f(W, b) = mean over rows of -log softmax(x W' + b)[label]  +  |W|^2 / (2 C N)

It is minimized by L-BFGS in coordinates in which it is nearly round, which changes the path and not the goal:

- columns are centered (the intercept, which is not penalized, takes up the mean);
- they are rotated to their principal axes (the penalty does not see a rotation);
- L-BFGS starts each step from the inverse diagonal of the Hessian there, estimated on a few thousand rows.

Source: Radford et al. 2021, section 3.2 and appendix A.3 (L-BFGS, at most 1,000 iterations); Nocedal and
Wright 2006, algorithms 3.5 and 7.4, section 7.2 (the starting matrix); scikit-learn 1.9
`LogisticRegression` (objective, meaning of C, the gradient norm that ends the search).
"""

import math
from collections import deque
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diptych.models.towers.numerics import device_of, linear

MEMORY = 20  # pairs of steps that L-BFGS remembers: 20 pairs of 100 x 513 are 8 MB, more save no steps
DIAGONAL_ROWS = 4096  # behind the Hessian's diagonal: a scale within a few percent is as good as exact
REFRESH = 10  # steps between two estimates of the diagonal: predictions grow sure, and the curvature falls
FLATNESS = 0.5  # a step ends where the slope along it is at most this fraction of the slope at its start
NOISE = 3e-7  # relative rounding of the float32 objective: below it, more or less is not told apart
TRIES = 30  # lengths that are tried along one direction before the search is given up
# The estimated distance to the minimum, as a fraction of the objective or in nats, that ends the search. A
# small gradient alone says little where the penalty is weak and the start was warm.
EXCESS, FLOOR = 1e-3, 1e-5
CHECK_ROWS = 8192  # rows of the float64 check at a time
SMALLEST = 1e-6  # the least entry of the diagonal, as a fraction of its largest


@dataclass(frozen=True, slots=True)
class Solution:
    """Where the search ended: coef (C, D) and intercept (C,), zeros without one; steps taken."""

    coef: NDArray[np.float64]
    intercept: NDArray[np.float64]
    iterations: int
    converged: bool


class Problem:
    """Finite rows (N, D) and labels (N,) in [0, C), prepared once for all strengths of the penalty."""

    def __init__(
        self,
        rows: NDArray[np.floating],
        labels: NDArray[np.int64],
        class_count: int,
        *,
        fit_intercept: bool = True,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.class_count, self.fit_intercept = class_count, fit_intercept
        device = device_of(device)
        self.labels = torch.from_numpy(np.require(labels, requirements=("C", "W"))).to(device)
        given = torch.from_numpy(np.require(rows, requirements=("C", "W"))).to(device, dtype)
        mean = given.mean(0, dtype=torch.float64).to(dtype)
        self.mean = mean if fit_intercept else given.new_zeros(given.shape[1])
        centered = given - self.mean
        self.rotation = torch.linalg.eigh((centered.T @ centered).double())[1].to(dtype)
        self.rows = linear(centered, self.rotation.T.contiguous(), None)
        self.columns = self.rows.T.contiguous()
        # Rows for estimates: evenly spaced, so that the order of the data does not choose them.
        count = min(DIAGONAL_ROWS, len(self.rows))
        self.sample = torch.linspace(0, len(self.rows) - 1, count, device=device).long()

    def logits(self, point: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return (N, C) for a point (C, D + 1) of rotated coordinates."""
        rows = self.rows if rows is None else rows
        return linear(rows, point[:, :-1].contiguous(), point[:, -1].contiguous())

    def loss(self, logits: Tensor) -> tuple[float, Tensor]:
        """Return the mean loss and its derivative (N, C) by the logits (N, C)."""
        logs = logits.log_softmax(1)
        losses = logs.gather(1, self.labels[:, None])[:, 0]
        value = -float(losses.mean(dtype=torch.float64))
        wrong = logs.exp_()
        wrong.scatter_add_(1, self.labels[:, None], wrong.new_full((len(wrong), 1), -1.0))
        wrong /= len(wrong)
        return value, wrong

    def gradient(self, wrong: Tensor, point: Tensor, penalty: float) -> Tensor:
        """Return the gradient (C, D + 1) of f, given the derivative by the logits (N, C)."""
        across = wrong.T.contiguous()
        gradient = torch.empty_like(point)
        gradient[:, :-1] = linear(across, self.columns, None) + penalty * point[:, :-1]
        gradient[:, -1] = across.sum(1) if self.fit_intercept else 0
        return gradient

    def curvature(self, point: Tensor, penalty: float) -> Tensor:
        """Estimate the diagonal (C, D + 1) of the Hessian at a point, from some of the rows."""
        rows = self.rows[self.sample]
        probabilities = self.logits(point, rows).softmax(1)
        spread = (probabilities * (1 - probabilities)).T.contiguous() / len(rows)
        diagonal = torch.empty_like(point)
        diagonal[:, :-1] = spread @ rows.square() + penalty
        diagonal[:, -1] = spread.sum(1)
        # A class that no sampled row is unsure about would get an endless step.
        return diagonal.clamp_min(float(diagonal.max()) * SMALLEST)

    def gradient_norm(self, gradient: Tensor) -> float:
        """Return the largest absolute entry of a gradient, turned back to the given coordinates."""
        turned = gradient[:, :-1] @ self.rotation.T + gradient[:, -1:] * self.mean
        return float(max(turned.abs().max(), gradient[:, -1].abs().max()))

    def point_of(self, coef: NDArray[np.floating], intercept: NDArray[np.floating]) -> Tensor:
        """Return the point (C, D + 1) of coefficients (C, D) and an intercept (C,); undoes `restore`."""
        given, bias = (torch.from_numpy(part).to(self.rows) for part in (coef, intercept))
        return torch.cat([given @ self.rotation, (bias + given @ self.mean)[:, None]], dim=1)

    def restore(self, point: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return coefficients (C, D) and intercept (C,) in the given coordinates."""
        coef = point[:, :-1].double() @ self.rotation.double().T
        intercept = point[:, -1].double() - coef @ self.mean.double()
        return coef.cpu().numpy(), intercept.cpu().numpy()


@dataclass(slots=True)
class _State:
    point: Tensor
    logits: Tensor
    value: float
    gradient: Tensor
    inverse: Tensor
    memory: deque[tuple[Tensor, Tensor, Tensor]] = field(default_factory=lambda: deque(maxlen=MEMORY))

    def direction(self) -> Tensor:
        """Return the step of L-BFGS: minus the estimated inverse Hessian times the gradient."""
        step = self.gradient.neg()
        factors = []
        for change, turn, curvature in reversed(self.memory):
            factor = (change * step).sum() / curvature
            step.sub_(factor * turn)
            factors.append(factor)
        step *= self.inverse
        for (change, turn, curvature), factor in zip(self.memory, reversed(factors), strict=True):
            step.add_(change * (factor - (turn * step).sum() / curvature))
        return step


def minimize(
    problem: Problem,
    penalty: float,
    *,
    start: tuple[NDArray[np.floating], NDArray[np.floating]] | None = None,
    tolerance: float = 1e-4,
    max_iterations: int = 1000,
) -> Solution:
    """Minimize f.

    Args:
        problem: rows and labels.
        penalty: 1 / (C N), the factor of |W|^2 / 2.
        start: coefficients (C, D) and intercept (C,), e.g. where another penalty ended; None: zeros.
        tolerance: the gradient norm to reach, in the given coordinates.
        max_iterations: steps at most.
    """
    zeros = np.zeros((problem.class_count, problem.rows.shape[1])), np.zeros(problem.class_count)
    point = problem.point_of(*(start or zeros))
    logits = problem.logits(point)
    value, wrong = problem.loss(logits)
    value += 0.5 * penalty * _dot(point[:, :-1], point[:, :-1])
    inverse = problem.curvature(point, penalty).reciprocal_()
    state = _State(point, logits, value, problem.gradient(wrong, point, penalty), inverse)
    iterations = 0
    norm = problem.gradient_norm(state.gradient)
    step = state.direction()
    while not (
        done := norm <= tolerance and -0.5 * _dot(state.gradient, step) <= max(EXCESS * state.value, FLOOR)
    ):
        if iterations == max_iterations or not _move(problem, penalty, state, step):
            break
        iterations += 1
        if iterations % REFRESH == 0:
            state.inverse = problem.curvature(state.point, penalty).reciprocal_()
        norm = problem.gradient_norm(state.gradient)
        step = state.direction()
    coef, intercept = problem.restore(state.point)
    return Solution(coef, intercept, iterations, done)


def _move(problem: Problem, penalty: float, state: _State, step: Tensor) -> bool:
    """Go along a step to where it is flat enough; f is convex, so the slope alone says where that is.

    Logits are linear in the point: all lengths are tried with one product. False: no length is better.
    """
    along = problem.logits(step)
    point, weights = state.point, step[:, :-1]
    slope, tolerance = _dot(state.gradient, step), NOISE * abs(state.value)
    size, cross, square = (
        _dot(left, right)
        for left, right in ((point[:, :-1], point[:, :-1]), (point[:, :-1], weights), (weights, weights))
    )
    low, low_slope, high, high_slope, length = 0.0, slope, math.inf, 0.0, 1.0
    for _ in range(TRIES):
        logits = torch.add(state.logits, along, alpha=length)
        value, wrong = problem.loss(logits)
        value += 0.5 * penalty * (size + length * (2 * cross + length * square))
        slope_there = _dot(wrong, along) + penalty * (cross + length * square)
        if abs(slope_there) <= FLATNESS * abs(slope) and value <= state.value + tolerance:
            break
        if slope_there < 0:
            low, low_slope = length, slope_there
        else:
            high, high_slope = length, slope_there
        length = _next_length(low, low_slope, high, high_slope)
    else:
        return False
    change = length * step
    state.point, state.logits, state.value = point + change, logits, value
    gradient = problem.gradient(wrong, state.point, penalty)
    turn = gradient - state.gradient
    curvature = (change * turn).sum()
    if curvature > 0:
        state.memory.append((change, turn, curvature))
    state.gradient = gradient
    return True


def measure(
    rows: NDArray[np.floating],
    labels: NDArray[np.int64],
    coef: NDArray[np.float64],
    intercept: NDArray[np.float64],
    penalty: float,
    *,
    fit_intercept: bool = True,
) -> tuple[float, float]:
    """Return f and the largest absolute entry of its gradient in float64, from the rows as given."""
    value, gradient, bias = 0.0, penalty * coef, np.zeros(len(coef))
    for start in range(0, len(rows), CHECK_ROWS):
        part, right = rows[start : start + CHECK_ROWS].astype(np.float64), labels[start : start + CHECK_ROWS]
        logits = part @ coef.T + intercept
        logits -= logits.max(axis=1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
        cells = np.arange(len(part)), right
        value -= float(logits[cells].sum()) / len(rows)
        wrong = np.exp(logits)
        wrong[cells] -= 1
        gradient += wrong.T @ part / len(rows)
        bias += wrong.sum(axis=0) / len(rows)
    norm = max(float(np.abs(gradient).max()), float(np.abs(bias).max()) if fit_intercept else 0.0)
    return value + 0.5 * penalty * float((coef * coef).sum()), norm


def _next_length(low: float, low_slope: float, high: float, high_slope: float) -> float:
    """Return where the slope should vanish: beyond `low`, or between it and `high`."""
    if math.isinf(high):
        return 2.5 * low
    guess = low + (high - low) * low_slope / (low_slope - high_slope)
    margin = 0.1 * (high - low)
    return min(max(guess, low + margin), high - margin)


def _dot(left: Tensor, right: Tensor) -> float:
    return float((left * right).sum(dtype=torch.float64))
