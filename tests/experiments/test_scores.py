"""The temperature of a softmax."""

import numpy as np
import pytest

from diptych.core.errors import ArrayError
from experiments.scores import fit_temperature


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_the_temperature_that_made_the_labels_is_found(temperature: float) -> None:
    rng = np.random.default_rng(10)
    logits = rng.normal(size=(20_000, 5)) * 2
    powers = np.exp(logits / temperature)
    probabilities = powers / powers.sum(axis=1, keepdims=True)
    labels = (rng.random(len(probabilities))[:, None] > probabilities.cumsum(axis=1)).sum(axis=1)
    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.05)


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        (np.full((3, 3), np.nan), np.arange(3)),
        (np.empty((0, 3)), np.arange(0)),
        (np.eye(3), np.arange(3) - 1),
    ],
)
def test_a_temperature_needs_numbers_and_labels_in_range(logits: np.ndarray, labels: np.ndarray) -> None:
    with pytest.raises(ArrayError):
        fit_temperature(logits, labels)
