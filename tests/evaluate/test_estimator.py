"""ZeroShotClassifier: scikit-learn's own checks, and answers that can be worked out by hand."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone, is_classifier
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.utils.estimator_checks import parametrize_with_checks
from tests.evaluate.conftest import BLUE, GREEN, RED, ColourModel, solid

from diptych.core.errors import ArrayError, BadInputsError, SettingsError, UnknownNameError, UsageError
from diptych.evaluate.estimator import ZeroShotClassifier

NAMES = ["red", "green", "blue"]


class AnyWidth(ZeroShotClassifier):
    """Takes tables of every width, as the checks bring them; a model has one width only."""

    def _embed_classes(self, names: Any, width: int | None) -> Any:
        rows = np.array([np.random.default_rng(sum(name.encode())).normal(size=width) for name in names])
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


class NoPictures:
    """What is left of a model where only tables are classified."""

    scale, bias = 10.0, 0.0


@parametrize_with_checks([AnyWidth(NoPictures())], expected_failed_checks=lambda estimator: {})
def test_scikit_learns_checks(estimator: Any, check: Any) -> None:
    """All of them; only how well it guesses from names that mean nothing is not asked (tag `poor_score`)."""
    check(estimator)


def test_pictures_and_embeddings_get_the_answer_that_their_colour_has(colour_model: ColourModel) -> None:
    classifier = ZeroShotClassifier(colour_model).fit(y=NAMES)
    assert classifier.classes_.tolist() == ["blue", "green", "red"]
    assert not hasattr(classifier, "n_features_in_")
    files = [solid(GREEN), solid(RED), solid(BLUE)]
    pictures = [Image.open(io.BytesIO(file)) for file in files]
    arrays = np.stack([np.asarray(picture) for picture in pictures])
    table = np.eye(3)[[1, 0, 2]] * 7
    for inputs in (files, pictures, arrays, list(arrays), table, table.tolist()):
        assert classifier.predict(inputs).tolist() == ["green", "red", "blue"]
        assert classifier.score(inputs, ["green", "red", "red"]) == pytest.approx(2 / 3)
        assert classifier.score(inputs, ["green", "red", "red"], sample_weight=[1, 1, 0]) == 1


def test_logits_are_scaled_cosines_plus_the_bias_and_shares_their_softmax(colour_model: ColourModel) -> None:
    colour_model.bias = -3.0
    classifier = ZeroShotClassifier(colour_model, templates=["{}"]).fit(y=NAMES)
    logits = classifier.decision_function([[3.0, 4.0, 0.0]])
    assert logits == pytest.approx(10 * np.array([[0.0, 0.8, 0.6]]) - 3, abs=1e-6)
    expected = np.exp([0.0, 8.0, 6.0]) / np.exp([0.0, 8.0, 6.0]).sum()
    assert classifier.predict_proba([[3.0, 4.0, 0.0]]) == pytest.approx(expected[None], abs=1e-6)


def test_two_classes_give_one_lead(colour_model: ColourModel) -> None:
    classifier = ZeroShotClassifier(colour_model, templates=["{}"]).fit(y=["red", "green"])
    assert classifier.decision_function([[3.0, 4.0, 0.0]]) == pytest.approx([10 * (0.6 - 0.8)], abs=1e-6)
    assert classifier.predict([[3.0, 4.0, 0.0]]).tolist() == ["green"]
    assert classifier.predict_proba([[3.0, 4.0, 0.0]]).shape == (1, 2)


def test_labels_of_all_pictures_name_the_classes_and_width_is_checked(colour_model: ColourModel) -> None:
    classifier = ZeroShotClassifier(colour_model).fit(np.eye(3), ["red", "green", "red"])
    assert classifier.classes_.tolist() == ["green", "red"] and classifier.n_features_in_ == 3
    assert not hasattr(classifier.fit(y=NAMES), "n_features_in_")
    with pytest.raises(ArrayError, match="not the model's"):
        classifier.fit(np.ones((2, 4)), ["red", "green"])
    with pytest.raises(ArrayError, match="has 4 features, but ZeroShotClassifier is expecting 3"):
        classifier.predict(np.ones((2, 4)))


def test_templates_change_the_answer(colour_model: ColourModel) -> None:
    plain = ZeroShotClassifier(colour_model, templates=["{}"]).fit(y=NAMES)
    misled = ZeroShotClassifier(colour_model, templates=["green green green {}"]).fit(y=NAMES)
    assert not np.allclose(plain.class_embeds_, misled.class_embeds_)
    with pytest.raises(SettingsError, match="where the class name goes"):
        ZeroShotClassifier(colour_model, templates=["no place"]).fit(y=NAMES)


def test_a_bad_picture_and_a_path_in_a_str_are_told_by_position(
    colour_model: ColourModel, tmp_path: Path
) -> None:
    classifier = ZeroShotClassifier(colour_model).fit(y=NAMES)
    with pytest.raises(BadInputsError, match="input 1"):
        classifier.predict([solid(RED), b"broken"])
    (tmp_path / "red.png").write_bytes(solid(RED))
    assert classifier.predict([tmp_path / "red.png"]).tolist() == ["red"]
    with pytest.raises(UsageError, match=r"item 1[\s\S]*pathlib.Path"):
        classifier.predict([tmp_path / "red.png", str(tmp_path / "red.png")])


def test_it_works_in_scikit_learns_tools(colour_model: ColourModel) -> None:
    classifier = ZeroShotClassifier(colour_model)
    assert is_classifier(classifier)
    copy = clone(classifier.set_params(batch_size=2))
    assert copy.model is colour_model and copy.batch_size == 2
    table, labels = np.eye(3)[[0, 1, 2] * 4], np.array(NAMES * 4)
    assert cross_val_score(classifier, table, labels, cv=2).tolist() == [1.0, 1.0]
    search = GridSearchCV(classifier, {"templates": [("{}",), ("a photo of a {}.",)]}, cv=2)
    assert search.fit(table, labels).best_score_ == 1.0
    with pytest.raises(UnknownNameError, match="template"):
        classifier.set_params(template="{}")


def test_scikit_learn_is_not_needed() -> None:
    code = """
import sys
sys.modules["sklearn"] = None
import numpy as np
from types import SimpleNamespace
from diptych.evaluate.estimator import ZeroShotClassifier
class Fixed(ZeroShotClassifier):
    def _embed_classes(self, names, width): return np.eye(2, dtype=np.float32)
one = Fixed(SimpleNamespace(scale=1.0, bias=0.0))
try: one.predict([[1, 0]])
except Exception as error: print(type(error).__name__)
print(one.fit(y=["a", "b"]).predict([[0, 1]]), one.get_params()["batch_size"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["UsageError", "['b'] 128"]
