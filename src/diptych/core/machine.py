"""What this machine is and can do, and how this process uses its memory and threads."""

import ctypes
import os
import platform
import sys
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
NEVER_TRIM = 2**31 - 1
CONTENDED_LOAD = 0.5  # runnable programs per core from which on a core is likely to be wanted by two
CPUINFO = Path("/proc/cpuinfo")
SCHEDULER = Path("/proc/self/schedstat")  # nanoseconds on a processor, nanoseconds waiting for one, turns


def keep_freed_memory() -> bool:
    """Tell the C library to keep what is freed, and torch to ask for huge pages; call before importing torch.

    glibc maps each block above 32 MB afresh and unmaps it when freed, so every activation of a training step
    is paid for twice: computed, and then in page faults. Measured on 2 virtual cores: a copy of 78 MB 22.4 ->
    6.5 ms, ReLU forward and backward 68 -> 20 ms, a small ResNet's training step 2.1 times as fast. Returns
    False where the C library does not take it (macOS, musl). Source: mallopt(3), THP_MEM_ALLOC_ENABLE.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, NEVER_TRIM))


def core_count() -> int:
    """Return how many cores this process may use; OMP_NUM_THREADS lowers it, as it does for torch."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(cores, int(wanted))) if wanted.isdigit() else cores


def processor_fact(*names: str) -> str:
    """Return what the kernel lists under one of some names, such as "vendor_id"; nothing outside Linux."""
    with suppress(OSError):
        for line in CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(names):
                return line.partition(":")[2].strip()
    return ""


@cache
def processor_flags() -> frozenset[str]:
    """Return what the kernel says the processor can do."""
    return frozenset(processor_fact("flags", "Features").split())


def multiplies_bfloat16() -> bool:
    """Say whether the processor multiplies bfloat16 in hardware; emulated, it is slower than float32."""
    return not processor_flags().isdisjoint({"avx512_bf16", "amx_bf16", "bf16", "svebf16"})


def warn_of_emulated_bfloat16() -> None:
    """Warn that bfloat16 was asked for on a processor that does not multiply it."""
    if not multiplies_bfloat16():
        warnings.warn(
            "this processor emulates bfloat16, 7 times slower than float32 was measured: "
            'use precision="float32"',
            stacklevel=3,
        )


def processor() -> str:
    """Return the processor's name."""
    return processor_fact("model name") or platform.processor() or platform.machine()


def sleep_where_contended(*, load: float | None = None, cores: int | None = None) -> bool:
    """Let OpenMP's threads sleep while they wait, if others use the cores; call before importing torch.

    Threads that spin keep a core from the very thread that they wait for. Measured on 2 virtual cores with
    eight other jobs (load 9 to 11), training resnet-mini-64 in float32: 1.9 and 3.5 pairs/s spinning, 34 and
    80 sleeping; otherwise idle: 382 spinning, 328 sleeping. What the user set in OMP_WAIT_POLICY stays. Load
    and cores that are not given are the system's. Returns whether the threads sleep now.
    """
    if load is None:
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load >= CONTENDED_LOAD * (cores or core_count()):
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    return os.environ.get("OMP_WAIT_POLICY", "").lower() == "passive"


def seconds_waited() -> float | None:
    """Return how long the main thread has waited for a processor; None where the system does not say."""
    try:
        return int(SCHEDULER.read_text("ascii").split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return None
