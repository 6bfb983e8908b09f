"""Records: the counts of a stage always balance."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.errors import IntegrityError, Reason, TooMuchBadDataError
from diptych.core.records import EXAMPLES_PER_REASON, Counts, Metric

EVENTS = st.lists(st.one_of(st.none(), st.sampled_from(list(Reason))), max_size=50)


def counted(events: list[Reason | None]) -> Counts:
    counts = Counts()
    for index, reason in enumerate(events):
        if reason is None:
            counts.keep()
        else:
            counts.drop(reason, f"row {index}")
    return counts


@settings(max_examples=50)
@given(EVENTS, EVENTS)
def test_in_is_out_plus_dropped_also_after_merging(
    one: list[Reason | None], two: list[Reason | None]
) -> None:
    total = counted(one)
    total.merge(counted(two))
    total.check(1.0)
    plain = total.as_dict()
    assert plain["in"] == len(one) + len(two) == plain["out"] + sum(plain["dropped"].values())
    assert plain["dropped"] == counted(one + two).as_dict()["dropped"]
    assert all(len(places) <= EXAMPLES_PER_REASON for places in plain["examples"].values())
    assert Counts.from_dict(json.loads(json.dumps(plain))) == total


def test_the_first_examples_are_kept_and_kept_short() -> None:
    """Examples are of untrusted data."""
    counts = counted([Reason.BAD_ROW] * 9)
    counts.drop(Reason.DUPLICATE_KEY, "k" * 3_000_000)
    examples = {"bad_row": ["row 0", "row 1", "row 2", "row 3", "row 4"], "duplicate_key": ["k" * 300]}
    assert counts.as_dict()["examples"] == examples


def test_check_allows_exactly_the_rate_and_names_number_rate_reason_and_place() -> None:
    counted([None] * 9 + [Reason.DAMAGED]).check(0.1)
    Counts().check(0.0)
    with pytest.raises(TooMuchBadDataError) as caught:
        counted([None] * 8 + [Reason.DAMAGED, Reason.DAMAGED]).check(0.1)
    message = str(caught.value)
    assert "2 of 10" in message and "10.0%" in message and "damaged 2" in message and "row 8" in message
    assert caught.value.exit_code == 3


def test_check_asserts_the_balance() -> None:
    with pytest.raises(AssertionError, match="5 in is not 3 out"):
        Counts(seen=5, kept=3).check(1.0)


def test_metrics_are_plain_json() -> None:
    metric = Metric("zeroshot", "top1", 0.5, (0.4, 0.6), 100)
    plain = {"task": "zeroshot", "metric": "top1", "value": 0.5, "ci95": [0.4, 0.6], "n": 100}
    assert metric.as_dict() == plain
    assert Metric("t", "m", float("nan"), None, 0).as_dict()["value"] is None


@pytest.mark.parametrize(
    "plain",
    [
        {"in": "many"},
        {"in": [1]},
        {"dropped": 7},
        {"dropped": {"no": 1}},
        {"examples": {"robots": 7}},
    ],
)
def test_counts_of_no_form_are_an_integrity_error(plain: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError, match="counts of samples"):
        Counts.from_dict(plain)
