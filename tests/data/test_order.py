"""Order is a permutation per epoch, a pure function of seed and position, and even."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.errors import UsageError
from diptych.data.order import sample_at


def test_every_epoch_holds_each_sample_once():
    for count, epochs in (*((count, (0, 1, 7)) for count in range(1, 201)), (1024, (0,)), (1_000_003, (2,))):
        for epoch in epochs:
            order = sample_at(np.arange(epoch * count, (epoch + 1) * count), count=count, seed=3)
            assert np.array_equal(np.sort(order), np.arange(count)), (count, epoch)


@settings(max_examples=100, deadline=None)
@given(
    count=st.integers(1, 2**62),
    seed=st.integers(0, 2**62),
    epoch=st.integers(0, 1),
    ranks=st.lists(st.integers(0, 2**62 - 1), min_size=1, max_size=50),
)
def test_indices_stay_inside_and_never_collide_at_any_size(count, seed, epoch, ranks):
    distinct = np.unique(np.array(ranks, dtype=np.int64) % count)
    order = sample_at(distinct + epoch * count, count=count, seed=seed)
    assert order.min() >= 0 and order.max() < count
    assert len(np.unique(order)) == len(distinct)


@settings(max_examples=200, deadline=None)
@given(
    count=st.integers(1, 3000),
    seed=st.integers(0, 2**40),
    world=st.sampled_from([1, 2, 4]),
    workers=st.sampled_from([1, 3]),
    start=st.integers(0, 10**9),
)
def test_the_sequence_does_not_depend_on_how_positions_are_shared_out(count, seed, world, workers, start):
    positions = np.arange(start, start + 48)
    whole = sample_at(positions, count=count, seed=seed)
    parts = world * workers
    shared = np.empty_like(whole)
    for part in range(parts):
        shared[part::parts] = sample_at(positions[part::parts], count=count, seed=seed)
    assert np.array_equal(whole, shared)


def test_each_position_has_its_sample_in_an_array_of_any_shape():
    square = np.arange(100).reshape(10, 10)
    order = sample_at(square, count=37, seed=9)
    assert order.shape == (10, 10) and order.dtype == np.int64
    assert [sample_at(np.array(at), count=37, seed=9) for at in range(100)] == order.reshape(-1).tolist()


def test_epochs_and_seeds_give_orders_of_their_own():
    count = 10_000
    first, second = sample_at(np.arange(2 * count), count=count, seed=1).reshape(2, count)
    other = sample_at(np.arange(count), count=count, seed=2)
    # Two independent permutations agree in one place on average (Poisson with mean 1).
    assert np.sum(first == second) < 10
    assert np.sum(first == other) < 10
    assert np.sum(first == np.arange(count)) < 10


@pytest.mark.parametrize("count", [5, 16, 50, 257])
def test_each_sample_is_equally_likely_at_each_position(count):
    """Chi-square of (position, sample) over many epochs stays within six standard deviations."""
    epochs = 2000
    order = sample_at(np.arange(epochs * count), count=count, seed=11).reshape(epochs, count)
    table = np.zeros((count, count))
    for position in range(count):
        table[position] = np.bincount(order[:, position], minlength=count)
    expected = epochs / count
    chi_square = ((table - expected) ** 2 / expected).sum()
    freedom = (count - 1) ** 2
    assert abs(chi_square - freedom) < 6 * np.sqrt(2 * freedom)


def test_neighbors_do_not_stay_together():
    count = 100_000
    order = sample_at(np.arange(count), count=count, seed=0)
    steps = np.abs(np.diff(order))
    # Two independent uniform places are count / 3 apart on average, and adjacent with probability 2 / count.
    assert abs(steps.mean() / count - 1 / 3) < 0.01
    assert np.sum(steps == 1) < 12
    assert abs(np.corrcoef(np.arange(count), order)[0, 1]) < 0.02


def test_an_empty_data_set_and_a_negative_position_are_refused():
    with pytest.raises(UsageError, match="no order"):
        sample_at(np.arange(1), count=0, seed=0)
    with pytest.raises(UsageError, match="negative"):
        sample_at(np.array([-1]), count=3, seed=0)
