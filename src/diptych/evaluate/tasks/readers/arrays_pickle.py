"""Read a batch of CIFAR for Python without running it: a table of texts, numbers and byte arrays.

A pickle is a program; this reads it with the interpreter of `models/files/torchscript_pickle`, which knows no
imports and no calls. The one thing beyond plain values that a batch holds, a NumPy array of bytes, is
recognised by the names it is written with.

Reads: the pickles of the CIFAR archives (protocol 2, written by Python 2).
"""

import math
from pathlib import Path
from typing import Any

import numpy as np

from diptych.evaluate.tasks.readers.examples import damaged, need
from diptych.models.files.torchscript_pickle import Machine, Name, RefusedError, interpret, is_size, shown

MAX_BYTES = 2**28  # CIFAR-100's training file takes 156 MB
_RECONSTRUCT, _ARRAY, _DTYPE = "numpy.core.multiarray._reconstruct", "numpy.ndarray", "numpy.dtype"
_BYTE = ("u1", 0, 1)


class _Array:
    """An array that awaits its state."""

    value: Any = None


class _BatchMachine(Machine):
    """Knows byte arrays besides plain values."""

    def push_name(self, argument: Any) -> None:
        name = str(argument).replace(" ", ".")
        if name not in (_RECONSTRUCT, _ARRAY, _DTYPE):
            raise RefusedError(f"the pickle names {shown(Name(name))}")
        self.stack.append(Name(name))

    def call(self) -> None:
        arguments, function = self.pop(), self.pop()
        told = function.text if isinstance(function, Name) else ""
        if told == _RECONSTRUCT and isinstance(arguments, tuple) and arguments[:1] == (Name(_ARRAY),):
            self.stack.append(_Array())
        elif told == _DTYPE and arguments == _BYTE:
            self.stack.append(Name(_DTYPE))
        else:
            raise RefusedError(f"the pickle calls {shown(function)}")

    def build(self) -> None:
        state, target = self.pop(), self.pop()
        if isinstance(target, _Array) and isinstance(state, tuple) and len(state) == 5:
            _, shape, kind, column_first, data = state
            sizes = isinstance(shape, tuple) and len(shape) <= 2 and all(map(is_size, shape))
            if not sizes or kind != Name(_DTYPE) or column_first or not isinstance(data, str):
                raise RefusedError("an array of another kind than bytes")
            if math.prod(shape) != len(data):
                raise RefusedError(f"{len(data)} bytes for an array of {list(shape)}")
            target.value = np.frombuffer(data.encode("latin-1"), np.uint8).reshape(shape)
        elif target != Name(_DTYPE):
            raise RefusedError(f"a state is given to {type(target).__name__}")
        self.stack.append(target)


def read_batch(path: Path) -> dict[str, Any]:
    """Return what a batch holds: arrays of bytes, lists and texts by name.

    Raises:
        UsageError: there is no such file.
        IntegrityError: it is damaged, or holds or does anything else.
    """
    if need(path).stat().st_size > MAX_BYTES:
        raise damaged(path, f"{path.stat().st_size} bytes", f"at most {MAX_BYTES}")
    try:
        batch = interpret(path.read_bytes(), _BatchMachine())
    except RefusedError as error:
        raise damaged(path, error, "a table of texts, numbers and byte arrays") from None
    if not isinstance(batch, dict):
        raise damaged(path, type(batch).__name__, "a table")
    return {str(key): value.value if isinstance(value, _Array) else value for key, value in batch.items()}
