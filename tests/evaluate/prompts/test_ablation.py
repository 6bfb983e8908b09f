"""Prompt ablation: a set in which one template is right, one wrong and one useless, known by construction."""

import numpy as np
import pytest
from tests.evaluate.conftest import ColorModel

from diptych.core.errors import DataError
from diptych.evaluate.classifier import ensemble_probabilities
from diptych.evaluate.prompts.ablation import (
    Ablation,
    LabeledImages,
    ablate,
    accuracy,
    choose_greedily,
    choose_weights,
    ensemble,
    ensemble_sizes,
    split_halves,
)
from diptych.report.ablation import write_ablation

Halves = tuple[LabeledImages, LabeledImages, np.ndarray]
GOOD, WRONG, EVEN = "a {}.", "not a {}.", "thing"


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture
def halves() -> Halves:
    """Four classes in eight dimensions; images are their class and noise."""
    rng = np.random.default_rng(0)
    classes = np.eye(4, 8)
    labels = rng.integers(0, 4, 400)
    images = unit(classes[labels] + 0.3 * rng.standard_normal((400, 8)))
    good = unit(classes + 0.05 * rng.standard_normal((4, 8)))
    wrong = unit(np.roll(classes, 1, axis=0) + 0.05 * rng.standard_normal((4, 8)))
    even = unit(np.ones((4, 8)) + 0.05 * rng.standard_normal((4, 8)))
    first, second = split_halves(400)
    examples = LabeledImages(images, labels)
    return examples.part(first), examples.part(second), np.stack([good, wrong, even])


def ablated(
    validation: LabeledImages, test: LabeledImages, classifiers: np.ndarray, first: str = GOOD
) -> Ablation:
    plain = [("bare names", classifiers[2])]
    templates = (first, WRONG, EVEN)
    return ablate(validation, test, classifiers, templates=templates, plain=plain, model=ColorModel())


def test_halves_share_nothing() -> None:
    first, second = split_halves(101)
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(101))


def test_an_ensemble_is_the_mean_direction() -> None:
    classifiers = np.array([[[1.0, 0.0]], [[0.0, 1.0]]], dtype=np.float32)
    assert np.allclose(ensemble(classifiers), [[0.5**0.5, 0.5**0.5]])
    assert np.allclose(ensemble(classifiers, np.array([3.0, 4.0])), [[0.6, 0.8]])


def test_choices_find_the_template_that_is_right(halves: Halves) -> None:
    validation, _, classifiers = halves
    greedy = choose_greedily(validation, classifiers)
    assert greedy[0] >= 1 and greedy[1] == 0
    weights = choose_weights(validation, classifiers)
    assert weights[0] > weights[1]
    reached = accuracy(validation, ensemble(classifiers, weights))
    assert reached > accuracy(validation, ensemble(classifiers))
    again = choose_weights(validation, classifiers)
    assert np.array_equal(weights, again)


def test_the_test_images_have_no_influence(halves: Halves) -> None:
    """With other labels in the test half the choices stay the same."""
    validation, test, classifiers = halves
    result = [
        ablated(validation, LabeledImages(test.image_embeds, labels), classifiers)
        for labels in (test.labels, (test.labels + 1) % 4)
    ]
    chosen = [[row.weights for row in each.sets] for each in result]
    assert chosen[0] == chosen[1]
    assert result[0].sets[0].accuracy.value != result[1].sets[0].accuracy.value


def test_every_number_by_hand(halves: Halves) -> None:
    validation, test, classifiers = halves
    result = ablated(validation, test, classifiers)
    right = {
        name: (test.image_embeds @ rows.T).argmax(axis=1) == test.labels
        for name, rows in (("bare", classifiers[2]), ("all", unit(classifiers.mean(axis=0))))
    }
    probabilities = ensemble_probabilities(ColorModel(), test.image_embeds, classifiers)
    names = [row.name for row in result.sets]
    assert names == [
        "bare names", "all 3 templates", "all, in probability space", "best template", "greedy", "weighted",
    ]  # fmt: skip
    bare, whole, probable, *_ = result.sets
    assert bare.accuracy.value == right["bare"].mean() and bare.over_bare is None
    assert whole.accuracy.value == right["all"].mean() and whole.over_all is None and whole.p_value == 1
    assert probable.accuracy.value == (probabilities.argmax(axis=1) == test.labels).mean()
    assert whole.over_bare is not None
    assert whole.over_bare.value == pytest.approx(right["all"].mean() - right["bare"].mean())
    assert result.templates[0].name == GOOD
    assert (result.validation, result.test) == (200, 200)


def test_sizes_end_in_the_whole_ensemble(halves: Halves) -> None:
    _, test, classifiers = halves
    sizes = ensemble_sizes(test, classifiers)
    assert [size.templates for size in sizes] == [1, 2, 3]
    whole = accuracy(test, ensemble(classifiers))
    assert sizes[-1].mean == pytest.approx(whole) and sizes[-1].spread == (whole, whole)
    alone = [accuracy(test, each) for each in classifiers]
    assert min(alone) <= sizes[0].spread[0] <= sizes[0].mean <= sizes[0].spread[1] <= max(alone)


@pytest.mark.parametrize("rows", [(0, 1), (1, 0)])
def test_without_an_image_to_choose_on_or_to_score_it_is_refused(
    halves: Halves, rows: tuple[int, int]
) -> None:
    """The greedy choice compared accuracies that were NaN, for ever."""
    validation, test, classifiers = halves
    parts = [part.part(np.arange(count)) for part, count in zip((validation, test), rows, strict=True)]
    with pytest.raises(DataError, match=f"{rows[0]} to choose on, {rows[1]} to score"):
        ablated(*parts, classifiers)


def test_an_unreadable_image_is_wrong_everywhere(halves: Halves) -> None:
    validation, test, classifiers = halves
    broken = LabeledImages(np.full_like(test.image_embeds, np.nan), test.labels)
    result = ablated(validation, broken, classifiers)
    assert {row.accuracy.value for row in (*result.sets, *result.templates)} == {0.0}


def test_the_page_shows_every_template_and_escapes_it(halves: Halves, tmp_path) -> None:
    validation, test, classifiers = halves
    result = ablated(validation, test, classifiers, "<b>{}")
    write_ablation(tmp_path / "page.html", result, title="Prompts", subject="points")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    for part in ("&lt;b&gt;{}", WRONG, EVEN, "in probability space", 'class="band"'):
        assert part in page
    assert "<b>{}" not in page
