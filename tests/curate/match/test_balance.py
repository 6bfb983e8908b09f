"""Balancing: the caps hold, the tail is whole, and nothing but the pair itself decides about it."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest

from diptych.core.errors import SettingsError
from diptych.curate.match.balance import BalanceSettings, Plan, balance_partition, count_matches, make_plan
from diptych.curate.match.match import Matches

QUERIES = 300


def world(pairs: int, *, seed: int = 0) -> tuple[pa.Array, list[list[int]]]:
    """Pairs with one to four queries each, of which a few are in most pairs (Zipf)."""
    rng = np.random.default_rng(seed)
    weights = 1 / np.arange(1, QUERIES + 1)
    weights /= weights.sum()
    lists = [sorted(set(rng.choice(QUERIES, rng.integers(1, 5), p=weights).tolist())) for _ in range(pairs)]
    return pa.array([f"pair-{seed}-{number}" for number in range(pairs)]), lists


def matches_of(lists: list[list[int]]) -> Matches:
    offsets = np.cumsum([0, *map(len, lists)]).astype(np.int64)
    return Matches(offsets, np.array([query for of_pair in lists for query in of_pair], np.int32))


def names(count: int = QUERIES) -> pa.Array:
    return pa.array([f"query {number}" for number in range(count)])


def plan_for(keys: pa.Array, lists: list[list[int]], settings: BalanceSettings) -> tuple[Plan, np.ndarray]:
    counts = np.zeros(QUERIES, np.int64)
    count_matches(matches_of(lists), counts)

    def parts() -> Iterator[tuple[pa.ChunkedArray, Matches]]:
        for start in range(0, len(lists), 700):
            yield pa.chunked_array([keys[start : start + 700]]), matches_of(lists[start : start + 700])

    return make_plan(names(), counts, settings, parts=parts), counts


def drawn_lists(keys: pa.Array, lists: list[list[int]], plan: Plan) -> list[list[int]]:
    keep, drawn = balance_partition(keys, matches_of(lists), plan)
    found = [drawn.ids[a:b].tolist() for a, b in zip(drawn.offsets[:-1], drawn.offsets[1:], strict=True)]
    assert [bool(of_pair) for of_pair in found] == keep.tolist()
    return found


@pytest.mark.parametrize("mode", ["independent", "exact"])
def test_every_match_of_the_tail_is_drawn(mode: str) -> None:
    keys, lists = world(4000)
    plan, counts = plan_for(keys, lists, BalanceSettings(cap=100, mode=mode))  # type: ignore[arg-type]
    for of_pair, drawn in zip(lists, drawn_lists(keys, lists, plan), strict=True):
        assert [q for q in of_pair if counts[q] <= 100] == [q for q in drawn if counts[q] <= 100]
        assert set(drawn) <= set(of_pair)


@pytest.mark.parametrize("cap", [1, 7, 100, 1000])
def test_the_exact_mode_draws_exactly_the_cap(cap: int) -> None:
    keys, lists = world(4000, seed=1)
    plan, counts = plan_for(keys, lists, BalanceSettings(cap=cap, mode="exact"))
    drawn = np.bincount([q for of_pair in drawn_lists(keys, lists, plan) for q in of_pair], minlength=QUERIES)
    assert drawn.tolist() == np.minimum(counts, cap).tolist()


def test_independent_draws_follow_the_binomial_law() -> None:
    """500,000 queries, each in twice its cap of pairs: drawn counts deviate as binomial ones do.

    Three standard deviations are passed by 0.27 % of honest queries (1,350 here, give or take 110), five by
    none of a million. The mean is exact within 5 deviations of its own.
    """
    count, per_query, cap = 500_000, 60, 30
    ids = np.tile(np.arange(count, dtype=np.int32), per_query)
    keys = pa.array([f"{number:x}" for number in range(len(ids) // 50)])
    matches = Matches(np.arange(0, len(ids) + 1, 50, dtype=np.int64), ids)
    plan = make_plan(names(count), np.full(count, per_query), BalanceSettings(cap=cap))
    _, drawn = balance_partition(keys, matches, plan)
    found = np.bincount(drawn.ids, minlength=count)
    deviation = np.sqrt(per_query * 0.25)
    beyond = np.abs(found - cap) > 3 * deviation
    assert beyond.sum() < 1350 * 1.5
    assert np.abs(found - cap).max() <= 5.6 * deviation
    assert abs(found.mean() - cap) < 5 * deviation / np.sqrt(count)
    assert found.std() == pytest.approx(deviation, rel=0.01)


@pytest.mark.parametrize("mode", ["independent", "exact"])
def test_order_and_partition_decide_nothing(mode: str) -> None:
    keys, lists = world(3000, seed=2)
    plan, _ = plan_for(keys, lists, BalanceSettings(cap=50, mode=mode))  # type: ignore[arg-type]
    whole = dict(zip(keys.to_pylist(), drawn_lists(keys, lists, plan), strict=True))
    order = np.random.default_rng(3).permutation(len(lists))
    mixed_keys, mixed_lists = keys.take(order), [lists[row] for row in order]
    again, _ = plan_for(mixed_keys, mixed_lists, BalanceSettings(cap=50, mode=mode))  # type: ignore[arg-type]
    apart = {}
    for start in range(0, len(order), 411):
        part = slice(start, start + 411)
        found = drawn_lists(mixed_keys[part], mixed_lists[part], again)
        apart |= dict(zip(mixed_keys[part].to_pylist(), found, strict=True))
    assert apart == whole


def test_new_numbers_for_the_queries_decide_nothing() -> None:
    keys, lists = world(2000, seed=4)
    plan, counts = plan_for(keys, lists, BalanceSettings(cap=40))
    turned = make_plan(names()[::-1], counts[::-1].copy(), BalanceSettings(cap=40))
    backwards = [[QUERIES - 1 - q for q in of_pair] for of_pair in lists]
    found = [[QUERIES - 1 - q for q in of_pair] for of_pair in drawn_lists(keys, backwards, turned)]
    assert found == drawn_lists(keys, lists, plan)


def test_another_seed_draws_others() -> None:
    keys, lists = world(2000, seed=5)
    one, other = (
        drawn_lists(keys, lists, plan_for(keys, lists, BalanceSettings(cap=20, seed=seed))[0])
        for seed in (0, 1)
    )
    assert one != other


def test_a_cap_of_nothing_is_refused() -> None:
    with pytest.raises(SettingsError, match="keeps nothing"):
        BalanceSettings(cap=0)
