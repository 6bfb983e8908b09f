"""ZeroShotClassifier: scikit-learn's own checks, and answers that can be worked out by hand."""

import io
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas
import pytest
from PIL import Image
from sklearn import config_context
from sklearn.base import clone, is_classifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.utils.estimator_checks import check_dataframe_column_names_consistency, parametrize_with_checks
from tests.evaluate.conftest import BLUE, GREEN, RED, ColorModel, solid

from diptych.core.errors import ArrayError, BadInputsError, SettingsError
from diptych.evaluate.estimator import ZeroShotClassifier
from diptych.evaluate.probe.linear_probe import LinearProbe
from diptych.models.encode import Encoder

NAMES = ["red", "green", "blue"]


class AnyWidth(ZeroShotClassifier):
    """Takes tables of every width, as the checks bring them; a model has one width only."""

    def _embed_classes(self, names: Any, width: int | None) -> Any:
        rows = np.array([np.random.default_rng(sum(name.encode())).normal(size=width) for name in names])
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


class NoPictures(Encoder):
    """What is left of a model where only tables are classified."""

    scale, bias, config = 10.0, 0.0, SimpleNamespace(logit_bias_init=None)

    def __repr__(self) -> str:
        return "NoPictures()"


@parametrize_with_checks([AnyWidth(NoPictures())], expected_failed_checks=lambda estimator: {})
def test_scikit_learns_checks(estimator: Any, check: Any) -> None:
    """All of them; only how well it guesses from names that mean nothing is not asked (tag `poor_score`)."""
    check(estimator)


def test_pictures_and_embeddings_get_the_answer_that_their_color_has(color_model: ColorModel) -> None:
    classifier = ZeroShotClassifier(color_model).fit(y=NAMES)
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


def test_logits_are_scaled_cosines_plus_the_bias_and_shares_their_softmax(color_model: ColorModel) -> None:
    color_model.bias = -3.0
    classifier = ZeroShotClassifier(color_model, templates=["{}"]).fit(y=NAMES)
    logits = classifier.decision_function([[3.0, 4.0, 0.0]])
    assert logits == pytest.approx(10 * np.array([[0.0, 0.8, 0.6]]) - 3, abs=1e-6)
    expected = np.exp([0.0, 8.0, 6.0]) / np.exp([0.0, 8.0, 6.0]).sum()
    assert classifier.predict_proba([[3.0, 4.0, 0.0]]) == pytest.approx(expected[None], abs=1e-6)


def test_two_classes_give_one_lead(color_model: ColorModel) -> None:
    classifier = ZeroShotClassifier(color_model, templates=["{}"]).fit(y=["red", "green"])
    assert classifier.decision_function([[3.0, 4.0, 0.0]]) == pytest.approx([10 * (0.6 - 0.8)], abs=1e-6)
    assert classifier.predict([[3.0, 4.0, 0.0]]).tolist() == ["green"]
    assert classifier.predict_proba([[3.0, 4.0, 0.0]]).shape == (1, 2)


def test_labels_of_all_pictures_name_the_classes_and_width_is_checked(color_model: ColorModel) -> None:
    classifier = ZeroShotClassifier(color_model).fit(np.eye(3), ["red", "green", "red"])
    assert classifier.classes_.tolist() == ["green", "red"] and classifier.n_features_in_ == 3
    assert not hasattr(classifier.fit(y=NAMES), "n_features_in_")
    with pytest.raises(ArrayError, match="not the model's"):
        classifier.fit(np.ones((2, 4)), ["red", "green"])
    with pytest.raises(ArrayError, match="has 4 features, but ZeroShotClassifier is expecting 3"):
        classifier.predict(np.ones((2, 4)))


def test_templates_change_the_answer(color_model: ColorModel) -> None:
    plain = ZeroShotClassifier(color_model, templates=["{}"]).fit(y=NAMES)
    misled = ZeroShotClassifier(color_model, templates=["green green green {}"]).fit(y=NAMES)
    assert not np.allclose(plain.class_embeds_, misled.class_embeds_)
    with pytest.raises(SettingsError, match="where the class name goes"):
        ZeroShotClassifier(color_model, templates=["no place"]).fit(y=NAMES)


def test_a_bad_image_is_told_by_position_and_paths_may_be_str(
    color_model: ColorModel, tmp_path: Path
) -> None:
    classifier = ZeroShotClassifier(color_model).fit(y=NAMES)
    with pytest.raises(BadInputsError, match="input 1"):
        classifier.predict([solid(RED), b"broken"])
    (tmp_path / "red.png").write_bytes(solid(RED))
    assert classifier.predict([tmp_path / "red.png"]).tolist() == ["red"]
    assert classifier.predict([tmp_path / "red.png", str(tmp_path / "red.png")]).tolist() == ["red", "red"]
    with pytest.raises(BadInputsError, match="input 1"):
        classifier.predict([str(tmp_path / "red.png"), "a photo of a red square"])


def test_it_works_in_scikit_learns_tools(color_model: ColorModel) -> None:
    classifier = ZeroShotClassifier(color_model)
    assert is_classifier(classifier)
    copy = clone(classifier.set_params(batch_size=2))
    assert copy.model is color_model and copy.batch_size == 2
    table, labels = np.eye(3)[[0, 1, 2] * 4], np.array(NAMES * 4)
    assert cross_val_score(classifier, table, labels, cv=2).tolist() == [1.0, 1.0]
    search = GridSearchCV(classifier, {"templates": [("{}",), ("a photo of a {}.",)]}, cv=2)
    assert search.fit(table, labels).best_score_ == 1.0
    with pytest.raises(ValueError, match="template"):
        classifier.set_params(template="{}")


