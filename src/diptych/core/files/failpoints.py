"""Failpoints: a test can stop a process at each of its durable steps, or let the disk fail there.

`DIPTYCH_TESTING=1 DIPTYCH_FAILPOINT=exit:17` ends the process at the 17th step without any clean-up, as a
kill does; `enospc:17` and `eio:17` let that step fail as a full or a broken disk does.

Source: "How SQLite Is Tested", section 3, anomaly testing: fail the n-th step, for all n.
"""

import errno
import os
import threading

KILLED = 137  # exit code of a process that SIGKILL ended: 128 + 9

_lock = threading.Lock()
_done = 0


def operations() -> int:
    """Return how many durable steps this process has begun."""
    return _done


def failpoint(operation: str) -> None:
    """Count one durable step, and fail here if the environment asks for it.

    Args:
        operation: its name, for the message ("write", "fsync", "rename", …).

    Raises:
        OSError: ENOSPC or EIO, when `DIPTYCH_FAILPOINT` names this step.
    """
    global _done  # noqa: PLW0603 — one counter per process is the point
    with _lock:
        _done += 1
        step = _done
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
