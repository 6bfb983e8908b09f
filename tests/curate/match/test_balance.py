"""Balancing keeps what brute force keeps, by published and fair hashes of the pair and the query alone."""

import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from diptych.core.errors import SettingsError
from diptych.core.settings import from_mapping
from diptych.curate.kernels import byte_hash, mixed, row_hashes
from diptych.curate.match.balance import BalanceSettings, balance_partition, make_plan
from diptych.curate.match.match import Matches
from diptych.curate.words import text_buffers

WORD = (1 << 64) - 1
Part = tuple[pa.Array, Matches]
Kept = dict[str, set[str]]


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
    return splitmix(splitmix(fnv(key) ^ splitmix(seed)) ^ splitmix(fnv(query) ^ splitmix(seed + 1)))


def in_parts(names: list[str], pairs: dict[str, list[str]], size: int) -> list[Part]:
    rows, keys, parts = {name: row for row, name in enumerate(names)}, list(pairs), []
    for start in range(0, max(1, len(keys)), size):
        chunk = keys[start : start + size]
        lists = pa.array([sorted(rows[name] for name in pairs[key]) for key in chunk], pa.list_(pa.int32()))
        parts.append((pa.array(chunk, pa.string()), Matches.from_arrow(lists)))
    return parts


def kept_by_us(names: list[str], parts: list[Part], chosen: BalanceSettings) -> Kept:
    counts = np.sum([np.bincount(matches.ids, minlength=len(names)) for _, matches in parts], axis=0)
    plan, kept = make_plan(pa.array(names), counts, chosen, parts=lambda: parts), Kept()
    for keys, matches in parts:
        keep, drawn = balance_partition(keys, matches, plan)
        lists = drawn.to_arrow().to_pylist()
        assert keep.tolist() == [bool(ids) for ids in lists]
        kept |= {
            key: {names[one] for one in ids} for key, ids in zip(keys.to_pylist(), lists, strict=True) if ids
        }
    return kept


def brute_force(pairs: dict[str, list[str]], chosen: BalanceSettings) -> Kept:
    of_query: dict[str, list[str]] = {}
    for key, names in pairs.items():
        for query in names:
            of_query.setdefault(query, []).append(key)
    kept = Kept()
    for query, keys in of_query.items():
        numbers = {key: number(key, query, chosen.seed) for key in keys}
        drawn = sorted(keys, key=numbers.__getitem__)[: chosen.cap]
        if chosen.mode == "independent" and len(keys) > chosen.cap:
            drawn = [key for key in keys if (numbers[key] + 1) * len(keys) <= chosen.cap << 64]
        for key in drawn:
            kept.setdefault(key, set()).add(query)
    return kept


def test_the_hashes_are_the_published_ones() -> None:
    """The first two outputs of splitmix64 from 0, and the test values of FNV-1a."""
    assert int(mixed(np.uint64(0))) == 0xE220A8397B1DCDAF == splitmix(0)
    assert int(mixed(np.uint64(0x9E3779B97F4A7C15))) == 0x6E789E6AA1B965F4
    published = {"": 0xCBF29CE484222325, "a": 0xAF63DC4C8601EC8C, "foobar": 0x85944171F73967E8}
    for text, expected in published.items():
        data = np.frombuffer(text.encode() or b"\0", np.uint8)
        assert int(byte_hash(data, 0, len(text))) == expected == fnv(text)


@pytest.mark.parametrize("mode", ["independent", "exact"])
@pytest.mark.parametrize(("cap", "seed"), [(1, 0), (7, 1), (60, 2**64 - 2), (10_000, 3)])
def test_pairs_kept_equal_brute_force(mode: str, cap: int, seed: int) -> None:
    rng = random.Random(seed)
    names = [f"query {place}" for place in range(40)]
    weights = [1 / (1 + place) for place in range(40)]
    pairs = {
        f"https://example.org/{row}.jpg": sorted(set(rng.choices(names, weights, k=rng.randrange(6))))
        for row in range(3_000)
    }
    chosen = from_mapping(BalanceSettings, {"cap": cap, "mode": mode, "seed": seed})
    expected = brute_force(pairs, chosen)
    assert kept_by_us(names, in_parts(names, pairs, 700), chosen) == expected


