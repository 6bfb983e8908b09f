"""Threads on a machine that others use too: how they wait, and how long they waited for a processor.

OpenMP's threads spin while they wait for each other. Where another program wants the core, the spinning
thread keeps from running the very thread that it waits for. Measured on 2 virtual cores with eight other jobs
(load 9 to 11), training resnet-mini-64 in float32: 1.9 and 3.5 pairs/s spinning, 34 and 80 with threads that
sleep. What sleeping costs on a free machine was not measured: there they spin.

Reads: the load average, `/proc/self/schedstat`. Writes: an environment variable of this process.
"""

import os
from pathlib import Path

CONTENDED_LOAD = 0.5
"""Runnable programs per core from which on a core is likely to be wanted by two."""
SCHEDULER = Path("/proc/self/schedstat")  # nanoseconds on a processor, nanoseconds waiting for one, turns


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def sleep_where_contended(*, load: float | None = None, cores: int | None = None) -> bool:
    """Let OpenMP's threads sleep while they wait, if others use the cores; call before importing torch.

    Args:
        load: programs that run or want to; None asks the system.
        cores: that this process may use; None asks the system.

    Returns:
        Whether they sleep now. What the user set in OMP_WAIT_POLICY stays.
    """
    if load is None:
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load >= CONTENDED_LOAD * (cores or available_cores()):
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    return os.environ.get("OMP_WAIT_POLICY", "").lower() == "passive"


def seconds_waited() -> float | None:
    """Return how long the main thread has waited for a processor; None where the system does not say."""
    try:
        return int(SCHEDULER.read_text("ascii").split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return None
