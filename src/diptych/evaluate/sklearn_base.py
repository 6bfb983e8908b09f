"""Base of classifiers with scikit-learn's interface: parameters, tags, metadata routing, names of columns.

Where scikit-learn is not installed the classifiers work, only not in its tools.
Source: scikit-learn 1.9, "Developing scikit-learn estimators".
"""

import inspect
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diptych.core import checks
from diptych.core.errors import ArrayError, UsageError

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.exceptions import ConvergenceWarning as ConvergenceWarning
    from sklearn.exceptions import DataConversionWarning, NotFittedError
    from sklearn.utils.validation import validate_data
except ImportError:
    NotFittedError, validate_data = UsageError, None
    ConvergenceWarning = DataConversionWarning = UserWarning

    class ClassifierMixin:  # type: ignore[no-redef]
        """Nothing of scikit-learn's is there."""

    class BaseEstimator:  # type: ignore[no-redef]
        """Keeps the constructor's arguments under their names, as scikit-learn's does."""

        def get_params(self, deep: bool = True) -> dict[str, Any]:  # noqa: ARG002 — scikit-learn's signature
            """Return the constructor's arguments by name."""
            return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}


class Classifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier whose `fit` sets `classes_`."""

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:  # noqa: N803 — scikit-learn's name
        """Return the fraction of rows in [0, 1] whose best class is `y`, weighted if there are weights."""
        predicted, labels = self.predict(X), as_labels(y)
        checks.same_length(labels, "y", len(predicted))
        if (predicted.dtype.kind in "OUS") != (labels.dtype.kind in "OUS"):
            raise ArrayError("y and the classes are of two types", found=f"{labels.dtype}, {predicted.dtype}")
        if sample_weight is not None:
            sample_weight = checks.numbers(sample_weight, "sample_weight", length=len(labels))
        return float(np.average(predicted == labels, weights=sample_weight))

    def _table(self, X: Any, *, fitting: bool = False) -> NDArray[np.floating]:  # noqa: N803
        """Return (N, E) rows, and keep or compare the names of their columns."""
        if validate_data is not None:
            validate_data(self, X, reset=fitting, skip_check_array=True, ensure_2d=False)
        table = checks.rows(X, "X", least=1)
        if fitting:
            self.n_features_in_ = table.shape[1]
        self._require_width(table, vars(self).get("n_features_in_", table.shape[1]))
        return table

    def _require_width(self, table: NDArray[Any], width: int) -> None:
        if table.shape[1] != width:
            expected = f"{type(self).__name__} is expecting {width} features as input"
            raise ArrayError(f"X has {table.shape[1]} features, but {expected}")

    def _require_fitted(self) -> None:
        if not hasattr(self, "classes_"):
            raise NotFittedError(f"This {type(self).__name__} instance is not fitted yet. Call 'fit' first.")


def as_labels(labels: Any) -> NDArray[Any]:
    """Return (N,) labels; none, missing ones and measurements are refused."""
    if labels is None:
        raise ArrayError("requires y to be passed, but the target y is None", fix="name the classes in y")
    array = np.asarray(labels)
    if array.ndim == 2 and array.shape[1] == 1:
        what = "A column-vector y was passed when a 1d array was expected"
        warnings.warn(DataConversionWarning(what), stacklevel=3)
        array = array.ravel()
    if array.ndim != 1 or not len(array):
        raise ArrayError("y should be a 1d array of labels", found=f"shape {array.shape}")
    missing = sum(map(_is_missing, array.tolist()))
    if missing:
        raise ArrayError("Input y contains NaN: labels are missing", found=f"{missing} of {len(array)}")
    if array.dtype.kind == "f" and not (np.isfinite(array).all() and (array == np.floor(array)).all()):
        raise ArrayError("Unknown label type: continuous", fix="y names classes; numbers must be whole")
    if len(kinds := {str if isinstance(label, str) else float for label in array.tolist()}) > 1:
        raise ArrayError("y has to be uniformly strings or numbers", found=f"{len(kinds)} types")
    return array


def _is_missing(label: Any) -> bool:
    try:
        return label is None or bool(label != label)
    except TypeError:  # pandas' NA
        return True
