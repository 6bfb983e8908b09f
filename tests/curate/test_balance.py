"""Balancing follows the binomial law or the hard cap, and depends on keys, queries and seed alone."""

import random
from collections import Counter
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from diptych.core.errors import IntegrityError, SettingsError
from diptych.core.settings import from_mapping
from diptych.curate.balance import (
    BalancePlan,
    BalanceSettings,
    BalanceStatistics,
    balance_partition,
    count_kept,
    count_matches,
    plan_balance,
    probabilities,
    sorted_curve,
)
from diptych.curate.kernels import byte_hash, mixed
from diptych.curate.match import Matches

WORD = (1 << 64) - 1
Part = tuple[pa.Array, Matches]


def splitmix(state: int) -> int:
    state = (state + 0x9E3779B97F4A7C15) & WORD
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & WORD
    return state ^ (state >> 31)


def fnv(text: str) -> int:
    state = 0xCBF29CE484222325
    for byte in text.encode():
        state = ((state ^ byte) * 0x100000001B3) & WORD
    return state


def number(key: str, query: str, seed: int) -> int:
    return splitmix(splitmix(fnv(key)) ^ splitmix(fnv(query) ^ splitmix(seed)))


def matches_of(lists: Iterable[Iterable[int]]) -> Matches:
    rows = [list(ids) for ids in lists]
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows], dtype=np.int64)]).astype(np.int64)
    return Matches(offsets, np.array([one for row in rows for one in row], np.int32))


def counts_of(parts: list[Part], queries: int) -> np.ndarray:
    counts = np.zeros(queries, np.int64)
    for _, matches in parts:
        count_matches(matches.ids, counts)
    return counts


def chosen_by(queries: list[str], parts: list[Part], settings: BalanceSettings) -> dict[str, set[str]]:
    """Return for every pair that is kept the queries for which it was drawn."""
    plan = plan_balance(queries, counts_of(parts, len(queries)), settings, read=lambda: parts)
    kept: dict[str, set[str]] = {}
    for keys, matches in parts:
        done = balance_partition(keys, matches, BalancePlan.from_table(plan.to_table()))
        lists = done.chosen.to_arrow().to_pylist()
        assert done.keep.tolist() == [bool(ids) for ids in lists]
        kept |= {
            key: {queries[one] for one in ids}
            for key, ids in zip(keys.to_pylist(), lists, strict=True)
            if ids
        }
    return kept


def brute_force(pairs: dict[str, list[str]], settings: BalanceSettings) -> dict[str, set[str]]:
    of_query: dict[str, list[str]] = {}
    for key, names in pairs.items():
        for query in names:
            of_query.setdefault(query, []).append(key)
    kept: dict[str, set[str]] = {}
    for query, keys in of_query.items():
        ranked = sorted(keys, key=lambda key: number(key, query, settings.seed))
        if settings.mode == "exact" or len(keys) <= settings.cap:
            drawn = ranked[: settings.cap]
        else:
            drawn = [
                key for key in keys if number(key, query, settings.seed) * len(keys) < settings.cap << 64
            ]
        for key in drawn:
            kept.setdefault(key, set()).add(query)
    return kept


def made_up(rng: random.Random, pairs: int, queries: int) -> tuple[list[str], dict[str, list[str]]]:
    names = [f"query {number}" for number in range(queries)]
    weights = [1 / (1 + rank) for rank in range(queries)]
    return names, {
        f"https://example.org/{row}.jpg": sorted(set(rng.choices(names, weights, k=rng.randrange(6))))
        for row in range(pairs)
    }


def in_parts(names: list[str], pairs: dict[str, list[str]], size: int) -> list[Part]:
    place = {name: row for row, name in enumerate(names)}
    keys = list(pairs)
    chunks = [keys[start : start + size] for start in range(0, len(keys), size)]
    return [
        (pa.array(chunk), matches_of(sorted(place[name] for name in pairs[key]) for key in chunk))
        for chunk in chunks
    ]


def test_the_hashes_are_the_published_ones() -> None:
    """The first two outputs of splitmix64 from 0, and the test values of FNV-1a."""
    assert int(mixed(np.uint64(0))) == 0xE220A8397B1DCDAF == splitmix(0)
    assert int(mixed(np.uint64(0x9E3779B97F4A7C15))) == 0x6E789E6AA1B965F4
    for text, expected in (
        ("", 0xCBF29CE484222325),
        ("a", 0xAF63DC4C8601EC8C),
        ("foobar", 0x85944171F73967E8),
    ):
        data = np.frombuffer(text.encode() or b"\0", np.uint8)
        assert int(byte_hash(data, 0, len(text))) == expected == fnv(text)


