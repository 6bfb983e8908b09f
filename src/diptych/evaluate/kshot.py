"""How many labelled pictures per class a probe needs to reach what zero-shot reaches without any.

k pictures of each class are drawn, a probe is fitted on them and scored on the same test pictures as the
zero-shot classifier; this is repeated, and the interval is over the repeats.

Reads: arrays. Writes: nothing.
Source: Radford et al. 2021, section 3.1 and figures 6 and 7 (labels per class to match zero-shot, by
log-linear interpolation).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diptych.core.errors import DataError
from diptych.core.records import Metric
from diptych.core.seeds import numpy_rng
from diptych.evaluate.metrics_intervals import student_interval
from diptych.evaluate.probe import LinearProbe
from diptych.evaluate.probe_search import probe_metrics
from diptych.evaluate.ranks import Ints

SHOTS = (1, 2, 4, 8, 16)
REPEATS = 5
FEW_SHOT_C = 0.316
"""OpenAI's README fits with it; k pictures of a class leave none to choose by."""


@dataclass(frozen=True, slots=True)
class ShotCurve:
    """Accuracy by labelled pictures per class.

    Attributes:
        task: the task's name.
        accuracies: k -> (R,) float64 top-1 of each repeat, k rising.
        count: test pictures.
    """

    task: str
    accuracies: dict[int, NDArray[np.float64]]
    count: int

    def metrics(self) -> list[Metric]:
        """List the mean top-1 of each k with its 95 % interval over the repeats."""
        return [
            Metric(self.task, f"probe_top1@{k}", float(found.mean()), student_interval(found), self.count)
            for k, found in self.accuracies.items()
        ]

    def shots_to_match(self, accuracy: float) -> float:
        """Return how many pictures per class reach an accuracy, between the k's log-linearly.

        Args:
            accuracy: in [0, 1], e.g. zero-shot top-1 on the same test pictures.

        Returns:
            The smallest k if that is enough already; infinite if the largest is not.
        """
        shots = list(self.accuracies)
        means = [float(found.mean()) for found in self.accuracies.values()]
        if means[0] >= accuracy:
            return float(shots[0])
        for place in range(1, len(shots)):
            low, high = means[place - 1 : place + 1]
            if high >= accuracy:
                share = (accuracy - low) / (high - low)
                first, last = math.log(shots[place - 1]), math.log(shots[place])
                return math.exp(first + share * (last - first))
        return math.inf


def draw_shots(labels: NDArray[np.generic], shots: int, *, seed: int, repeat: int) -> Ints:
    """Draw `shots` rows of each class; of one repeat, fewer shots are a part of more.

    Args:
        labels: (N,) of all rows.
        shots: rows per class.
        seed: of all draws.
        repeat: which draw.

    Returns:
        (classes * shots,) int64 rows, class by class.

    Raises:
        DataError: a class has fewer rows.

    >>> sorted(draw_shots(np.array(["a", "b", "a", "b"]), 2, seed=0, repeat=0).tolist())
    [0, 1, 2, 3]
    """
    drawn = []
    for number, name in enumerate(np.unique(labels)):
        rows = np.flatnonzero(labels == name)
        if len(rows) < shots:
            raise DataError(
                "a class has too few pictures to draw from",
                where=f"class {name}",
                found=f"{len(rows)} pictures",
                expected=f"at least {shots}",
                fix="leave out the class, or ask for fewer shots",
            )
        drawn.append(numpy_rng(seed, "shots", repeat, number).permutation(rows)[:shots])
    return np.concatenate(drawn).astype(np.int64)


def k_shot(
    train: tuple[NDArray[np.floating], NDArray[np.generic]],
    test: tuple[NDArray[np.floating], NDArray[np.generic]],
    *,
    task: str,
    shots: Sequence[int] = SHOTS,
    repeats: int = REPEATS,
    seed: int = 0,
    probe: LinearProbe | None = None,
) -> ShotCurve:
    """Fit and score probes on few pictures per class.

    Args:
        train: (N, D) features and (N,) labels to draw from; rows of NaN are never drawn.
        test: (M, D) features and (M,) labels; a row of NaN is an unreadable picture and counts as wrong.
        task: the name the metrics carry.
        shots: numbers of pictures per class.
        repeats: draws of each.
        seed: of the draws.
        probe: settings of every fit; scikit-learn's C at 0.316 if None.

    Raises:
        DataError: a class has fewer readable pictures than the most shots.
    """
    settings = (probe or LinearProbe(FEW_SHOT_C)).get_params()
    readable = ~np.isnan(train[0]).any(axis=1)
    features, labels = train[0][readable], train[1][readable]
    accuracies = {}
    for k in sorted(shots):
        found = np.empty(repeats)
        for repeat in range(repeats):
            rows = draw_shots(labels, k, seed=seed, repeat=repeat)
            fitted = LinearProbe(**settings).fit(features[rows], labels[rows])
            found[repeat] = probe_metrics(fitted, *test, task=task)[0].value
        accuracies[k] = found
    return ShotCurve(task, accuracies, len(test[1]))
