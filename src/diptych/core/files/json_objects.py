"""Read a JSON file that holds one object: the only reader of whole JSON files in this package.

Whoever wrote it is not trusted. What is no regular file, too large, too deep or holds NaN is refused before
anything is made of it; the types of its values are checked by `diptych.core.settings.from_mapping`.
"""

import json
import math
from pathlib import Path
from typing import Any

from diptych.core.errors import EnvironmentFault, IntegrityError, UsageError
from diptych.core.files.text import decode_text

MAX_BYTES = 64 * 2**20  # the manifest of 100,000 shards takes 20 MB, the index of the largest model 0.2 MB
SHOWN_CHARACTERS = 200  # of the parser's message


def read_json(
    path: str | Path, *, max_bytes: int = MAX_BYTES, fix: str = "restore the file from a copy"
) -> dict[str, Any]:
    """Read one JSON object; `fix` says what to do about a damaged file."""
    path = Path(path)
    try:
        if not path.is_file():
            actual = "something else by this name" * path.exists()
            raise UsageError("there is no such file", where=path, found=actual, fix="check the path")
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except (OSError, ValueError) as error:
        raise EnvironmentFault(
            "cannot read the file", where=path, found=getattr(error, "strerror", "") or error
        ) from error
    try:
        if len(data) > max_bytes:
            raise ValueError(f"more than {max_bytes:,} bytes")
        document = json.loads(decode_text(data), parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}"[:SHOWN_CHARACTERS], fix) from error
    if not isinstance(document, dict):
        raise _damaged(path, type(document).__name__, fix)
    return document


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:SHOWN_CHARACTERS]} is not a finite number")
    return number


def _damaged(path: Path, found: str, fix: str) -> IntegrityError:
    return IntegrityError("the file is damaged", where=path, found=found, expected="a JSON object", fix=fix)
