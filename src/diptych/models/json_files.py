"""Read JSON that somebody else wrote: one object of plain values, of a sane size.

Reads: configurations, processor settings and indexes of weights.
"""

import json
from pathlib import Path
from typing import Any

from diptych.core.errors import EnvironmentFault, IntegrityError, UsageError

MAX_BYTES = 4 * 2**20  # the index of the largest model takes less than 200 kB


def read_json(path: Path) -> dict[str, Any]:
    """Read one JSON object.

    Raises:
        UsageError: there is no such file.
        IntegrityError: it is anything else, too large, or holds numbers that JSON does not have.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"{path.stat().st_size:,} bytes")
        document = json.loads(path.read_bytes(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise malformed(path, f"{type(error).__name__}: {error}"[:200], "a JSON object") from error
    except FileNotFoundError as error:
        raise UsageError("there is no such file", where=path, fix="check the path") from error
    except OSError as error:
        raise EnvironmentFault("cannot read the file", where=path, found=error.strerror or error) from error
    if not isinstance(document, dict):
        raise malformed(path, type(document).__name__, "a JSON object")
    return document


def malformed(path: Path, found: str, expected: str) -> IntegrityError:
    """Build the error for a file whose content makes no model."""
    return IntegrityError(
        "the file does not describe a model that can be read",
        where=path,
        found=found,
        expected=expected,
        fix="restore the file that was published with these weights",
    )


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")
