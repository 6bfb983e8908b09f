"""Effective robustness to natural distribution shift.

Accuracies on a set and on its shift lie on a line after the logit transform. A model's effective robustness
is how far above the line of ordinary models it stands.

Source: Taori et al. 2020, section 2; Radford et al. 2021, section 3.3.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Shift:
    """Accuracy of a model on a set and on its natural shift, beside what other `models` lead to expect."""

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
    """Compare a model's accuracies on shifted sets with the line of a table's models, by least squares.

    Args:
        accuracies: of the model in [0, 1], by task.
        columns: the table's column of each task; those without one are left out.
        table: model -> column -> accuracy in [0, 1]; an accuracy of 0 or 1 has no logit and is left out.
        original: the task that the others are shifts of.
    """
    if not 0 < accuracies.get(original, 0) < 1 or original not in columns:
        return []
    results = []
    for task in sorted(accuracies.keys() & columns.keys() - {original}):
        both = [(row.get(columns[original], 0), row.get(columns[task], 0)) for row in table.values()]
        both = [pair for pair in both if min(pair) > 0 and max(pair) < 1]
        if len({accuracy for accuracy, _ in both}) < 2:
            continue
        x, y = (np.array([_logit(value) for value in side]) for side in zip(*both, strict=True))
        slope = float(((x - x.mean()) * (y - y.mean())).sum() / np.square(x - x.mean()).sum())
        offset = float(y.mean() - slope * x.mean())
        accuracy, shifted = accuracies[original], accuracies[task]
        expected = 1 / (1 + math.exp(-(slope * _logit(accuracy) + offset)))
        results.append(Shift(task, accuracy, shifted, expected, shifted - expected, len(both)))
    return results


def _logit(accuracy: float) -> float:
    return math.log(accuracy / (1 - accuracy))
