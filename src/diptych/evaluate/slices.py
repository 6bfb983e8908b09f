"""Score each group of a data set by itself, and say how far the worst one lags.

Reads: hits and a column. Writes: nothing.
Source: Radford et al. 2021, section 7.1 (FairFace by gender, race and age); Sagawa et al. 2020 (worst group);
Wilson 1927 and Newcombe 1998, method 10 (intervals of a share and of a difference).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diptych.core.errors import ArrayError
from diptych.core.records import Field, Metric
from diptych.evaluate.metrics import Bools, Interval, wilson

MISSING = "(none)"
"""The group of rows whose column is empty: leaving them out would hide them."""


@dataclass(frozen=True, slots=True)
class Slice:
    """One group.

    Attributes:
        name: the column's value.
        count: rows in it.
        accuracy: share of hits in [0, 1].
        interval: 95 % of it.
    """

    name: str
    count: int
    accuracy: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class Slices:
    """All groups of one column.

    Attributes:
        task: the task's name.
        field: the column.
        groups: the worst first; equal ones by name.
        small: groups with fewer rows than asked for, name -> rows; they are no part of gap and worst.
    """

    task: str
    field: str
    groups: tuple[Slice, ...]
    small: dict[str, int]

    @property
    def gap(self) -> float:
        """The best group's accuracy minus the worst one's; NaN with fewer than two groups."""
        if len(self.groups) < 2:
            return math.nan
        return self.groups[-1].accuracy - self.groups[0].accuracy

    @property
    def gap_interval(self) -> Interval | None:
        """The 95 % interval of the gap between these two groups, were they chosen beforehand."""
        if len(self.groups) < 2:
            return None
        worst, best = self.groups[0], self.groups[-1]
        below = math.hypot(best.accuracy - best.interval[0], worst.interval[1] - worst.accuracy)
        above = math.hypot(best.interval[1] - best.accuracy, worst.accuracy - worst.interval[0])
        return self.gap - below, self.gap + above

    def metrics(self) -> list[Metric]:
        """List the accuracy of every group, the worst one's, and the gap."""
        found = [
            Metric(self.task, f"top1[{self.field}={group.name}]", group.accuracy, group.interval, group.count)
            for group in self.groups
        ]
        if self.groups:
            worst = self.groups[0]
            name = f"worst_group_top1[{self.field}]"
            found.append(Metric(self.task, name, worst.accuracy, worst.interval, worst.count))
        total = sum(group.count for group in self.groups)
        return [*found, Metric(self.task, f"gap_top1[{self.field}]", self.gap, self.gap_interval, total)]


def slices(hits: Bools, values: Sequence[Field], *, task: str, field: str, at_least: int = 1) -> Slices:
    """Score the groups that a column makes.

    Args:
        hits: (N,) bool; an unreadable picture is a miss.
        values: the column, N values; None and "" are a group of their own.
        task: the name the metrics carry.
        field: the column's name.
        at_least: rows that a group needs to be compared.

    Raises:
        ArrayError: the lengths differ.

    >>> found = slices(np.array([True, False, True]), ["a", "a", "b"], task="t", field="f")
    >>> [(group.name, group.accuracy) for group in found.groups], found.gap
    ([('a', 0.5), ('b', 1.0)], 0.5)
    """
    if len(hits) != len(values):
        raise ArrayError("hits and column have different lengths", found=f"{len(hits)} and {len(values)}")
    names = np.array([MISSING if value in (None, "") else str(value) for value in values], dtype=object)
    groups, small = [], {}
    for name in sorted(set(names.tolist())):
        of_group = hits[names == name]
        count, right = len(of_group), int(of_group.sum())
        interval = wilson(right, count)
        if count < at_least or interval is None:
            small[name] = count
        else:
            groups.append(Slice(name, count, right / count, interval))
    groups.sort(key=lambda group: (group.accuracy, group.name))
    return Slices(task, field, tuple(groups), small)
