"""Makers of small sources, a reader that counts, and runs that a fault interrupts."""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from diptych.core.errors import EnvironmentFault
from diptych.core.files.durable import operations
from diptych.core.records import Counts, Need, Pair
from diptych.data.sources.open import Columns, open_source

DEFAULT = Columns()


def make_image(number: int = 0, format_: str = "JPEG", *, size: tuple[int, int] = (8, 6)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (number * 7 % 256, 90, 200)).save(buffer, format_)
    return buffer.getvalue()


def images(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(make_image(number))


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def write_parquet(path: Path, **columns: Any) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), path)
    return path


def read(
    ref: str | Path, columns: Columns = DEFAULT, need: Need = Need.PAIR
) -> tuple[list[Pair], dict[str, int]]:
    """All pairs of a source and its drops by reason."""
    counts = Counts()
    pairs = []
    for pair in open_source(ref, columns=columns, need=need).pairs(counts):
        counts.keep()
        pairs.append(pair)
    counts.check(1.0)
    json.dumps(counts.as_dict(), ensure_ascii=False).encode()  # what a manifest will do with the examples
    return pairs, counts.as_dict()["dropped"]


def keyed(ref: str | Path, columns: Columns = DEFAULT, need: Need = Need.PAIR) -> list[tuple[str, Any]]:
    """(key, captions) of each pair of a source that drops none."""
    pairs, dropped = read(ref, columns, need)
    assert dropped == {}
    return [(pair.key, pair.captions) for pair in pairs]


def digests(folder: Path) -> dict[str, str]:
    """Digests of all files but the manifest, which says how long it took."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.name != "manifest.json"
    }


def kills(command: Callable[[int], object]) -> Iterator[int]:
    """Yield every durable step at which a forked process that runs the command can end without clean-up."""
    step = 0
    while True:
        step += 1
        child = os.fork()
        if child == 0:
            os.environ.update(DIPTYCH_TESTING="1", DIPTYCH_FAILPOINT=f"exit:{operations() + step}")
            try:
                command(step)
            except BaseException:
                os._exit(1)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code == 0:
            break
        assert code == 137
        yield step
    assert step > 20


def disk_faults(fault: str, stride: int, command: Callable[[int], object]) -> Iterator[int]:
    """Yield every durable step, `stride` apart, at which the disk can fail while the command runs."""
    step = 1 - stride
    while True:
        step += stride
        os.environ["DIPTYCH_FAILPOINT"] = f"{fault}:{operations() + step}"
        try:
            command(step)
        except EnvironmentFault as error:
            assert error.where and "bytes free" in error.found and error.fix
        else:
            break
        finally:
            del os.environ["DIPTYCH_FAILPOINT"]
        yield step
    assert step > 20


INTERRUPTIONS = [
    pytest.param(kills, id="killed"),
    pytest.param(partial(disk_faults, "enospc", 2), id="disk full"),
    pytest.param(partial(disk_faults, "eio", 5), id="disk broken"),
]
