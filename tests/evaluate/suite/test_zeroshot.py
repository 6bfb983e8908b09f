"""Zero-shot tasks on swatches whose right answers are known by hand."""

import numpy as np
import pytest
from tests.evaluate.conftest import evaluator

from diptych.core.errors import DataError, UnknownNameError, UsageError
from diptych.evaluate.prompts.templates import Templates
from diptych.evaluate.suite.scoring import TaskLabels, classify, further_metrics
from diptych.evaluate.suite.zeroshot import prompt_ladder


def by_name(metrics) -> dict[str, object]:
    return {metric.metric: metric for metric in metrics}


def test_numbers_by_hand_with_an_unreadable_and_an_unlabelled_picture(color_model, swatches) -> None:
    """Of four labelled pictures two are right: red, green; blue is labelled red; the fourth is unreadable."""
    metrics = by_name(evaluator(swatches, "color")(color_model))
    assert (metrics["top1"].value, metrics["top1"].n) == (0.5, 4)
    assert (metrics["top5"].value, metrics["top5"].n) == (0.75, 4)
    assert metrics["mean_per_class"].value == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert (metrics["unlabelled"].value, metrics["unlabelled"].n) == (1, 5)
    assert (metrics["unreadable"].value, metrics["unreadable"].n) == (1, 4)


def test_prompt_sets_are_compared_on_the_same_pictures(color_model, swatches) -> None:
    """Names that are cleaned into other colors turn right answers wrong, and the gain says so."""
    swapped = Templates("swapped", ("the {} one",), {"red": ("green",), "green": ("red",)})
    (result,) = evaluator(swatches, "color", templates=swapped).run(color_model).results
    names = ["bare names", "a photo of a {}.", "cleaned names", "swapped"]
    bare, photo, cleaned, last = result.extra["prompts"]
    assert [entry["name"] for entry in result.extra["prompts"]] == names
    assert "gain" not in bare and photo["gain"] == 0.0 and cleaned["gain"] == last["gain"] == -0.5
    low, high = last["gain_ci95"]
    assert low < -0.5 < high
    assert result.arrays["hits"].tolist() == [False, False, False, False]
    assert last["example"] == "the blue one"
    assert [metric.metric for metric in (*result.metrics, *result.logged)] == [
        "top1", "top5", "mean_per_class", "top1[bare names]", "top1[a photo of a {}.]", "top1[cleaned names]",
        "top1_gain[a photo of a {}. over bare names]", "top1_gain[cleaned names over bare names]",
        "top1_gain[swapped over bare names]", "classes", "classes_that_occur", "unlabelled", "unreadable",
    ]  # fmt: skip


def test_a_file_without_cleaned_names_adds_one_rung() -> None:
    for templates in (Templates("file", ("{} shoe",)), Templates("file", ("{}",), {"a": ("b",)})):
        assert [rung.name for rung in prompt_ladder(templates)] == ["bare names", "a photo of a {}.", "file"]


def test_a_label_with_a_cleaned_name_is_a_class_even_without_images(color_model, swatches) -> None:
    templates = Templates("t", ("{}",), {"white": ("red green blue",)})
    (result,) = evaluator(swatches, "color", templates=templates).run(color_model).results
    assert result.labels.class_names == ("blue", "green", "red", "white")
    assert result.labels.class_ids.tolist() == [2, 1, 2, 0]
    assert (result.extra["classes"], result.extra["classes_that_occur"]) == (4, 3)


def test_a_source_without_any_label_is_refused(color_model, swatches) -> None:
    bare = type(swatches)([(pair.image, (), {"color": " "}) for pair in swatches.pairs(None)])
    with pytest.raises(DataError, match="no image has a label"):
        evaluator(bare, "color")(color_model)


def test_an_unknown_column_names_the_nearest(color_model, swatches) -> None:
    with pytest.raises(UnknownNameError, match="color"):
        evaluator(swatches, "colr")(color_model)


def test_top5_of_two_classes_is_everything_readable() -> None:
    eye = np.eye(2, dtype=np.float32)
    images = np.array([[1, 0], [1, 0], [np.nan, np.nan]], dtype=np.float32)
    labels = TaskLabels(np.arange(3), ("a", "b"), np.array([0, 1, 1]))
    metrics = by_name(further_metrics(classify(images, labels, eye, "accuracy"), task="t"))
    assert (metrics["top1"].value, metrics["top5"].value) == (pytest.approx(1 / 3), pytest.approx(2 / 3))


def test_prompts_to_compare_with_are_left_out_where_two_classes_are_the_same_in_them(
    color_model, swatches
) -> None:
    """The task's own prompts tell Red from red; bare names and the default cannot."""
    rows = [
        (p.image, p.captions, {"c": label}) for p, label in zip(swatches.pairs(None), "RrRrR", strict=True)
    ]
    names = {"R": ("red",), "r": ("green",)}
    source = type(swatches)(rows)
    own = evaluator(source, "c", templates=Templates("own", ("{}",), names))
    with pytest.warns(UserWarning, match="'bare names' is not compared: two classes have the same prompts"):
        (result,) = own.run(color_model).results
    assert [entry["name"] for entry in result.extra["prompts"]] == ["own"]
    with pytest.raises(UsageError, match="never be told apart"), pytest.warns(UserWarning):
        evaluator(source, "c")(color_model)
