"""Keeping freed memory: large blocks come from the heap, and stay in the process when they are freed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from diptych.core import machine
from diptych.core.machine import (
    keep_freed_memory,
    processor,
    processor_fact,
    seconds_waited,
    sleep_where_contended,
)

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


def test_elsewhere_nothing_is_changed_nor_what_the_user_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    assert keep_freed_memory() is False
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == "0"


@pytest.fixture
def no_wait_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "")
    monkeypatch.delenv("OMP_WAIT_POLICY")


@pytest.mark.usefixtures("no_wait_policy")
def test_threads_sleep_where_others_want_the_cores_unless_the_user_chose(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for load, cores, sleeps in ((0.0, 2, False), (0.9, 2, False), (9.0, 64, False), (1.0, 2, True)):
        assert sleep_where_contended(load=load, cores=cores) is sleeps
        assert (os.environ.get("OMP_WAIT_POLICY") == "passive") is sleeps
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert not sleep_where_contended(load=9.0, cores=2)
    assert os.environ["OMP_WAIT_POLICY"] == "active"


@pytest.mark.usefixtures("no_wait_policy")
def test_every_command_chooses_before_torch_is_imported() -> None:
    code = (
        "import os, sys; os.getloadavg = lambda: (99.0, 99.0, 99.0); from diptych.cli.main import main; "
        "main(['--version']); "
        "sys.exit(os.environ.get('OMP_WAIT_POLICY') != 'passive' or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_the_processor_and_waiting_for_it_are_read_where_the_system_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "SCHEDULER", tmp_path / "schedstat")
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    assert (seconds_waited(), processor_fact("vendor_id")) == (None, "")
    (tmp_path / "schedstat").write_text("586129 2500000000 1\n", encoding="ascii")
    listed = "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: Some CPU\nflags\t\t: fpu avx512_bf16\n"
    (tmp_path / "cpuinfo").write_text(listed * 2)
    assert (seconds_waited(), processor_fact("vendor_id"), processor()) == (2.5, "AuthenticAMD", "Some CPU")
    assert machine.processor_flags.__wrapped__() == {"fpu", "avx512_bf16"}