@pytest.mark.parametrize("mode", ["independent", "exact"])
@pytest.mark.parametrize(("cap", "seed"), [(1, 0), (7, 1), (60, 2**64 - 1), (10_000, 3)])
def test_pairs_kept_equal_brute_force(mode: str, cap: int, seed: int) -> None:
    names, pairs = made_up(random.Random(seed), 3_000, 40)
    chosen = from_mapping(BalanceSettings, {"cap": cap, "mode": mode, "seed": seed})
    expected = brute_force(pairs, chosen)
    assert chosen_by(names, in_parts(names, pairs, 700), chosen) == expected
    drawn = Counter(query for names in expected.values() for query in names)
    counts = Counter(query for names in pairs.values() for query in names)
    assert max(counts.values()) > 1_000
    if mode == "exact":
        assert all(drawn[query] == min(cap, count) for query, count in counts.items())
    tail = {(key, query) for key, names in pairs.items() for query in names if counts[query] <= cap}
    assert all(query in expected[key] for key, query in tail)


@pytest.mark.parametrize("mode", ["independent", "exact"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_pairs_kept_equal_brute_force_whatever_they_are(mode: str, data: st.DataObject) -> None:
    names = data.draw(st.lists(st.text(max_size=4), min_size=1, max_size=5, unique=True))
    some = st.lists(st.sampled_from(names), unique=True)
    pairs = data.draw(st.dictionaries(st.text(max_size=4), some, max_size=30))
    chosen = from_mapping(BalanceSettings, {"cap": data.draw(st.integers(1, 8)), "mode": mode})
    size = data.draw(st.integers(1, 30))
    assert chosen_by(names, in_parts(names, pairs, size), chosen) == brute_force(pairs, chosen)


@pytest.mark.parametrize("mode", ["independent", "exact"])
def test_what_is_kept_depends_on_no_order(mode: str) -> None:
    """Neither on that of pairs or queries, nor on partitions, nor on queries beside those that match."""
    rng = random.Random(5)
    names, pairs = made_up(rng, 2_000, 30)
    chosen = from_mapping(BalanceSettings, {"cap": 50, "mode": mode})
    first = chosen_by(names, in_parts(names, pairs, 2_000), chosen)
    for size in (1, 333):
        keys = rng.sample(list(pairs), len(pairs))
        others = rng.sample([*names, "another", "one more"], len(names) + 2)
        assert chosen_by(others, in_parts(others, {key: pairs[key] for key in keys}, size), chosen) == first
    again = chosen_by(
        names, in_parts(names, pairs, 500), from_mapping(BalanceSettings, {"cap": 50, "seed": 1})
    )
    assert again != first


def test_the_draws_of_500_000_queries_follow_the_binomial_law() -> None:
    """Of 500,000 draws some are beyond 3 sigma by chance: as many as the law says, and none is far beyond."""
    rng, queries, cap = np.random.default_rng(0), 500_000, 30
    # Counts from 20 to 3,000 by Zipf's law without its head, so that no query comes twice among a pair's 20.
    ids = (1_000 * (np.exp(rng.random(1_500_000 * 20) * np.log(1 + queries / 1_000)) - 1)).astype(np.int32)
    ids[:10_000_000] = np.arange(10_000_000) % queries
    rng.shuffle(ids)
    counts = np.bincount(ids, minlength=queries)
    plan = plan_balance(pa.array(np.arange(queries)).cast(pa.string()), counts, BalanceSettings(cap=cap))
    drawn = np.zeros(queries, np.int64)
    offsets = np.arange(0, 500_000 * 20 + 1, 20)
    for part in range(3):
        keys = pa.array(np.arange(part * 500_000, (part + 1) * 500_000)).cast(pa.string())
        matches = Matches(offsets, ids[part * 10_000_000 : (part + 1) * 10_000_000])
        count_matches(balance_partition(keys, matches, plan).chosen.ids, drawn)
    heads = counts > cap
    assert (drawn[~heads] == counts[~heads]).all()
    chance = cap / counts[heads]
    sigma = np.sqrt(counts[heads] * chance * (1 - chance))
    far = np.abs(drawn[heads] - cap) / sigma
    below = np.ceil(cap - 3 * sigma) - 1
    beyond = stats.binom.cdf(below, counts[heads], chance) + stats.binom.sf(
        cap + 3 * sigma, counts[heads], chance
    )
    expected = beyond.sum()
    assert heads.sum() > 100_000 and 50 < expected < 0.01 * heads.sum()
    assert abs((far > 3).sum() - expected) < 5 * np.sqrt(expected)
    tails = np.minimum(
        stats.binom.cdf(drawn[heads], counts[heads], chance),
        stats.binom.sf(drawn[heads] - 1, counts[heads], chance),
    )
    assert tails.min() * 2 * heads.sum() > 1e-4  # Bonferroni
    assert abs(drawn[heads].mean() - cap) < 5 * sigma.mean() / np.sqrt(heads.sum())


def test_numbers_are_uniform_for_keys_that_hardly_differ() -> None:
    """Chi-squared over 256 bins of their upper and lower bytes, and over those of two queries together."""
    numbers = np.array(
        [[number(f"{key:09d}", query, 0) for query in "ab"] for key in range(30_000)], np.uint64
    )
    for shift in (0, 28, 56):
        tops = (numbers >> np.uint64(shift)).astype(np.uint8)
        joint = (tops[:, 0] >> 4) * 16 + (tops[:, 1] >> 4)
        for bytes_ in (tops[:, 0], tops[:, 1], joint):
            assert stats.chisquare(np.bincount(bytes_, minlength=256)).pvalue > 1e-5


def test_exact_mode_draws_none_of_equal_keys_that_would_pass_the_cap() -> None:
    parts = [(pa.array(["same"] * 9), matches_of([[0]] * 9))]
    assert chosen_by(["dog"], parts, BalanceSettings(cap=4, mode="exact")) == {}
    assert chosen_by(["dog"], parts, BalanceSettings(cap=9, mode="exact")) == {"same": {"dog"}}


def test_matches_that_were_not_counted_are_refused() -> None:
    parts = [(pa.array(["a", "b"]), matches_of([[0], [0]]))]
    chosen = BalanceSettings(cap=2, mode="exact")
    with pytest.raises(IntegrityError, match="not those that were counted"):
        plan_balance(["dog"], np.array([50]), chosen, read=lambda: parts)
    plan = plan_balance(["dog"], np.array([2]), chosen, read=lambda: parts)
    with pytest.raises(IntegrityError, match="other pairs or queries"):
        balance_partition(pa.array(["a"]), matches_of([[1]]), plan)
    with pytest.raises(IntegrityError, match="other pairs or queries"):
        balance_partition(pa.array(["a"]), matches_of([[0], [0]]), plan)


def test_slices_of_columns() -> None:
    keys = pa.array([f"key {row}" for row in range(100)])
    matches = matches_of([[0, 1]] * 40)
    plan = plan_balance(["dog", "cat"], np.array([100, 400]), BalanceSettings(cap=30))
    whole = balance_partition(keys, matches_of([[0, 1]] * 100), plan).keep
    assert balance_partition(keys.slice(33, 40), matches, plan).keep.tolist() == whole[33:73].tolist()
    chunks = pa.chunked_array([keys[:50], keys[50:]]).slice(33, 40)
    assert balance_partition(chunks, matches, plan).keep.tolist() == whole[33:73].tolist()
    assert balance_partition(keys[:0], matches_of([]), plan).keep.tolist() == []


def test_statistics_by_hand() -> None:
    before, drawn, after = np.zeros(3, np.int64), np.array([2, 2, 1]), np.zeros(3, np.int64)
    matches = matches_of([[0], [0, 1], [0, 1, 2], [], [0]])
    count_matches(matches.ids, before)
    count_kept(matches, np.array([False, True, True, False, False]), after)
    assert (before.tolist(), after.tolist()) == ([4, 2, 1], [2, 2, 1])
    found = BalanceStatistics(2, before, drawn, after)
    assert (found.head_queries, found.tail_share_before, found.tail_share_after) == (1, 3 / 7, 3 / 5)
    assert probabilities(before, 2).tolist() == [0.5, 1, 1]
    ascending, share = sorted_curve(before)
    assert ascending.tolist() == [1, 2, 4] and share.tolist() == [1 / 7, 3 / 7, 1]
    assert BalanceStatistics(2, after * 0, drawn * 0, after * 0).tail_share_before == 0


def test_settings_that_make_no_sense_are_refused() -> None:
    for wrong in ({"cap": 0}, {"seed": -1}, {"seed": 2**64}, {"mode": "hard"}):
        with pytest.raises(SettingsError):
            from_mapping(BalanceSettings, wrong)
