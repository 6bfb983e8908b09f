"""Every durable write of the package: a reader sees the old bytes or the new ones, never half of them.

A file is written beside its final name, flushed to the disk (fsync), renamed, and then the rename itself is
flushed (fsync of the folder). A folder is filled under a temporary name and renamed whole. What a killed
process leaves behind begins with `TEMP_PREFIX` and is swept away by `clean_temporaries`.

A test can stop a process at each of these steps: `DIPTYCH_TESTING=1 DIPTYCH_FAILPOINT=exit:17` ends it at the
17th step without any clean-up, as a kill does; `enospc:17` and `eio:17` fail as a full or a broken disk does.

Source: Pillai et al. 2014, "All File Systems Are Not Created Equal": a rename without fsync may lose both.
"How SQLite Is Tested", section 3, anomaly testing: fail the n-th step, for all n.
"""

import ctypes
import errno
import hashlib
import io
import json
import os
import secrets
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from diptych.core.errors import EnvironmentFault, UsageError
from diptych.core.files.locks import locked

if TYPE_CHECKING:
    from numpy.typing import NDArray

TEMP_PREFIX = ".diptych-tmp-"
SWAPPED_MARK = "old-"  # follows TEMP_PREFIX in the name of a folder that was moved aside to be replaced
BUFFER_BYTES = 1 << 20  # one system call per MiB: shards of hundreds of MB are written through this buffer
TAIL_BYTES = 1 << 12  # a log is searched backwards for the end of its last whole line in such pieces
KILLED = 137  # exit code of a process that SIGKILL ended: 128 + 9

_counting = threading.Lock()
_steps = 0


def operations() -> int:
    """Return how many durable steps this process has begun."""
    return _steps


def failpoint(operation: str) -> None:
    """Count one durable step ("write", "fsync", …), and fail here if the environment asks for it."""
    global _steps  # noqa: PLW0603 — one counter per process is the point
    with _counting:
        _steps += 1
        step = _steps
    plan = os.environ.get("DIPTYCH_FAILPOINT")
    if not plan or os.environ.get("DIPTYCH_TESTING") != "1":
        return
    kind, _, number = plan.partition(":")
    if step != int(number):
        return
    if kind == "exit":
        os._exit(KILLED)
    code = {"enospc": errno.ENOSPC, "eio": errno.EIO}[kind]
    raise OSError(code, f"{os.strerror(code)} (failpoint {step}: {operation})")


@contextmanager
def _disk(path: Path, verb: str = "write") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        free = "free space unknown"
        for folder in path.absolute().parents:  # the nearest one that exists and may be asked
            with suppress(OSError):
                free = f"{shutil.disk_usage(folder).free:,} bytes free"
                break
        fix = "check the disk and the path, then run the same command again"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            fix = "make room there, then run the same command again"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            fix = "choose a folder that you may write to"
        actual = f"{error.strerror or error}; {free}"
        raise EnvironmentFault(f"cannot {verb}", where=path, found=actual, fix=fix) from error


class _CountedFile(io.FileIO):
    """A new file whose every system call to write is a durable step, and whose faults name `final`."""

    def __init__(self, temporary: Path, final: Path) -> None:
        super().__init__(temporary, "xb")
        self._final = final

    def write(self, data: Any, /) -> int:
        with _disk(self._final):
            failpoint("write")
            return super().write(data)


def _flush(descriptor: int) -> None:
    failpoint("fsync")
    if sys.platform == "darwin":
        import fcntl  # macOS: fsync stops at the drive's cache, F_FULLFSYNC does not

        with suppress(OSError):  # not every file system there knows it
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    os.fsync(descriptor)


