"""The classifier: means in embedding space, in the order of the classes, never one prompt at a time."""

import numpy as np
import pytest

from diptych.core.errors import NonFiniteError, UsageError
from diptych.evaluate.classifier import build_classifier
from diptych.evaluate.prompts import BARE, Templates


def unit(rows: list[tuple[float, ...]]) -> np.ndarray:
    array = np.array(rows, dtype=np.float64)
    return array / np.linalg.norm(array, axis=1, keepdims=True)


def test_bare_names_are_their_own_directions(colour_model) -> None:
    classifier = build_classifier(colour_model, ["red", "blue"], BARE)
    assert classifier.dtype == np.float32
    assert classifier == pytest.approx(np.array([[1, 0, 0], [0, 0, 1]]), abs=1e-6)


def test_an_ensemble_is_the_mean_of_unit_rows_at_unit_length(colour_model) -> None:
    templates = Templates("two", ("{}", "{} green"), {"blue": ("blue", "blue blue")})
    classifier = build_classifier(colour_model, ["red", "blue"], templates)
    red = unit([(1, 0, 0), (1, 1, 0)]).mean(axis=0)
    blue = unit([(0, 0, 1), (0, 1, 1), (0, 0, 2), (0, 1, 2)]).mean(axis=0)
    assert classifier == pytest.approx(unit([tuple(red), tuple(blue)]), abs=1e-6)


def test_prompts_go_through_the_tower_in_batches_and_repeats_once(colour_model) -> None:
    templates = Templates("many", tuple(f"{{}} {n}" for n in range(80)))
    build_classifier(colour_model, ["red", "green", "blue"], templates, batch_size=100)
    assert colour_model.batches == [100, 100, 40]


def test_classes_that_read_the_same_are_refused(colour_model) -> None:
    with pytest.raises(UsageError, match="never be told apart") as caught:
        build_classifier(
            colour_model, ["Red", "blue", "scarlet"], Templates("t", ("{}",), {"scarlet": ("red",)})
        )
    assert "'Red' and 'scarlet'" in str(caught.value)


def test_no_classes_are_refused(colour_model) -> None:
    with pytest.raises(UsageError, match="no classes"):
        build_classifier(colour_model, [])


def test_a_class_without_a_direction_is_refused(colour_model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diptych.evaluate.classifier.embed_texts", lambda *_, **__: np.array([[np.nan] * 3]))
    with pytest.raises(NonFiniteError, match="no direction") as caught:
        build_classifier(colour_model, ["red"], BARE)
    assert "'red'" in str(caught.value)
