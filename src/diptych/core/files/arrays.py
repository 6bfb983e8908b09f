"""Arrays on disk (`.npy`): written durably, read without trust."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diptych.core.errors import IntegrityError
from diptych.core.files.durable import write_bytes


def save_array(path: Path, array: NDArray[Any]) -> None:
    """Write an array durably; equal arrays make equal bytes."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_bytes(path, buffer.getvalue())


def load_array(path: Path) -> NDArray[Any]:
    """Map an array that `save_array` wrote."""
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        actual, fix = str(error)[:100], "remove this file and make it again"
        raise IntegrityError("an array cannot be read", where=path, found=actual, fix=fix) from error
    return array
