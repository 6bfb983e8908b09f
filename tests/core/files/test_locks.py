"""One command writes in a folder at a time, and no dead one keeps others out."""

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from diptych.core.errors import UsageError
from diptych.core.files.durable import staging_folder, write_text
from diptych.core.files.locks import locked

HOLD = (
    "import os, sys, time; from diptych.core.files.locks import locked\n"
    "with locked(sys.argv[1], beside=len(sys.argv) > 2):\n"
    "    child = os.fork() if hasattr(os, 'fork') else 1\n"
    "    if child: print(child, flush=True)\n"
    "    time.sleep(60)\n"
)


@contextmanager
def holder(folder: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Another process with a child, as a training with loader workers, that holds the lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, folder, *options], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        os.kill(child, signal.SIGKILL)


def test_a_second_command_is_told_who_holds_the_folder_until_that_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    with holder(folder) as process:
        for name in ("run", "link"):
            with pytest.raises(UsageError, match="another command is working") as caught:
                locked(tmp_path / name).__enter__()
            assert f"process {process.pid} on " in str(caught.value) and str(folder) in str(caught.value)
        process.kill()
        process.wait()
        with locked(folder):  # though the workers of the killed one live
            pass


def test_a_released_folder_holds_no_trace_and_can_be_taken_again(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), locked(tmp_path), locked(tmp_path):
            assert [path.name for path in tmp_path.iterdir()] == [".diptych-lock"]
            raise ZeroDivisionError
        assert list(tmp_path.iterdir()) == []


def test_two_threads_of_one_process_exclude_each_other(tmp_path: Path) -> None:
    refused = []

    def second() -> None:
        with pytest.raises(UsageError), locked(tmp_path):
            pass
        refused.append(True)

    with locked(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert refused


def test_a_file_system_without_locks_is_used_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr("fcntl.lockf", none)
    with locked(tmp_path):
        pass


def test_a_folder_in_the_making_is_not_taken_apart_by_a_second_command(tmp_path: Path) -> None:
    """Staging sweeps leftovers of the same name away: without the lock it swept the living one's files."""
    with holder(tmp_path / "shards", "beside"):
        write_text(tmp_path / ".diptych-tmp-0.shards" / "file", "of the other")
        with pytest.raises(UsageError, match="another command"), staging_folder(tmp_path / "shards"):
            pass
        assert (tmp_path / ".diptych-tmp-0.shards" / "file").exists()
