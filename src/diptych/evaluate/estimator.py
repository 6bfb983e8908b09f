"""A classifier with scikit-learn's face: fit on class names, predict on pictures or on embeddings.

Nothing is learned from pictures: `fit` embeds the names' prompts (see `classifier`). scikit-learn is not
needed, and never imported but for its own tags, its own error and its own warning.

Source: Radford et al. 2021, section 3.1; the conventions are those of scikit-learn 1.9.
"""

import inspect
import os
import warnings
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diptych.core.errors import ArrayError, UsageError, unknown_name
from diptych.data.images import Mode
from diptych.embed.features import IMAGE_BATCH, Precision
from diptych.evaluate.classifier import build_classifier
from diptych.evaluate.prompts import PHOTO, Templates

Table = NDArray[np.float64]
Raised = TypeVar("Raised", bound=Exception)
PICTURES = (str, bytes, bytearray, memoryview, os.PathLike, Image.Image)


class ZeroShotClassifier:
    """Classify pictures by the names of the classes.

    Args:
        model: a `diptych.Model`, or anything with its face.
        templates: captions with one `{}` each that the names are written into; see `Templates`.
        batch_size: pictures per step.
        precision: what the towers compute in.
        preprocessing: "exact" or "fast", see `diptych.data.images`.

    Attributes:
        classes_: (C,) labels, sorted; set by `fit`.
        class_embeds_: (C, E) float32, unit length; set by `fit`.
        n_features_in_: E; set by `fit` when it is given embeddings.

    X is either embeddings, (N, E) numbers of any length (they are scaled to unit length), or a sequence of N
    pictures as `Model.encode` takes them: `pathlib.Path`, encoded bytes, Pillow pictures, uint8 arrays.

    >>> ZeroShotClassifier(None, batch_size=8)
    ZeroShotClassifier(batch_size=8)
    """

    def __init__(
        self,
        model: Any,
        templates: Templates | Sequence[str] = PHOTO.templates,
        *,
        batch_size: int = IMAGE_BATCH,
        precision: Precision = "float32",
        preprocessing: Mode = "exact",
    ) -> None:
        self.model = model
        self.templates = templates
        self.batch_size = batch_size
        self.precision = precision
        self.preprocessing = preprocessing

    def fit(self, X: Any = None, y: Any = None) -> "ZeroShotClassifier":  # noqa: N803 — scikit-learn's name
        """Embed the prompts of the classes.

        Args:
            X: ignored, but for its width where it holds embeddings; may be left out.
            y: class names, or the labels of all pictures: the distinct ones are the classes. What is not a
                str is written as one.

        Raises:
            ArrayError: no labels, or X and y do not fit each other or the model.
            UsageError: two classes have the same prompts.
        """
        table = None if X is None or is_pictures(X) else as_table(X)
        labels = as_labels(y)
        rows = None if X is None else len(X) if table is None else len(table)
        if rows is not None and rows != len(labels):
            raise ArrayError("X and y have different lengths", found=f"{rows} rows and {len(labels)} labels")
        self.classes_ = np.unique(labels)
        width = None if table is None else table.shape[1]
        self.class_embeds_ = self._embed_classes([str(label) for label in self.classes_.tolist()], width)
        self.__dict__.pop("n_features_in_", None)
        if width is not None:
            self.n_features_in_ = width
        return self

    def decision_function(self, X: Any) -> Table:  # noqa: N803
        """Return the logits (N, C): scale times cosine, plus the model's bias; of two classes (N,).

        With two classes it is the second one's lead over the first: above 0 means `classes_[1]`.

        Raises:
            ArrayError: X does not fit the classifier.
            BadInputsError: some pictures cannot be read; it names their positions.
        """
        logits = self._logits(X)
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    def predict_proba(self, X: Any) -> Table:  # noqa: N803
        """Return the shares (N, C) of the classes, a softmax over the logits."""
        logits = self._logits(X)
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        found: Table = shares / shares.sum(axis=1, keepdims=True)
        return found

    def predict(self, X: Any) -> NDArray[Any]:  # noqa: N803
        """Return the best class (N,) of each row; of equal ones, the first."""
        best = self._logits(X).argmax(axis=1)
        found: NDArray[Any] = self.classes_[best]
        return found

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:  # noqa: N803
        """Return the share of rows in [0, 1] whose best class is `y`, weighted if there are weights."""
        right = self.predict(X) == as_labels(y)
        return float(np.average(right, weights=sample_weight))

    def get_params(self, deep: bool = True) -> dict[str, Any]:  # noqa: ARG002 — no parameter has parameters
        """Return the constructor's arguments by name."""
        names = list(inspect.signature(ZeroShotClassifier.__init__).parameters)[1:]
        return {name: getattr(self, name) for name in names}

    def set_params(self, **params: Any) -> "ZeroShotClassifier":
        """Set arguments of the constructor.

        Raises:
            UnknownNameError: there is no such argument.
        """
        known = self.get_params()
        for name, value in params.items():
            if name not in known:
                raise unknown_name("parameter of ZeroShotClassifier", name, known)
            setattr(self, name, value)
        return self

    def _embed_classes(self, names: Sequence[str], width: int | None) -> NDArray[np.float32]:
        """Return (C, E) unit rows, and see that they are as wide as the embeddings to come."""
        templates = self.templates
        if not isinstance(templates, Templates):
            templates = Templates("given", tuple(templates))
        rows = build_classifier(self.model, names, templates, precision=self.precision)
        if width is not None and width != rows.shape[1]:
            raise ArrayError(
                "these embeddings are not the model's", found=f"{width} columns", expected=rows.shape[1]
            )
        return rows

    def _logits(self, inputs: Any) -> Table:
        if not self.__sklearn_is_fitted__():
            what = f"This {type(self).__name__} instance is not fitted yet."
            raise from_sklearn("NotFittedError", UsageError)(what + " Call 'fit' with the class names.")
        if is_pictures(inputs):
            table = self.model.encode(
                list(inputs),
                batch_size=self.batch_size,
                precision=self.precision,
                preprocessing=self.preprocessing,
            ).astype(np.float64)
        else:
            table = as_table(inputs)
        if table.shape[1] != self.class_embeds_.shape[1]:
            raise ArrayError(
                f"X has {table.shape[1]} features, but {type(self).__name__} is expecting "
                f"{self.class_embeds_.shape[1]} features as input"
            )
        lengths = np.linalg.norm(table, axis=1, keepdims=True)
        unit = table / np.where(lengths > 0, lengths, 1.0)
        logits: Table = self.model.scale * unit @ self.class_embeds_.T.astype(np.float64) + self.model.bias
        return logits

    def __repr__(self) -> str:
        defaults = inspect.signature(ZeroShotClassifier.__init__).parameters
        own = {name: value for name, value in self.get_params().items() if name != "model"}
        told = [f"{name}={value!r}" for name, value in own.items() if value is not defaults[name].default]
        return f"{type(self).__name__}({', '.join(told)})"

    def __sklearn_clone__(self) -> "ZeroShotClassifier":
        """Return an unfitted copy that shares the model: copying weights for a grid search would be waste."""
        return type(self)(**self.get_params())

    def __sklearn_is_fitted__(self) -> bool:
        """Say whether `fit` was called."""
        return hasattr(self, "class_embeds_")

    def __sklearn_tags__(self) -> Any:
        """Tell scikit-learn what this is."""
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags

        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=True),
            classifier_tags=ClassifierTags(poor_score=True),
            input_tags=InputTags(),
        )


