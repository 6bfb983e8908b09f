"""Zero-shot classifier for scikit-learn: fit on class names, predict on images or on embeddings.

Nothing is learned from images: `fit` embeds the names' prompts (see `classifier`).
Source: Radford et al. 2021, section 3.1; the conventions are those of scikit-learn 1.9.
"""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diptych.core import checks
from diptych.core.checks import Doubles, Floats
from diptych.core.errors import ArrayError
from diptych.evaluate.classifier import build_classifier
from diptych.evaluate.prompts.templates import PHOTO, Templates
from diptych.evaluate.sklearn_base import Classifier, as_labels
from diptych.models.encode import IMAGE_BATCH, Precision
from diptych.models.inputs import DATA_URL, FILE


class ZeroShotClassifier(Classifier):
    """Classify images by the names of the classes.

    Args:
        model: a `diptych.Model`; copies of the classifier share it.
        templates: captions with one `{}` each that the names are written into; see `Templates`.
        batch_size: images per step.
        precision: what the towers compute in.

    Attributes:
        classes_: (C,) labels, sorted; set by `fit`.
        class_embeds_: (C, E) float32, unit length; set by `fit`.
        n_features_in_: E; set by `fit` when it is given embeddings.
        feature_names_in_: the names of the columns, where X was a table with names.

    X is either embeddings, (N, E) numbers of any length (they are scaled to unit length), or N images, in a
    list, an array or a column of a table: paths (str or `pathlib.Path`), encoded files, Pillow images or
    uint8 arrays.

    >>> ZeroShotClassifier(None, batch_size=8).get_params()["batch_size"]
    8
    """

    def __init__(
        self,
        model: Any,
        templates: Templates | Sequence[str] = PHOTO.templates,
        *,
        batch_size: int = IMAGE_BATCH,
        precision: Precision = "float32",
    ) -> None:
        self.model = model
        self.templates = templates
        self.batch_size = batch_size
        self.precision = precision

    def fit(self, X: Any = None, y: Any = None) -> "ZeroShotClassifier":  # noqa: N803 — scikit-learn's name
        """Embed the prompts of the classes.

        Args:
            X: ignored, but for its width if it holds embeddings; may be left out.
            y: class names, or the labels of all images: the distinct ones are the classes. What is not a
                str is written as one.
        """
        for name in ("n_features_in_", "feature_names_in_"):
            self.__dict__.pop(name, None)
        images, labels = images_of(X), as_labels(y)
        table = None if X is None or images is not None else self._table(X, fitting=True)
        rows = table if images is None else images
        if rows is not None:
            checks.same_length(labels, "y", len(rows))
        self.classes_ = np.unique(labels)
        width = None if table is None else table.shape[1]
        self.class_embeds_ = self._embed_classes([str(label) for label in self.classes_.tolist()], width)
        return self

    def decision_function(self, X: Any) -> Doubles:  # noqa: N803
        """Return the logits (N, C): scale times cosine, plus the model's bias.

        Of two classes (N,), the second one's lead over the first: above 0 means `classes_[1]`.
        """
        logits = self._logits(X)
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    def predict_proba(self, X: Any) -> Doubles:  # noqa: N803
        """Return the probabilities (N, C) of the classes, see `Model.probabilities`."""
        return np.asarray(self.model.probabilities(self._logits(X)))

    def predict(self, X: Any) -> NDArray[Any]:  # noqa: N803
        """Return the best class (N,) of each row; of equal ones, the first."""
        best = self._logits(X).argmax(axis=1)
        return np.asarray(self.classes_[best])

    def _embed_classes(self, names: Sequence[str], width: int | None) -> Floats:
        templates = self.templates
        if not isinstance(templates, Templates):
            templates = Templates("given", tuple(checks.texts(templates, "templates")))
        rows = build_classifier(self.model, names, templates, precision=self.precision)
        if width is not None and width != rows.shape[1]:
            what = "these embeddings are not the model's"
            raise ArrayError(what, found=f"{width} columns", expected=rows.shape[1])
        return rows

    def _logits(self, inputs: Any) -> Doubles:
        self._require_fitted()
        images = images_of(inputs)
        if images is None:
            table = self._table(inputs)
        else:
            table = self.model.encode(images, batch_size=self.batch_size, precision=self.precision)
        table = table.astype(np.float64)
        self._require_width(table, self.class_embeds_.shape[1])
        lengths = np.linalg.norm(table, axis=1, keepdims=True)
        unit = table / np.where(lengths > 0, lengths, 1.0)
        logits: Doubles = self.model.scale * unit @ self.class_embeds_.T.astype(np.float64) + self.model.bias
        return logits

    def __sklearn_clone__(self) -> "ZeroShotClassifier":
        """Return an unfitted copy that shares the model: copying weights for a grid search would be waste."""
        copy = type(self)(**self.get_params(deep=False))
        for name in {"_metadata_request", "_sklearn_output_config"} & vars(self).keys():
            setattr(copy, name, deepcopy(getattr(self, name)))  # what scikit-learn's own clone keeps
        return copy

    def __sklearn_tags__(self) -> Any:
        """Say that names which mean nothing are not learned."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.poor_score = True
        return tags


def images_of(inputs: Any) -> list[Any] | None:
    """Return the images that X holds (see `ZeroShotClassifier`), or None where it holds embeddings."""
    items = inputs.to_numpy() if hasattr(inputs, "to_numpy") else inputs
    if isinstance(items, np.ndarray):
        if items.dtype.kind not in "OUS" and not (items.dtype == np.uint8 and items.ndim == 4):
            return None
        items = items[:, 0] if items.ndim == 2 and items.shape[1] == 1 else items
        items = list(items) if items.ndim in (1, 4) else items
    if not isinstance(items, list | tuple) or not len(items):
        return None
    first = items[0]
    if not isinstance(first, (str, Image.Image, *FILE)) and not (
        isinstance(first, np.ndarray) and first.ndim > 1
    ):
        return None
    return [Path(item) if isinstance(item, str) and not item.startswith(DATA_URL) else item for item in items]
