"""The classifier: means in embedding space, in the order of the classes, never one prompt at a time."""

from collections.abc import Sequence

import numpy as np
import pytest
from tests.evaluate.conftest import ColorModel

from diptych.core.errors import IntegrityError, NonFiniteError, UsageError
from diptych.data.images.transforms import Preprocess
from diptych.data.tokenizers.clip import Tokenizer
from diptych.evaluate.classifier import build_classifier, build_template_classifiers, ensemble_probabilities
from diptych.evaluate.prompts.templates import BARE, Templates
from diptych.models.encode import encode_texts
from diptych.models.model import Model
from diptych.models.towers.clip import build
from diptych.models.towers.config import ClipConfig, TextConfig, VitConfig


def unit(rows: list[tuple[float, ...]]) -> np.ndarray:
    array = np.array(rows, dtype=np.float64)
    return array / np.linalg.norm(array, axis=1, keepdims=True)


def test_bare_names_are_their_own_directions(color_model) -> None:
    classifier = build_classifier(color_model, ["red", "blue"], BARE)
    assert classifier.dtype == np.float32
    assert classifier == pytest.approx(np.array([[1, 0, 0], [0, 0, 1]]), abs=1e-6)


def test_an_ensemble_is_the_mean_of_unit_rows_at_unit_length(color_model) -> None:
    templates = Templates("two", ("{}", "{} green"), {"blue": ("blue", "blue blue")})
    classifier = build_classifier(color_model, ["red", "blue"], templates)
    red = unit([(1, 0, 0), (1, 1, 0)]).mean(axis=0)
    blue = unit([(0, 0, 1), (0, 1, 1), (0, 0, 2), (0, 1, 2)]).mean(axis=0)
    assert classifier == pytest.approx(unit([tuple(red), tuple(blue)]), abs=1e-6)


def test_prompts_go_through_the_tower_in_batches_and_repeats_once(color_model) -> None:
    templates = Templates("many", tuple(f"{{}} {n}" for n in range(80)))
    build_classifier(color_model, ["red", "green", "blue"], templates, batch_size=100)
    assert color_model.batches == [100, 100, 40]


def test_classes_that_read_the_same_are_refused(color_model) -> None:
    with pytest.raises(UsageError, match="never be told apart") as caught:
        build_classifier(
            color_model, ["Red", "blue", "scarlet"], Templates("t", ("{}",), {"scarlet": ("red",)})
        )
    assert "'Red' and 'scarlet'" in str(caught.value)


def tiny_model(texts: Sequence[str], context_length: int) -> Model:
    tokenizer = Tokenizer.train([*texts] * 5, size=600, context_length=context_length)
    text = TextConfig(context_length, tokenizer.vocab_size, 32, 2, 2, tokenizer.start_id, tokenizer.end_id)
    clip = build(ClipConfig(16, VitConfig((16, 16), 8, 32, 1, 2), text), seed=1)
    return Model(clip, tokenizer, Preprocess(size=(16, 16)))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("fire engine", "fire engine"), ("fire engine", "fire  engine"), ("fire engine", "Fire\tEngine "),
        ("salt & pepper", "salt &amp; pepper"),
        ("owl", "owl<|endoftext|>ette"), ("it\u2019s", "it's"),
    ],
)  # fmt: skip
def test_what_the_tower_reads_as_the_same_is_refused(one: str, other: str) -> None:
    model = tiny_model(["a photo of a fire engine", "salt & pepper", "owl", "it's"], 24)
    with pytest.raises(UsageError, match="never be told apart") as caught:
        build_classifier(model, [one, "crane", other], BARE)
    assert repr(one) in str(caught.value) and repr(other) in str(caught.value)
    build_classifier(model, [one, "crane"], BARE)


def test_names_of_a_class_in_another_order_are_the_same_class(color_model) -> None:
    names = {"first": ("red", "blue"), "second": ("blue", "red")}
    with pytest.raises(UsageError, match="never be told apart"):
        build_classifier(color_model, ["first", "second"], Templates("t", ("{}",), names))


def test_a_template_that_leaves_no_room_for_the_name_is_refused() -> None:
    """Every class would be read alike, and every picture scored as wrong."""
    model = tiny_model(["a photo"], 8)
    long = Templates("long", ("a photo of one of the many things that are called {}.",))
    with pytest.raises(UsageError, match="2 of 2 prompts are longer than 8 tokens") as caught:
        build_classifier(model, ["crane", "heron"], long)
    assert "shorten the templates" in str(caught.value)


