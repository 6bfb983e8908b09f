"""Worker processes answer, die, hang and start again without harm to whoever asks."""

import os
import signal
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from diptych.core.errors import EnvironmentFault
from diptych.core.workers import Handler, WorkerDiedError, WorkerPool, handler_of

TASK = f"{__name__}:task"


def task(settings: Mapping[str, Any]) -> Handler:
    def answer(request: list[bytes]) -> list[bytes]:
        print("what a library prints")
        match request[0]:
            case b"die":
                os.kill(os.getpid(), signal.SIGKILL)
            case b"hang":
                time.sleep(60)
            case b"variable":
                return [os.environ.get("WORKER_TEST", "").encode()]
        return [settings["prefix"].encode() + part for part in request] + [str(os.getpid()).encode()]

    return answer


def broken(settings: Mapping[str, Any]) -> Handler:
    raise RuntimeError(settings["prefix"])


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    made = WorkerPool(TASK, {"prefix": "ä"}, environment={"WORKER_TEST": "set"})
    yield made
    made.close()


def test_requests_of_any_length_are_answered_by_one_worker(pool: WorkerPool) -> None:
    large = bytes(range(256)) * 4_000
    first, second = pool.ask([b"", large]), pool.ask([b"x"])
    assert first[:2] == ["ä".encode(), "ä".encode() + large]
    assert second[0] == "äx".encode() and second[-1] == first[-1] != str(os.getpid()).encode()
    assert pool.ask([b"variable"]) == [b"set"]


def test_as_many_workers_start_as_threads_ask(pool: WorkerPool) -> None:
    with ThreadPoolExecutor(3) as threads:
        results = list(threads.map(lambda number: pool.ask([b"%d" % number]), range(30)))
    assert [answer[0] for answer in results] == [f"ä{number}".encode() for number in range(30)]
    assert 1 <= len({answer[-1] for answer in results}) <= 3


def test_a_worker_that_dies_is_named_and_replaced(pool: WorkerPool) -> None:
    before = pool.ask([b"a"])[-1]
    with pytest.raises(WorkerDiedError) as caught:
        pool.ask([b"die"])
    assert caught.value.status == -signal.SIGKILL
    assert pool.ask([b"a"])[-1] != before


def test_a_worker_that_passes_its_deadline_is_replaced(pool: WorkerPool) -> None:
    pool.ask([b"a"])
    with pytest.raises(TimeoutError):
        pool.ask([b"hang"], timeout_seconds=0.2)
    assert pool.ask([b"a"], timeout_seconds=30)[0] == "äa".encode()


def test_workers_that_cannot_start_or_are_closed_are_told(pool: WorkerPool) -> None:
    with pytest.raises(EnvironmentFault, match="does not start"):
        WorkerPool(f"{__name__}:broken", {"prefix": "no"}).ask([b"a"])
    pool.close()
    with pytest.raises(EnvironmentFault, match="closed"):
        pool.ask([b"a"])


def test_a_task_can_be_done_in_this_process() -> None:
    assert handler_of(TASK, {"prefix": ""})([b"a"]) == [b"a", str(os.getpid()).encode()]