def is_pictures(inputs: Any) -> bool:
    """Tell a sequence of pictures from a table of embeddings.

    Raises:
        UsageError: a text stands where a picture should.
    """
    if isinstance(inputs, np.ndarray):
        return inputs.dtype == np.uint8 and inputs.ndim == 4
    if not isinstance(inputs, list | tuple) or not inputs:
        return False
    for position, item in enumerate(inputs):
        if isinstance(item, str) and not item.startswith("data:image/"):
            raise UsageError(
                "a str is a text, not a picture",
                where=f"X, item {position}",
                found=repr(item[:60]),
                fix="give the file as pathlib.Path",
            )
    first = inputs[0]
    return isinstance(first, PICTURES) or (isinstance(first, np.ndarray) and first.ndim > 1)


def as_table(values: Any) -> Table:
    """Return (N, E) float64 embeddings.

    Raises:
        ArrayError: what is wrong with them, in scikit-learn's words.
    """
    if hasattr(values, "toarray"):
        raise ArrayError("sparse data was passed, but embeddings are dense", fix="call .toarray() on it")
    array = np.asarray(values)
    if array.dtype.kind == "c":
        raise ArrayError("Complex data not supported")
    table: Table = array.astype(np.float64)
    if table.ndim != 2:
        raise ArrayError(
            f"Expected 2D array, got {table.ndim}D array instead",
            fix="Reshape your data with array.reshape(1, -1) if it is a single embedding",
        )
    for axis, name in enumerate(("sample", "feature")):
        if table.shape[axis] < 1:
            raise ArrayError(
                f"Found array with 0 {name}(s) (shape={table.shape}) while a minimum of 1 is required."
            )
    if not np.isfinite(table).all():
        raise ArrayError("Input X contains NaN or infinity", fix="drop unreadable pictures first")
    return table


def as_labels(labels: Any) -> NDArray[Any]:
    """Return (N,) labels.

    Raises:
        ArrayError: there are none, or they are measurements rather than labels.
    """
    if labels is None:
        raise ArrayError("requires y to be passed, but the target y is None", fix="name the classes in y")
    array = np.asarray(labels)
    if array.ndim == 2 and array.shape[1] == 1:
        what = "A column-vector y was passed when a 1d array was expected"
        warnings.warn(from_sklearn("DataConversionWarning", UserWarning)(what), stacklevel=3)
        array = array.ravel()
    if array.ndim != 1 or not len(array):
        raise ArrayError("y should be a 1d array of labels", found=f"shape {array.shape}")
    if array.dtype.kind == "f" and not (np.isfinite(array).all() and (array == np.floor(array)).all()):
        raise ArrayError("Unknown label type: continuous", fix="y names classes; numbers must be whole")
    return array


def from_sklearn(name: str, otherwise: type[Raised]) -> type[Raised]:
    """Return one of scikit-learn's own exceptions where it is installed: its tools look for exactly these."""
    try:
        from sklearn import exceptions
    except ImportError:
        return otherwise
    found: type[Raised] = getattr(exceptions, name)
    return found