def _flush_path(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        _flush(descriptor)
    finally:
        os.close(descriptor)


def _temporary(final: Path, mark: str = "") -> Path:
    return final.with_name(f"{TEMP_PREFIX}{mark}{secrets.token_hex(4)}.{final.name}")


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Create a folder and the missing ones above it, durably; an existing one is fine."""
    folder = Path(path)
    with _disk(folder, "create the folder"):
        for part in reversed([part for part in (folder, *folder.parents) if not part.exists()]):
            failpoint("mkdir")
            part.mkdir(exist_ok=True)
            _flush_path(part.parent)
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    return folder


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a file that appears under its name only when the block ends without an error.

    Missing folders are created, an existing file is replaced.
    """
    final = Path(path)
    make_folder(final.parent)
    temporary = _temporary(final)
    try:
        with _disk(final):
            failpoint("create")
            file = io.BufferedWriter(_CountedFile(temporary, final), BUFFER_BYTES)
        try:
            yield file
            file.flush()
            with _disk(final):
                _flush(file.fileno())
        finally:
            # close() flushes once more what a full disk has refused already.
            with suppress(OSError, EnvironmentFault):
                file.close()
            file.raw.close()
        with _disk(final):
            failpoint("rename")
            temporary.replace(final)
            _flush_path(final.parent)
    except BaseException:
        _discard(temporary)
        raise


def _discard(path: Path) -> None:
    """Remove a leftover; a disk that refuses this too must not hide the first error."""
    with suppress(OSError):
        failpoint("unlink")
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a whole file of bytes durably (see `writing`)."""
    with writing(path) as file:
        file.write(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a whole UTF-8 file durably (see `writing`)."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write plain values as indented JSON durably; NaN is refused because JSON has no word for it."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def save_array(path: Path, array: "NDArray[Any]") -> None:
    """Write an array durably (`.npy`); equal arrays make equal bytes."""
    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_bytes(path, buffer.getvalue())


def append_line(path: str | os.PathLike[str], line: str) -> None:
    """Add one line to a log, created if missing; a torn last line of a killed process is cut off first.

    A power cut may lose the last lines; a kill loses none.
    """
    assert "\n" not in line, line
    log, data = Path(path), line.encode("utf-8") + b"\n"
    make_folder(log.parent)
    with _disk(log, "append to"):
        failpoint("append")
        with log.open("a+b", buffering=0) as file:
            _cut_torn_line(file)
            if file.write(data) < len(data):  # one system call: lines of two writers do not mix
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _cut_torn_line(file: io.FileIO) -> None:
    start = size = file.seek(0, os.SEEK_END)
    while start > 0:
        start = max(0, start - TAIL_BYTES)
        file.seek(start)
        newline = file.read(TAIL_BYTES).rfind(b"\n")
        if newline >= 0:
            start += newline + 1
            break
    if start < size:
        file.truncate(start)


def link(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Give a file a second name durably; where the file system cannot, write a copy.

    From now on neither name may be written through; an existing file of the second name is replaced.
    """
    final = Path(target)
    temporary = _temporary(final)
    try:
        with _disk(final):
            failpoint("link")
            os.link(source, temporary)
            failpoint("rename")
            temporary.replace(final)
            temporary.unlink(missing_ok=True)  # a rename between two names of one file leaves both
            _flush_path(final.parent)
    except EnvironmentFault as error:
        _discard(temporary)
        cause = error.__cause__
        if not isinstance(cause, OSError) or cause.errno not in (errno.EXDEV, errno.EPERM, errno.ENOTSUP):
            raise
        with Path(source).open("rb") as file, writing(final) as copy:
            shutil.copyfileobj(file, copy, BUFFER_BYTES)


def remove(path: str | os.PathLike[str]) -> None:
    """Remove a file or a folder; a folder vanishes whole before its files are deleted. Missing is fine."""
    victim = Path(path)
    if not victim.exists() and not victim.is_symlink():
        return
    aside = _temporary(victim)
    try:
        with _disk(victim, "remove"):
            failpoint("rename")
            victim.replace(aside)
            _flush_path(victim.parent)
    finally:
        _discard(aside)


@contextmanager
def staging_folder(final: str | os.PathLike[str], *, replace: bool = False) -> Iterator[Path]:
    """Give an empty folder that appears as `final` only when the block ends without an error.

    Args:
        final: the final name; what a killed run left for it is swept away first.
        replace: swap an existing folder against the new one; without it an existing one is refused, as is
            one that another command is writing.
    """
    target = Path(final).resolve()  # a link to another disk: stage there, because a rename cannot cross disks
    make_folder(target.parent)
    with locked(target, beside=True):
        clean_temporaries(target.parent, only=target.name)
        if not replace:
            _refuse_filled(target)
        temporary = _temporary(target)
        try:
            with _disk(target):
                failpoint("mkdir")
                temporary.mkdir()
            yield temporary
            _publish(temporary, target, replace=replace)
        except BaseException:
            _discard(temporary)
            raise


def _refuse_filled(final: Path) -> None:
    if final.exists() and (not final.is_dir() or any(final.iterdir())):
        raise UsageError("the output exists and is not empty", where=final, fix="choose another or remove it")


def _publish(temp: Path, final: Path, *, replace: bool) -> None:
    """Flush every file of `temp`, then give it its name; delete the folder that had the name before."""
    with _disk(final):
        for folder, _, names in os.walk(temp, topdown=False):
            for name in (*names, ""):
                _flush_path(Path(folder) / name)
        if replace and final.exists():
            old = _swap(temp, final)
        else:
            _refuse_filled(final)
            failpoint("rename")
            temp.rename(final)
            old = None
        _flush_path(final.parent)
    if old is not None:
        _discard(old)


def _swap(temp: Path, final: Path) -> Path:
    """Put `temp` in the place of `final`, in one step where the system can; return where the old one is."""
    failpoint("exchange")
    if _exchange(temp, final):
        return temp
    # Two renames: between them `final` is missing, and clean_temporaries puts the old one back.
    aside = _temporary(final, SWAPPED_MARK)
    failpoint("rename")
    final.rename(aside)
    try:
        failpoint("rename")
        temp.rename(final)
    except OSError:
        aside.rename(final)
        raise
    return aside


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step; False where the system or the file system cannot."""
    first, second = os.fsencode(one), os.fsencode(other)
    swap_flag = 2  # RENAME_EXCHANGE in linux/fs.h and RENAME_SWAP in macOS' stdio.h
    library = ctypes.CDLL(None, use_errno=True)
    if hasattr(library, "renameat2"):
        here = -100  # AT_FDCWD
        return bool(library.renameat2(here, first, here, second, swap_flag) == 0)
    if hasattr(library, "renamex_np"):
        return bool(library.renamex_np(first, second, swap_flag) == 0)
    return False


def clean_temporaries(folder: str | os.PathLike[str], *, only: str | None = None) -> None:
    """Sweep away what killed processes left in a folder, and finish a swap that was cut in two.

    Call it only where no other process is writing: a living writer's temporary file looks the same. `only` is
    the final name whose leftovers are meant; without it everything below the folder is looked through.
    """
    pattern = f"{TEMP_PREFIX}*"
    for path in sorted(Path(folder).rglob(pattern) if only is None else Path(folder).glob(pattern)):
        mark, _, name = path.name.removeprefix(TEMP_PREFIX).partition(".")
        if only not in (None, name) or not path.exists():
            continue
        final = path.with_name(name)
        if mark.startswith(SWAPPED_MARK) and not final.exists():
            path.rename(final)
        else:
            _discard(path)


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