@pytest.fixture
def swatch_table(tmp_path: Path) -> pandas.DataFrame:
    """Twelve files of three colors, as one reads them from a CSV file."""
    rows = []
    for number in range(12):
        color = (RED, GREEN, BLUE)[number % 3]
        (tmp_path / f"{number}.png").write_bytes(solid(color))
        rows.append((str(tmp_path / f"{number}.png"), NAMES[number % 3]))
    return pandas.DataFrame(rows, columns=["path", "label"])


def test_columns_of_a_table_are_scored(color_model: ColorModel, swatch_table: pandas.DataFrame) -> None:
    classifier, labels = ZeroShotClassifier(color_model), swatch_table["label"]
    paths = swatch_table["path"]
    images = [np.asarray(Image.open(path)) for path in paths]
    for given in (
        paths,
        swatch_table[["path"]],
        pandas.Series([Path(path) for path in paths], dtype=object),
        paths.to_numpy(dtype=object),
        paths.to_numpy(dtype=str),
        paths.tolist(),
        pandas.Series(images, dtype=object),
    ):
        assert cross_val_score(classifier, given, labels, cv=2).tolist() == [1.0, 1.0], type(given)
    assert cross_val_score(classifier, paths, labels.astype("category"), cv=2).tolist() == [1.0, 1.0]
    assert classifier.fit(paths, labels).predict(paths).tolist() == labels.tolist()


def test_a_column_of_embeddings_is_a_table(color_model: ColorModel) -> None:
    rows = pandas.Series([np.array([0.1, 0.9, 0.0]), np.array([0.8, 0.1, 0.0])])
    assert ZeroShotClassifier(color_model).fit(y=NAMES).predict(rows.tolist()).tolist() == ["green", "red"]


@pytest.mark.parametrize("estimator", [LinearProbe(), AnyWidth(NoPictures())])
def test_names_of_columns_are_kept_and_compared_as_scikit_learn_does(estimator: Any) -> None:
    check_dataframe_column_names_consistency(type(estimator).__name__, estimator)


@pytest.mark.parametrize("missing", [None, float("nan"), pandas.NA, pandas.NaT])
def test_missing_labels_are_counted_and_refused_as_by_scikit_learn(missing: Any) -> None:
    labels = np.array(["a", missing, "b", missing], dtype=object)
    with pytest.raises((ValueError, TypeError)):
        LogisticRegression().fit(np.eye(4), labels)
    for estimator in (LinearProbe(), AnyWidth(NoPictures())):
        with pytest.raises(ArrayError, match=r"missing[\s\S]*2 of 4"):
            estimator.fit(np.eye(4), labels)
    with pytest.raises(ArrayError, match="missing"):
        LinearProbe().fit(np.eye(3), np.array([0.0, np.nan, 1.0]))
    with pytest.raises(ArrayError, match="uniformly strings or numbers"):
        LinearProbe().fit(np.eye(3), np.array(["a", 1, "b"], dtype=object))


def test_weights_are_routed_to_the_score(color_model: ColorModel) -> None:
    table, labels = np.eye(3)[[0, 1, 2] * 4], np.array(NAMES * 4)
    labels[:2] = "blue"  # two of the first six are wrong, and weigh nothing
    weights = np.array([0, 0] + [1] * 10)
    with config_context(enable_metadata_routing=True):
        for estimator in (ZeroShotClassifier(color_model), LinearProbe()):
            asking = estimator.set_score_request(sample_weight=True)
            found = cross_val_score(
                asking, table, labels, cv=KFold(2), params={"sample_weight": weights}, error_score="raise"
            )
            assert found[0] == 1.0, estimator
            assert clone(asking).get_metadata_routing().score.requests == {"sample_weight": True}


def test_scores_take_labels_of_their_type_and_as_many(color_model: ColorModel) -> None:
    classifier = ZeroShotClassifier(color_model).fit(y=NAMES)
    for labels, weights in ((NAMES[:2], None), ([0, 1, 2], None), (NAMES, [1.0, 2.0]), (NAMES, [np.nan] * 3)):
        with pytest.raises(ArrayError):
            classifier.score(np.eye(3), labels, sample_weight=weights)


def test_probabilities_of_a_sigmoid_model_are_the_model_s(color_model: ColorModel) -> None:
    color_model.config.logit_bias_init, color_model.bias = -10.0, -3.0
    classifier = ZeroShotClassifier(color_model, templates=["{}"]).fit(y=NAMES)
    expected = 1 / (1 + np.exp(3 - 10 * np.array([[0.0, 0.8, 0.6]])))  # classes in order: blue, green, red
    found = classifier.predict_proba([[3.0, 4.0, 0.0]])
    assert found == pytest.approx(expected, abs=1e-6)
    logits = color_model.scale * np.array([[0.6, 0.8, 0.0]]) @ classifier.class_embeds_.T + color_model.bias
    assert found == pytest.approx(color_model.probabilities(logits), abs=1e-6)


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
