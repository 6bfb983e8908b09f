"""A run that is killed at any moment and resumed is, bit for bit, the run that was never killed."""

import json
import os
import random
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import tiny_run

from diptych.core.files.durable import TEMP_PREFIX, sha256_file
from diptych.core.manifest import verify

Start = Callable[..., BaseProcess]
# A seed that kills a run inside a save first and between steps then; more of them
SEEDS = (4, *(pytest.param(seed, marks=pytest.mark.deep) for seed in range(100, 110)))
TIMES = ("samples_per_second", "data_wait_fraction", "cpu_wait_fraction")
PATIENCE_SECONDS = 250  # seconds on a free machine; the tests also pass on a starved one


def lines_of(run: Path) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    if not path.exists():
        return []
    whole = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in whole]


def finish(process: BaseProcess) -> int:
    process.join(PATIENCE_SECONDS)
    assert process.exitcode is not None, "the run hangs"
    return process.exitcode


def wait_for_lines(run: Path, process: BaseProcess, count: int) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(lines_of(run)) < count and process.is_alive():
        assert time.monotonic() < deadline, "the run does not get on"
        time.sleep(0.002)


@pytest.fixture(scope="module")
def uninterrupted(work: Path, start: Start, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "uninterrupted"
    assert finish(start(tiny_run.run, work, run, resume=False, workers=0)) == 0
    return run


def assert_same_run(run: Path, reference: Path) -> None:
    assert lines_of(run) == lines_of(reference)
    for part in ("model/model.safetensors", "state/step-0000060/state.safetensors"):
        assert sha256_file(run / part) == sha256_file(reference / part), part
    verify(run)
    assert not list(run.rglob(f"{TEMP_PREFIX}*"))


def kill_twice_and_finish(work: Path, start: Start, run: Path, dice: random.Random) -> None:
    """Kill a run at a random moment, resume it, kill it at another one, and let it finish."""
    reached = 0
    for _ in range(2):
        if dice.random() < 0.5:  # inside a save, most likely: a save is 30 durable steps, a step's line is 1
            process = start(
                tiny_run.run, work, run, resume=True, workers=2, failpoint=f"exit:{dice.randint(20, 200)}"
            )
            assert finish(process) in (0, 137)
        else:
            process = start(tiny_run.run, work, run, resume=True, workers=2)
            reached = min(55, reached + dice.randint(1, 28))
            wait_for_lines(run, process, reached)
            time.sleep(dice.random() * 0.03)
            process.kill()
            assert finish(process) in (0, -signal.SIGKILL)
    assert finish(start(tiny_run.run, work, run, resume=True, workers=2)) == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_killed_run_equals_uninterrupted_run(
    work: Path, start: Start, fast_path: Path, uninterrupted: Path, seed: int
) -> None:
    kill_twice_and_finish(work, start, fast_path / "run", random.Random(seed))
    assert_same_run(fast_path / "run", uninterrupted)


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.deep)],
)
def test_signal_saves_and_the_resumed_run_is_the_same(
    work: Path, start: Start, fast_path: Path, uninterrupted: Path, number: signal.Signals, code: int
) -> None:
    run = fast_path / "run"
    process = start(tiny_run.run, work, run, resume=False, workers=1)
    wait_for_lines(run, process, 10)
    assert process.pid is not None
    os.kill(process.pid, number)
    assert finish(process) == code
    stopped = lines_of(run)[-1]["step"]
    assert (run / f"state/step-{stopped:07d}/manifest.json").exists()
    assert not (run / "model").exists()
    assert finish(start(tiny_run.run, work, run, resume=True, workers=1)) == 0
    assert_same_run(run, uninterrupted)
