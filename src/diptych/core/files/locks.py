"""Advisory lock of a folder: two commands that would write in one folder do not meet.

The lock is a POSIX record lock on a small file. It ends with its process, however that ends; worker processes
do not inherit it; on NFS it holds between machines where the server has a lock manager. A file system that
has no locks is used without one.

Writes: `.diptych-lock` in the folder, or `.diptych-lock.NAME` beside one that appears only when it is
complete; the file says who holds the lock and is gone afterwards.
"""

import errno
import os
import platform
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diptych.core.errors import UsageError

LOCK_NAME = ".diptych-lock"
HELD_BY_ANOTHER = (errno.EACCES, errno.EAGAIN)  # POSIX allows both for a lock that another process holds
OWNER_BYTES = 300  # of the owner's description that a message shows

# (process, lock file) -> thread: record locks do not tell the threads of one process apart
_owners: dict[tuple[int, Path], int] = {}
_changing = threading.Lock()


@contextmanager
def locked(folder: str | os.PathLike[str], *, beside: bool = False) -> Iterator[None]:
    """Hold a folder for this thread; the same thread may take it again inside the block.

    Args:
        folder: the folder, which must exist; its parent must where `beside` is set.
        beside: put the lock file beside the folder, because the folder itself is not there yet.

    Raises:
        UsageError: another command holds it.
    """
    final = Path(folder).resolve()
    path = final.with_name(f"{LOCK_NAME}.{final.name}") if beside else final / LOCK_NAME
    key, thread = (os.getpid(), path), threading.get_ident()
    with _changing:
        nested = _owners.get(key) == thread
        if key in _owners and not nested:
            raise _busy(final, "this process")
        _owners[key] = thread
    if nested:
        yield
        return
    descriptor = None
    try:
        descriptor = _acquire(path, final)
        yield
    finally:
        if descriptor is not None:
            path.unlink(missing_ok=True)  # before the lock goes: nobody else's file can have this name
            os.close(descriptor)
        del _owners[key]


def _acquire(path: Path, folder: Path) -> int:
    """Open and lock the file; another process may remove it between the two, then the next one is taken."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if _lock(descriptor) and not _is(path, descriptor):
                os.close(descriptor)
                continue
            os.ftruncate(descriptor, 0)
            command = " ".join(sys.argv)[:OWNER_BYTES]
            os.write(descriptor, f"process {os.getpid()} on {platform.node()}: {command}".encode())
        except OSError as error:
            owner = os.pread(descriptor, OWNER_BYTES, 0).decode("utf-8", "replace")
            os.close(descriptor)
            if error.errno in HELD_BY_ANOTHER:
                raise _busy(folder, owner) from error
            raise
        return descriptor


def _lock(descriptor: int) -> bool:
    """Lock an open file; False where the system or the file system has no locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        return False
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in HELD_BY_ANOTHER:
            raise
        return False
    return True


def _is(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _busy(folder: Path, owner: str) -> UsageError:
    fix = "wait until it has ended, or choose another folder"
    return UsageError("another command is working in this folder", where=folder, found=owner, fix=fix)
