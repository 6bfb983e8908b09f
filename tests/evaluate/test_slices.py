"""Groups, the worst one, and the gap, against counting by hand."""

import math

import numpy as np
import pytest

from diptych.core.errors import ArrayError
from diptych.evaluate.slices import MISSING, slices


def test_groups_equal_counting_row_by_row() -> None:
    for case in range(200):
        rng = np.random.default_rng(case)
        count = int(rng.integers(1, 60))
        values = [[None, "", "x", "y", 3, True][i] for i in rng.integers(0, 6, size=count)]
        hits = rng.random(count) < 0.6
        found = slices(hits, values, task="t", field="f")
        by_name: dict[str, list[bool]] = {}
        for hit, value in zip(hits, values, strict=True):
            by_name.setdefault(MISSING if value in (None, "") else str(value), []).append(bool(hit))
        shares = {name: sum(of) / len(of) for name, of in by_name.items()}
        assert {group.name: group.accuracy for group in found.groups} == shares
        assert sum(group.count for group in found.groups) == count
        assert found.groups[0].accuracy == min(shares.values())
        if len(shares) > 1:
            assert found.gap == pytest.approx(max(shares.values()) - min(shares.values()), abs=1e-12)


def test_gap_interval_is_newcombes() -> None:
    """Newcombe 1998, table II, case (a), method 10: 56/70 against 48/80 gives 0.0524 to 0.3339."""
    hits = np.array([True] * 56 + [False] * 14 + [True] * 48 + [False] * 32)
    found = slices(hits, ["a"] * 70 + ["b"] * 80, task="t", field="f")
    assert found.gap == pytest.approx(0.2)
    assert found.gap_interval == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_small_groups_are_named_and_not_compared() -> None:
    hits = np.array([True, False, False, True, True])
    found = slices(hits, ["a", "a", "b", "a", "a"], task="t", field="f", at_least=2)
    assert found.small == {"b": 1}
    assert [group.name for group in found.groups] == ["a"]
    assert math.isnan(found.gap)
    names = [metric.metric for metric in found.metrics()]
    assert names == ["top1[f=a]", "worst_group_top1[f]", "gap_top1[f]"]
    with pytest.raises(ArrayError):
        slices(hits, ["a"], task="t", field="f")
