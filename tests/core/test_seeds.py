"""Seeds: named, independent, the same everywhere."""

import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from diptych.core.seeds import derive, numpy_rng

NAMES = st.lists(st.one_of(st.integers(), st.text(max_size=5)), max_size=4)


def test_the_number_is_the_documented_hash() -> None:
    """Written out by hand: a change of the formula would silently change every data order."""
    digest = hashlib.blake2b(b"i7;s5:orderi1:3", digest_size=8).digest()
    assert derive(7, "order", 3) == int.from_bytes(digest, "big") // 2


@given(st.integers(), NAMES, NAMES)
def test_different_names_give_different_seeds(seed: int, one: list[int | str], two: list[int | str]) -> None:
    same = [(type(name), name) for name in one] == [(type(name), name) for name in two]
    assert (derive(seed, *one) == derive(seed, *two)) == same
    assert 0 <= derive(seed, *one) < 2**63


def test_a_number_is_not_its_text_and_borders_count() -> None:
    seeds = {derive(0, 1), derive(0, "1"), derive(0, "a", "bc"), derive(0, "ab", "c"), derive(0, "abc")}
    assert len(seeds) == 5
    assert derive(np.int64(0), "x") == derive(0, "x")


def test_generators_of_two_names_are_uncorrelated() -> None:
    one, two = (numpy_rng(0, "augment", sample).standard_normal(20_000) for sample in (0, 1))
    # The correlation of independent normals has a deviation of 1/sqrt(n): 4 of them are 0.028.
    assert abs(float(np.corrcoef(one, two)[0, 1])) < 0.028
    assert np.array_equal(numpy_rng(0, "augment", 0).standard_normal(20_000), one)
