"""Files that somebody else wrote: UTF-8 text, one JSON object, an array; which names in a folder are data.

Whoever wrote them is not trusted. A JSON file that is no regular file, too large, too deep or holds NaN is
refused before anything is made of it; `diptych.core.settings.from_mapping` checks the types of its values.
"""

import codecs
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.core.errors import EnvironmentFault, IntegrityError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
MAX_BYTES = 64 * 2**20  # the manifest of 100,000 shards takes 20 MB, the index of the largest model 0.2 MB
SHOWN_CHARACTERS = 200  # of the parser's message

# What desktops leave beside a user's files. macOS also writes a companion ``._NAME`` beside every file on
# disks of other systems, with the suffix of the file.
_LEFT_BEHIND = frozenset({"__macosx", "thumbs.db", "desktop.ini"})


def is_data(name: str) -> bool:
    """Tell whether a file or folder of this name may hold data.

    >>> [is_data(name) for name in ("a.jpg", "._a.jpg", ".DS_Store", "__MACOSX", "Thumbs.db")]
    [True, False, False, False, False]
    """
    return not name.startswith(".") and name.lower() not in _LEFT_BEHIND


def read_text(path: str | Path) -> str:
    """Read a text file; see `decode_text`."""
    return decode_text(Path(path).read_bytes())


def decode_text(data: bytes) -> str:
    """Decode UTF-8; a byte order mark at the start, as Windows programs write it, is no part of the text.

    >>> decode_text(b"\\xef\\xbb\\xbftitle")
    'title'
    """
    if data.startswith(UTF16):
        raise UnicodeDecodeError("utf-8", data[:2], 0, 2, "this is UTF-16; save it as UTF-8")
    return data.decode("utf-8-sig")


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
        actual = getattr(error, "strerror", "") or str(error)
        raise EnvironmentFault("cannot read the file", where=path, found=actual) from error
    try:
        if len(data) > max_bytes:
            raise ValueError(f"more than {max_bytes:,} bytes")
        document = json.loads(decode_text(data), parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}"[:SHOWN_CHARACTERS], fix) from error
    if not isinstance(document, dict):
        raise _damaged(path, type(document).__name__, fix)
    return document


def _damaged(path: Path, found: str, fix: str) -> IntegrityError:
    return IntegrityError("the file is damaged", where=path, found=found, expected="a JSON object", fix=fix)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:SHOWN_CHARACTERS]} is not a finite number")
    return number


def load_array(path: Path) -> "NDArray[Any]":
    """Map an array that `diptych.core.files.durable.save_array` wrote."""
    import numpy as np

    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        actual, fix = str(error)[:100], "remove this file and make it again"
        raise IntegrityError("an array cannot be read", where=path, found=actual, fix=fix) from error
    return array