@pytest.mark.parametrize("mode", ["independent", "exact"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_pairs_kept_equal_brute_force_whatever_they_are(mode: str, data: st.DataObject) -> None:
    names = data.draw(st.lists(st.text(max_size=4), min_size=1, max_size=5, unique=True))
    some = st.lists(st.sampled_from(names), unique=True)
    pairs = data.draw(st.dictionaries(st.text(max_size=4), some, max_size=30))
    chosen = from_mapping(BalanceSettings, {"cap": data.draw(st.integers(1, 8)), "mode": mode})
    size = data.draw(st.integers(1, 30))
    assert kept_by_us(names, in_parts(names, pairs, size), chosen) == brute_force(pairs, chosen)


def test_independent_draws_follow_the_binomial_law() -> None:
    """500,000 queries, each in twice its cap of pairs: drawn counts deviate as binomial ones do.

    Three standard deviations are passed by 0.27 % of honest queries (1,350 here, give or take 110), five by
    none of a million. The mean is exact within 5 deviations of its own.
    """
    count, per_query, cap = 500_000, 60, 30
    ids = np.tile(np.arange(count, dtype=np.int32), per_query)
    keys = pa.array(np.arange(len(ids) // 50)).cast(pa.string())
    matches = Matches(np.arange(0, len(ids) + 1, 50, dtype=np.int64), ids)
    queries = pa.array(np.arange(count)).cast(pa.string())
    plan = make_plan(queries, np.full(count, per_query), BalanceSettings(cap=cap))
    draws = np.bincount(balance_partition(keys, matches, plan)[1].ids, minlength=count)
    deviation = np.sqrt(per_query * 0.25)
    assert (np.abs(draws - cap) > 3 * deviation).sum() < 1350 * 1.5
    assert np.abs(draws - cap).max() <= 5.6 * deviation
    assert abs(draws.mean() - cap) < 5 * deviation / np.sqrt(count)
    assert draws.std() == pytest.approx(deviation, rel=0.01)


def test_numbers_are_uniform_for_keys_that_hardly_differ() -> None:
    """Chi-squared over 256 bins of single bytes, and of half bytes of two queries together."""
    keys = row_hashes(*text_buffers(pa.array([f"{key:09d}" for key in range(200_000)])), np.uint64(0))
    queries = row_hashes(*text_buffers(pa.array(["a", "b"])), np.uint64(1))
    pairs = [np.array([int(mixed(key)) for key in (keys ^ query)[:50_000]], np.uint64) for query in queries]
    for shift in (0, 28, 56):
        one, other = ((numbers >> np.uint64(shift)).astype(np.uint8) for numbers in pairs)
        joint = (one >> 4) * 16 + (other >> 4)
        for part in (one, other, joint):
            assert stats.chisquare(np.bincount(part, minlength=256)).pvalue > 1e-5


def test_slices_of_columns() -> None:
    keys = pa.array([f"key {row}" for row in range(100)])
    plan = make_plan(pa.array(["dog", "cat"]), np.array([100, 400]), BalanceSettings(cap=30))

    def keep(some: pa.Array | pa.ChunkedArray) -> list[bool]:
        ids = np.tile(np.array([0, 1], np.int32), len(some))
        kept, _ = balance_partition(some, Matches(np.arange(0, len(ids) + 1, 2), ids), plan)
        return list(kept.tolist())

    whole = keep(keys)
    assert 0 < sum(whole) < 100
    assert keep(keys.slice(33, 40)) == whole[33:73]
    assert keep(pa.chunked_array([keys[:50], keys[50:]]).slice(33, 40)) == whole[33:73]
    assert keep(keys[:0]) == []


@pytest.mark.parametrize(
    ("given", "message"),
    [({"seed": -1}, "no such seed"), ({"seed": 2**64 - 1}, "no such seed"), ({"cap": 0}, "keeps nothing")],
)
def test_settings_out_of_range_are_refused(given: dict[str, int], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        BalanceSettings(**given)  # type: ignore[arg-type]
