"""Read a batch of CIFAR for Python without running it: a table of texts, numbers and byte arrays.

The one thing beyond plain values that a batch holds, a NumPy array of bytes, is recognized by the names it is
written with (`models/files/torchscript_pickle`).

Reads: the pickles of the CIFAR archives (protocol 2, written by Python 2).
"""

import math
from pathlib import Path
from typing import Any

import numpy as np

from diptych.evaluate.tasks.readers.examples import damaged, need
from diptych.models.files.torchscript_pickle import Call, RefusedError, interpret, is_size

MAX_BYTES = 2**28  # CIFAR-100's training file takes 156 MB


class _Array:
    """An array of bytes, which its state fills."""

    __slots__ = ("value",)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, column_first, data = state
        sizes = isinstance(shape, tuple) and len(shape) <= 2 and all(map(is_size, shape))
        if not sizes or not isinstance(dtype, _Byte) or column_first or not isinstance(data, str):
            raise RefusedError("an array of another kind than bytes")
        if math.prod(shape) != len(data):
            raise RefusedError(f"{len(data)} bytes for an array of {list(shape)}")
        self.value = np.frombuffer(data.encode("latin-1"), np.uint8).reshape(shape)


class _Byte:
    """The type of its elements."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        pass  # byte order and alignment mean nothing to single bytes


def _dtype(*arguments: Any) -> _Byte:
    if arguments != ("u1", 0, 1):
        raise RefusedError("an array of another kind than bytes")
    return _Byte()


_NAMES = {
    "numpy.core.multiarray._reconstruct": Call(lambda *_: _Array()),
    "numpy.ndarray": None,
    "numpy.dtype": Call(_dtype),
}


def read_batch(path: Path) -> dict[str, Any]:
    """Return what a batch holds: arrays of bytes, lists and texts by name.

    Raises:
        UsageError: there is no such file.
        IntegrityError: it is damaged, or holds or does anything else.
    """
    if need(path).stat().st_size > MAX_BYTES:
        raise damaged(path, f"{path.stat().st_size} bytes", f"at most {MAX_BYTES}")
    try:
        batch = interpret(path.read_bytes(), _NAMES.__getitem__)
    except RefusedError as error:
        raise damaged(path, error, "a table of texts, numbers and byte arrays") from None
    if not isinstance(batch, dict):
        raise damaged(path, type(batch).__name__, "a table")
    return {
        str(key): getattr(value, "value", None) if isinstance(value, _Array) else value
        for key, value in batch.items()
    }
