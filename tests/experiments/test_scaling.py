"""Power laws, efficiencies and temperatures beside numbers that are known."""

import math

import numpy as np
import pytest

from diptych.core.errors import ArrayError
from experiments.claims.scaling import error_law, needed, power_law
from experiments.scores import fit_temperature


def test_a_power_law_is_found_again() -> None:
    x = [1.0, 3.0, 20.0, 400.0]
    law = power_law(x, [2.5 * value**-0.3 for value in x])
    assert (law.exponent, law.factor, law.r_squared) == pytest.approx((-0.3, 2.5, 1.0))
    assert law.at(20.0) == pytest.approx(2.5 * 20.0**-0.3)


def test_the_line_is_that_of_least_squares() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.uniform(1, 50, 12), rng.uniform(0.1, 1, 12)
    law = power_law(x.tolist(), y.tolist())
    a, b = np.log(x), np.log(y)
    slope = ((a - a.mean()) * (b - b.mean())).sum() / ((a - a.mean()) ** 2).sum()
    assert law.exponent == pytest.approx(slope)
    assert law.r_squared == pytest.approx(np.corrcoef(a, b)[0, 1] ** 2)


@pytest.mark.parametrize(("x", "y"), [([1.0], [1.0]), ([2, 2], [1, 3]), ([1, 2], [0, 1]), ([1, 2], [1])])
def test_numbers_without_a_law_are_refused(x: list[float], y: list[float]) -> None:
    with pytest.raises(ArrayError):
        power_law(x, y)


def test_the_interval_of_an_exponent_has_the_width_that_propagation_says() -> None:
    """Var(log error) is about (1 - e) / (e N); the slope is a linear form of the logarithms."""
    compute, hits, count = [1.0, 10.0, 100.0], [200, 500, 800], 1000
    law = error_law(compute, hits, count, seed=1)
    a = np.log(compute) - np.log(compute).mean()
    errors = 1 - np.array(hits) / count
    deviation = math.sqrt((((a / (a**2).sum()) ** 2) * (1 - errors) / (errors * count)).sum())
    assert law.interval is not None
    low, high = law.interval
    assert low < law.exponent < high
    assert high - low == pytest.approx(2 * 1.96 * deviation, rel=0.1)


def test_a_curve_that_starts_high_enough_needs_its_first_point() -> None:
    assert needed([5, 10], [0.4, 0.6], 0.3) == 5
    assert needed([5, 10, 15], [0.1, 0.4, 0.3], 0.4) == 10
    assert needed([5, 10, 20], [0.1, 0.2, 0.6], 0.5) == pytest.approx(17.5)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_the_temperature_that_made_the_labels_is_found(temperature: float) -> None:
    rng = np.random.default_rng(10)
    logits = rng.normal(size=(20_000, 5)) * 2
    powers = np.exp(logits / temperature)
    probabilities = powers / powers.sum(axis=1, keepdims=True)
    labels = (rng.random(len(probabilities))[:, None] > probabilities.cumsum(axis=1)).sum(axis=1)
    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.05)


def test_a_temperature_needs_numbers_and_labels_in_range() -> None:
    three = np.arange(3)
    for logits, labels in (
        (np.full((3, 3), np.nan), three),
        (np.empty((0, 3)), three[:0]),
        (np.eye(3), three - 1),
    ):
        with pytest.raises(ArrayError):
            fit_temperature(logits, labels)