def test_a_cut_prompt_is_told() -> None:
    model = tiny_model(["a photo of a crane heron"], 8)
    with pytest.warns(UserWarning, match=r"1 of 2 prompts of 'bare' are longer than 8 tokens and were cut"):
        build_classifier(
            model, ["crane", "heron that eats many small fish in the river"], Templates("bare", ("{}",))
        )


def test_no_classes_are_refused(color_model) -> None:
    with pytest.raises(UsageError, match="no classes"):
        build_classifier(color_model, [])


def test_a_class_without_a_direction_is_refused(color_model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diptych.evaluate.classifier.encode_texts", lambda *_, **__: np.array([[np.nan] * 3]))
    with pytest.raises(NonFiniteError, match="no direction") as caught:
        build_classifier(color_model, ["red"], BARE)
    assert "'red'" in str(caught.value)


def test_template_classifiers_are_the_ensemble_taken_apart(color_model) -> None:
    templates = Templates("two", ("{}", "{} green"), {"blue": ("blue", "blue blue")})
    apart = build_template_classifiers(color_model, ["red", "blue"], templates)
    expected = [[(1, 0, 0), (0, 0, 1)], [(1, 1, 0), tuple(unit([(0, 1, 1), (0, 1, 2)]).mean(axis=0))]]
    assert apart == pytest.approx(np.stack([unit(rows) for rows in expected]), abs=1e-6)


def test_probabilities_are_averaged_over_templates_by_hand() -> None:
    """Logits ±1 for one template and ±3 for the other: the mean of two sigmoids of 2 and of 6."""
    classifiers = np.array([[[1, 0], [-1, 0]], [[0, 1], [0, -1]]], dtype=np.float32)
    pictures = np.array([[0.1, 0.3]], dtype=np.float32)
    model = ColorModel()
    found = ensemble_probabilities(model, pictures, classifiers)
    right = (1 / (1 + np.exp(-2)) + 1 / (1 + np.exp(-6))) / 2
    assert found == pytest.approx(np.array([[right, 1 - right]]), abs=1e-7)
    model.config.logit_bias_init, model.bias = -10.0, -2.0  # learned with the sigmoid loss
    found = ensemble_probabilities(model, pictures, classifiers)
    first, second = 1 / (1 + np.exp([2 - 1, 2 + 1])), 1 / (1 + np.exp([2 - 3, 2 + 3]))
    assert found == pytest.approx((first + second)[None] / 2, abs=1e-7)


def test_a_kept_classifier_is_found_again_for_the_same_prompts_alone(color_model, tmp_path) -> None:
    color_model.digest = "weights"
    first = build_classifier(color_model, ["red", "blue"], BARE, cache=tmp_path)
    read = len(color_model.texts)
    again = build_classifier(color_model, ["red", "blue"], BARE, cache=tmp_path)
    assert np.array_equal(first, again)
    assert len(color_model.texts) == read
    build_classifier(color_model, ["blue", "red"], BARE, cache=tmp_path)
    color_model.digest = "other weights"
    build_classifier(color_model, ["red", "blue"], BARE, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_damaged_classifier_is_refused(color_model, tmp_path) -> None:
    color_model.digest = "weights"
    build_classifier(color_model, ["red", "blue"], BARE, cache=tmp_path)
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(kept.read_bytes()[:-4])
    with pytest.raises(IntegrityError, match="kept classifier"):
        build_classifier(color_model, ["red", "blue"], BARE, cache=tmp_path)


def test_prompts_through_a_real_tower_are_the_same_with_and_without_sharing() -> None:
    names = ["crane", "boxer", "oboe", "drumstick", "nail", "a very long name indeed"]
    templates = Templates("t", ("a photo of a {}.", "a drawing of the {} in a cage", "{}"))
    model = tiny_model([*names, *templates.templates], 24)
    prompts = [template.replace("{}", name) for name in names for template in templates.templates]
    shared = model.encode_prompts(model.tokenizer.tokens(prompts))
    assert shared is not None
    assert np.abs(shared - encode_texts(model, prompts)).max() < 1e-6
