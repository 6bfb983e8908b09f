"""Who runs the units of a stage: this process, processes beside it, or a Ray cluster.

The units are the same and so are the bytes they write. What travels is three plain words (folder, stage,
number); everything else is read from the folder, which all workers must see under the same path.

A local worker is the command ``python -m diptych.curate.worker``, as the decoders of `data/decoders` are: no
fork of a process with threads, nothing unpickled. A worker that dies is replaced, its unit tried once more.
"""

import json
import os
import queue
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Literal, cast

from diptych.core import errors
from diptych.core.errors import DiptychError, EnvironmentFault, MissingPackageError
from diptych.core.records import Counts
from diptych.curate.stages import Run, Stage, counts_from, do_unit

Engine = Literal["local", "ray"]
ENGINES: tuple[Engine, ...] = ("local", "ray")
TRIES = 2
"""A unit whose worker died is tried again: the machine may have been short of memory for a moment."""

Answer = Mapping[str, Any]


class Crew:
    """Who does the units of all stages: worker processes are hired when there is work, and kept.

    Args:
        run: the curation.
        engine: local processes, or a Ray cluster.
        workers: local processes; 1 is this one, without protection from crashes.
    """

    def __init__(self, run: Run, *, engine: Engine = "local", workers: int = 1) -> None:
        self._run, self._engine, self._most = run, engine, workers
        self._hired: list[_Worker] = []

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *exception: object) -> None:
        for worker in self._hired:
            worker.stop()

    def do(self, stage: Stage, numbers: Sequence[int]) -> Iterator[Counts]:
        """Do units of a stage and yield their counts as they end.

        Raises:
            DiptychError: what the first unit that failed said.
            EnvironmentFault: a worker died twice over the same unit.
        """
        if not numbers:
            return
        if self._engine == "ray":
            yield from (opened(answer) for answer in _on_ray(self._run, stage, numbers))
        elif self._most <= 1:
            yield from (do_unit(self._run, stage, number) for number in numbers)
        else:
            yield from (opened(answer) for answer in self._in_processes(stage, numbers))

    def _in_processes(self, stage: Stage, numbers: Sequence[int]) -> Iterator[Answer]:
        wanted = min(self._most, len(numbers))
        self._hired += [_Worker(self._run.folder) for _ in range(wanted - len(self._hired))]
        idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for worker in self._hired[:wanted]:
            idle.put(worker)

        def ask(number: int) -> Answer:
            worker = idle.get()
            try:
                return worker.ask(stage.name, number)
            finally:
                idle.put(worker)

        threads = ThreadPoolExecutor(wanted, thread_name_prefix="curate")
        try:
            for done in as_completed([threads.submit(ask, number) for number in numbers]):
                yield done.result()
        except BaseException:
            for worker in self._hired:
                worker.stop()
            self._hired.clear()
            raise
        finally:
            threads.shutdown(wait=True, cancel_futures=True)


def answer_for(run: Run, stage: Stage, number: int) -> Answer:
    """Do a unit and say in plain values how it ended."""
    try:
        return {"counts": do_unit(run, stage, number).as_dict()}
    except DiptychError as error:
        parts = {name: getattr(error, name) for name in ("what", "where", "found", "expected", "fix")}
        return {"error": type(error).__name__, "parts": parts}


def opened(answer: Answer) -> Counts:
    """Return the counts of an answer, or raise the error that it carries."""
    if "error" not in answer:
        return counts_from(answer["counts"])
    kind = getattr(errors, answer["error"], DiptychError)
    what = answer["parts"].pop("what")
    raise kind(what, **answer["parts"])


class _Worker:
    """One worker process; started again when it dies."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stopped = False
        self._process = self._start()

    def _start(self) -> "subprocess.Popen[str]":
        path = os.pathsep.join(entry for entry in sys.path if entry)
        threads = dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")  # the units are the threads
        return subprocess.Popen(
            [sys.executable, "-m", "diptych.curate.worker", str(self._folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env={**os.environ, **threads, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C is for the parent, which then ends its workers
        )

    def ask(self, stage: str, number: int) -> Answer:
        """Have one unit done.

        Raises:
            EnvironmentFault: the worker died, twice.
        """
        for _ in range(TRIES):
            pipe_in, pipe_out = self._process.stdin, self._process.stdout
            assert pipe_in is not None and pipe_out is not None
            try:
                pipe_in.write(json.dumps([stage, number]) + "\n")
                pipe_in.flush()
                if line := pipe_out.readline():
                    return cast(Answer, json.loads(line))
            except (BrokenPipeError, ValueError):
                pass  # it died before it could read, or in the middle of its answer
            code = self._process.wait()
            if self._stopped:
                break
            self._process = self._start()
        raise EnvironmentFault(
            "a worker died over a unit",
            where=f"stage {stage}, unit {number}",
            found=f"exit status {code}",
            fix="look at its last words on stderr; fewer workers need less memory",
        )

    def stop(self) -> None:
        """End the process at once: what it had not finished, it had not begun."""
        self._stopped = True
        self._process.kill()
        self._process.wait()


def _on_ray(run: Run, stage: Stage, numbers: Sequence[int]) -> Iterator[Answer]:
    """Hand the units to Ray Data: on the connected cluster, that of RAY_ADDRESS, or a local one."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingPackageError(
            "engine 'ray' needs a package that is not installed",
            found=str(error),
            expected="ray",
            fix="pip install 'diptych[ray]'",
        ) from error
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    rows = [{"folder": str(run.folder), "stage": stage.name, "number": number} for number in numbers]
    units = ray.data.from_items(rows, override_num_blocks=len(rows)).map(unit_on_ray)
    yield from (json.loads(row["answer"]) for row in units.iter_rows())


def unit_on_ray(row: Mapping[str, Any]) -> dict[str, str]:
    """Do one unit where Ray wants it done."""
    from diptych.curate.pipeline import STAGES, open_run

    run = open_run(Path(row["folder"]))
    return {"answer": json.dumps(answer_for(run, STAGES[row["stage"]], int(row["number"])))}
