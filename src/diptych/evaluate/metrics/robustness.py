"""Tell robustness to natural shift from being better everywhere.

Accuracies of models on a set and on its natural shift lie on a line after the logit transform. A model's
effective robustness is how far above the line of ordinary models it stands; its relative robustness is how
much of the shifted accuracy an intervention adds.

Reads: numbers. Writes: nothing.
Source: Taori et al. 2020, section 2 (effective and relative robustness, logit-transformed line); Radford et
al. 2021, section 3.3; Miller et al. 2021 (accuracy on the line).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from diptych.core.errors import DataError


@dataclass(frozen=True, slots=True)
class ShiftLine:
    """What accuracy on the shift is to be expected of an accuracy on the original set.

    Attributes:
        slope: of the line between logits.
        offset: of the line between logits.
        models: how many it was fitted to.
    """

    slope: float
    offset: float
    models: int

    def expected(self, accuracy: float) -> float:
        """Return the accuracy in [0, 1] on the shift that the line gives for one on the original set."""
        return 1 / (1 + math.exp(-(self.slope * _logit(accuracy) + self.offset)))

    def effective(self, accuracy: float, shifted: float) -> float:
        """Return the effective robustness: accuracy on the shift above what the line expects."""
        return shifted - self.expected(accuracy)


def fit_line(accuracies: Sequence[float], shifted: Sequence[float]) -> ShiftLine:
    """Fit the line of ordinary models by least squares between logits.

    Args:
        accuracies: of at least two models on the original set, strictly between 0 and 1.
        shifted: of the same models on the shift.

    Raises:
        DataError: too few models, all alike, or an accuracy of 0 or 1, whose logit is infinite.

    >>> line = fit_line([0.6, 0.7, 0.8], [0.5, 0.6, 0.7])
    >>> 0.5 < line.expected(0.65) < 0.6
    True
    """
    x, y = (np.array([_logit(value) for value in values]) for values in (accuracies, shifted))
    if len(x) < 2 or len(x) != len(y) or np.ptp(x) == 0:
        raise DataError(
            "no line can be fitted",
            found=f"{len(x)} and {len(y)} accuracies",
            expected="the same two or more models on both sets, not all alike",
        )
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / np.square(x - x.mean()).sum())
    return ShiftLine(slope, float(y.mean() - slope * x.mean()), len(x))


@dataclass(frozen=True, slots=True)
class Shift:
    """A model on a natural shift of a set, beside what other models lead to expect.

    Attributes:
        task: the shifted set.
        accuracy: on the original set.
        shifted: on the shifted one.
        expected: on the shifted one, of a model with that accuracy.
        effective: shifted less expected: the effective robustness.
        models: behind the line.
    """

    task: str
    accuracy: float
    shifted: float
    expected: float
    effective: float
    models: int


def shifts(
    accuracies: Mapping[str, float],
    columns: Mapping[str, str],
    table: Mapping[str, Mapping[str, float]],
    *,
    original: str = "imagenet",
) -> list[Shift]:
    """Hold a model's accuracies on shifted sets against the line of a table's models.

    Args:
        accuracies: of the model in [0, 1], by task.
        columns: the table's column of each task; those without one are left out.
        table: model -> column -> accuracy in [0, 1].
        original: the task that the others are shifts of.

    Returns:
        One entry for each shift that both sides know; none where the original was not scored.
    """
    found: list[Shift] = []
    if not 0 < accuracies.get(original, 0) < 1 or original not in columns:
        return found
    for task in accuracies.keys() & columns.keys() - {original}:
        both = [(row.get(columns[original], 0), row.get(columns[task], 0)) for row in table.values()]
        both = [pair for pair in both if min(pair) > 0 and max(pair) < 1]
        if len({accuracy for accuracy, _ in both}) < 2:
            continue
        line = fit_line(*zip(*both, strict=True))
        accuracy, shifted = accuracies[original], accuracies[task]
        expected = line.expected(accuracy)
        found.append(Shift(task, accuracy, shifted, expected, shifted - expected, line.models))
    return sorted(found, key=lambda shift: shift.task)


def relative(shifted_before: float, shifted_after: float) -> float:
    """Return the relative robustness of an intervention: what it adds to the accuracy on the shift."""
    return shifted_after - shifted_before


def _logit(share: float) -> float:
    if not 0 < share < 1:
        raise DataError(
            "the logit of this accuracy is infinite",
            found=share,
            expected="strictly between 0 and 1",
            fix="leave the model out of the line",
        )
    return math.log(share / (1 - share))
