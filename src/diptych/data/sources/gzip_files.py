"""Files compressed with gzip: tables and tars of others.

Reads: gzip streams. Writes: a plain copy of a tar, for random access.
"""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diptych.core.errors import DataError, IntegrityError
from diptych.core.files.durable import writing

_CHUNK = 1 << 20
_MAX_RATIO = 100  # images hardly get smaller; gzip can make a terabyte of zeros out of a gigabyte


@contextmanager
def gzip_damage(path: Path) -> Iterator[None]:
    """Turn what a damaged stream raises into an error of ours.

    Raises:
        IntegrityError: the stream is damaged or cut short.
    """
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise IntegrityError(
            "a compressed file is damaged", where=path, found=str(error), fix="fetch or write it again"
        ) from None


def unpack(path: Path, target: Path) -> Path:
    """Write the plain content of a gzip file.

    Returns:
        The target.

    Raises:
        IntegrityError: the stream is damaged.
        DataError: it unpacks to more than a hundred times its size.
    """
    allowed = _MAX_RATIO * path.stat().st_size + _CHUNK
    with gzip_damage(path), gzip.open(path) as packed, writing(target) as plain:
        while chunk := packed.read(_CHUNK):
            allowed -= len(chunk)
            if allowed < 0:
                raise DataError(
                    "refused: a compressed tar unpacks to far more than its size",
                    where=path,
                    expected=f"at most {_MAX_RATIO} times its size",
                    fix="unpack it yourself if you trust it",
                )
            plain.write(chunk)
    return target
