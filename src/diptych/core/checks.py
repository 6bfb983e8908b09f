"""Checks of the arguments of public functions: each is checked once, where it comes in.

An array that does not fit is an `ArrayError`, which is a `ValueError`, in scikit-learn's words; any other
argument a `UsageError`.
"""

from collections.abc import Iterable
from numbers import Integral
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diptych.core.errors import ArrayError, UsageError

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

UNIT_TOLERANCE = 0.01  # of the length of unit rows; rows kept in float16 or bfloat16 are within 0.004


def whole(value: Any, name: str, *, least: int = 1) -> int:
    """Return a whole number of at least `least`; True and False are none."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, Integral) or value < least:
        actual = value if isinstance(value, int | float) else type(value).__name__
        raise UsageError(f"{name} is not a count", found=actual, expected=f"a whole number, {least} or more")
    return int(value)


def fraction(value: Any, name: str, *, zero: bool = False) -> float:
    """Return a number between 0 and 1, both excluded; `zero`: 0 is allowed."""
    is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not is_number or not (0 < value < 1 or (zero and value == 0)):
        actual, wanted = value if is_number else type(value).__name__, f"{'0, or ' * zero}between 0 and 1"
        raise UsageError(f"{name} is not a fraction", found=actual, expected=wanted)
    return float(value)


def part(hits: float, count: int) -> None:
    """Refuse hits that are no part of a count: fewer than none, more than all, or NaN."""
    if not 0 <= hits <= whole(count, "count", least=0):
        raise UsageError("hits are no part of the count", found=hits, expected=f"0 to {count}")


def texts(values: Any, name: str) -> list[str]:
    """Return a list of texts; a single one is refused, because its letters would be taken for texts.

    >>> texts(("a cat", "a dog"), "texts")
    ['a cat', 'a dog']
    """
    what = f"{name} has to be a list of texts"
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise UsageError(what, found=type(values).__name__, fix='write ["a cat"] for one')
    result = list(values)
    for position, item in enumerate(result):
        if not isinstance(item, str):
            where = f"{name}, item {position}"
            raise UsageError(what, where=where, found=type(item).__name__, expected="str")
    return result


def kind(value: Any, wanted: type, name: str, *, fix: str = "") -> None:
    """Refuse what is not of a type."""
    if not isinstance(value, wanted):
        actual, expected = type(value).__name__, f"a {wanted.__name__}"
        raise UsageError(f"{name} is of another type", found=actual, expected=expected, fix=fix)


def path(value: Any, name: str) -> str:
    """Return a path or name as text; an empty one, which would mean the working directory, is refused."""
    if not isinstance(value, str | PathLike) or not (text := str(value)):
        actual = "an empty text" if value == "" else type(value).__name__
        raise UsageError(f"{name} is no path or name", found=actual)
    return text


def array(values: Any, name: str, axes: int) -> NDArray[Any]:
    """Return real numbers with so many axes."""
    if hasattr(values, "toarray"):
        raise ArrayError(f"sparse data was passed as {name}, but it is dense", fix="call .toarray() on it")
    try:
        result = np.asarray(values)
        if result.dtype.kind in "OUS":
            result = result.astype(np.float64)
    except (ValueError, RuntimeError) as error:  # a TypeError is what scikit-learn's checks ask for
        raise ArrayError(f"{name} is not numeric", found=type(values).__name__) from error
    if result.dtype.kind == "c":
        raise ArrayError("Complex data not supported", where=name)
    if result.dtype.kind not in "biuf":
        raise ArrayError(f"{name} is not numeric", found=result.dtype)
    if result.ndim != axes:
        fix = "Reshape your data with array.reshape(1, -1) if it is a single embedding" if axes == 2 else ""
        raise ArrayError(f"Expected {axes}D array, got {result.ndim}D array instead", where=name, fix=fix)
    return result


def rows(
    values: Any,
    name: str,
    *,
    width: int | None = None,
    least: int = 0,
    missing: bool = False,
    unit: bool = False,
) -> NDArray[np.floating]:
    """Return (N, E) float32 or float64, with at least so many rows.

    Args:
        values: what numpy can read.
        name: of the argument.
        width: E.
        least: N.
        missing: rows of NaN are allowed: they stand for unreadable images.
        unit: rows have unit length.
    """
    result = array(values, name, 2)
    if result.dtype not in (np.float32, np.float64):
        result = result.astype(np.float32 if result.dtype == np.float16 else np.float64)
    for axis, (what, needed) in enumerate((("sample", least), ("feature", 1))):
        if result.shape[axis] < needed:
            empty = f"Found array with 0 {what}(s) (shape={result.shape})"
            raise ArrayError(f"{empty} while a minimum of 1 is required.", where=name)
    if width is not None and result.shape[1] != width:
        raise ArrayError(f"{name} has another width", found=f"{result.shape[1]} columns", expected=width)
    lengths = np.einsum("ne,ne->n", result, result)
    lost = np.isnan(lengths)
    if (np.isinf(lengths).any() and np.isinf(result).any()) or (lost.any() and not missing):
        raise ArrayError(f"Input {name} contains NaN or infinity", fix="drop unreadable images first")
    if unit and (np.abs(np.sqrt(lengths[~lost]) - 1) > UNIT_TOLERANCE).any():
        raise ArrayError(f"rows of {name} are not of unit length", fix="divide each row by its length")
    return result


def numbers(values: Any, name: str, *, length: int | None = None) -> NDArray[np.floating]:
    """Return (N,) numbers without NaN."""
    result = array(values, name, 1)
    same_length(result, name, length)
    if np.isnan(result).any():
        raise ArrayError(f"Input {name} contains NaN")
    return result


def classes(
    values: Any, name: str, class_count: int, *, length: int | None = None, least: int = 0
) -> NDArray[np.int64]:
    """Return (N,) int64 class numbers from `least` up to, and without, `class_count`."""
    result = numbers(values, name, length=length)
    if result.dtype.kind == "f" and (result != np.floor(result)).any():
        raise ArrayError(f"{name} are not class numbers: continuous is not supported")
    if len(result) and not (least <= result.min() and result.max() < class_count):
        actual, expected = f"{result.min()} to {result.max()}", f"{least} to {class_count - 1}"
        raise ArrayError(f"{name} hold unknown classes", found=actual, expected=expected)
    return result.astype(np.int64)


def flags(values: Any, name: str, *, length: int | None = None) -> NDArray[np.bool_]:
    """Return (N,) bool; 0 and 1 stand for False and True, the numbers of three classes are refused."""
    result = numbers(values, name, length=length)
    if result.dtype.kind != "b" and not np.isin(result, (0, 1)).all():
        raise ArrayError(f"{name} has to be True or False: multiclass format is not supported")
    return result.astype(np.bool_)


def same_length(rows: NDArray[Any], name: str, length: int | None) -> None:
    """Refuse arrays of which each row belongs to a row of another, and that are longer or shorter."""
    if length is not None and len(rows) != length:
        what = "Found input variables with inconsistent numbers of samples"
        raise ArrayError(what, where=name, found=len(rows), expected=length)
