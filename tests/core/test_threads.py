"""How threads wait is chosen by the load, and never against the user."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from diptych.core import threads
from diptych.core.threads import seconds_waited, sleep_where_contended


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "")
    monkeypatch.delenv("OMP_WAIT_POLICY")


@pytest.mark.parametrize(
    ("load", "cores", "sleeps"),
    [(0.0, 2, False), (0.9, 2, False), (1.0, 2, True), (9.0, 2, True), (9.0, 64, False)],
)
def test_threads_sleep_where_others_want_the_cores(load: float, cores: int, sleeps: bool) -> None:
    assert sleep_where_contended(load=load, cores=cores) is sleeps
    assert (os.environ.get("OMP_WAIT_POLICY") == "passive") is sleeps


def test_what_the_user_said_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert not sleep_where_contended(load=9.0, cores=2)
    assert os.environ["OMP_WAIT_POLICY"] == "active"


def test_every_command_chooses_before_torch_is_imported() -> None:
    code = (
        "import os, sys; os.getloadavg = lambda: (99.0, 99.0, 99.0); from diptych.cli.main import main; "
        "main(['--version']); "
        "sys.exit(os.environ.get('OMP_WAIT_POLICY') != 'passive' or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_waiting_is_read_off_the_scheduler_where_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "schedstat"
    monkeypatch.setattr(threads, "SCHEDULER", path)
    assert seconds_waited() is None
    path.write_text("586129 2500000000 1\n", encoding="ascii")
    assert seconds_waited() == 2.5
