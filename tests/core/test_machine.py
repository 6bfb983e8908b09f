"""Keeping freed memory: large blocks come from the heap, and stay in the process when they are freed."""

import subprocess
import sys

import pytest

from diptych.core.machine import keep_freed_memory

LARGE_BYTES = 64 * 2**20  # twice the size from which glibc maps a block afresh whatever its tuning

# In a process of its own: the setting cannot be taken back.
PROBE = f"""
import ctypes, os, sys
from diptych.core.machine import keep_freed_memory
took = keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes, libc.memset.argtypes = [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

before = resident()
block = libc.malloc({LARGE_BYTES})
libc.memset(block, 1, {LARGE_BYTES})
libc.free(block)
kept = resident() - before > {LARGE_BYTES} // 2
print(took, kept, os.environ["THP_MEM_ALLOC_ENABLE"], "torch" in sys.modules)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_a_large_freed_block_stays_in_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    took, kept, huge_pages, torch_came = done.stdout.split()
    if took == "False":
        pytest.skip("this C library has no mallopt")
    assert (kept, huge_pages, torch_came) == ("True", "1", "False")


def test_elsewhere_nothing_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    assert keep_freed_memory() is False


def test_the_users_own_choice_of_pages_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    keep_freed_memory()
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == "0"
