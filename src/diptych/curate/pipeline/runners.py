"""The processes that run the units of a stage: this one, workers beside it, or a Ray cluster.

The units are the same and so are the bytes they write. What travels is three plain words (folder, stage,
number); everything else is read from the folder, which all workers must see under the same path. A worker
that dies is replaced, its unit tried once more.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, Literal, cast

from diptych.core import errors
from diptych.core.errors import DiptychError, EnvironmentFault, MissingPackageError
from diptych.core.records import Counts
from diptych.core.workers import WorkerDiedError, WorkerPool, handler_of
from diptych.curate.pipeline.stages import Run, Stage, do_unit

Engine = Literal["local", "ray"]
ENGINES: tuple[Engine, ...] = ("local", "ray")
TRIES = 2
"""A unit whose worker died is tried again: the machine may have been short of memory for a moment."""

Answer = Mapping[str, Any]


class Crew:
    """Runs the units of all stages, in worker processes that are started when there is work, and kept.

    Args:
        run: the curation.
        handler: "module:function" that makes of `{"folder": …}` what answers `[stage, number]` as JSON.
        engine: local processes, or a Ray cluster.
        workers: local processes; 1 is this one, without protection from crashes.
    """

    def __init__(self, run: Run, handler: str, *, engine: Engine = "local", workers: int = 1) -> None:
        self._run, self._handler, self._engine, self._most = run, handler, engine, workers
        threads = dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")  # the units are the threads
        self._pool = WorkerPool(handler, {"folder": str(run.folder)}, environment=threads)

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.close()

    def do(self, stage: Stage, numbers: Sequence[int]) -> Iterator[Counts]:
        """Do units of a stage and yield their counts as they end.

        Raises:
            DiptychError: what the first unit that failed said.
            EnvironmentFault: a worker died twice over the same unit.
        """
        if not numbers:
            return
        if self._engine == "ray":
            yield from (opened(answer) for answer in _on_ray(self._run, self._handler, stage, numbers))
        elif self._most <= 1:
            yield from (do_unit(self._run, stage, number) for number in numbers)
        else:
            yield from (opened(answer) for answer in self._in_processes(stage, numbers))

    def _in_processes(self, stage: Stage, numbers: Sequence[int]) -> Iterator[Answer]:
        threads = ThreadPoolExecutor(min(self._most, len(numbers)), thread_name_prefix="curate")
        try:
            for done in as_completed([threads.submit(self._ask, stage.name, number) for number in numbers]):
                yield done.result()
        except BaseException:
            self._pool.close()
            raise
        finally:
            threads.shutdown(wait=True, cancel_futures=True)

    def _ask(self, stage: str, number: int) -> Answer:
        status = 0
        for _ in range(TRIES):
            try:
                return cast(Answer, json.loads(self._pool.ask([json.dumps([stage, number]).encode()])[0]))
            except WorkerDiedError as error:
                status = error.status
        raise EnvironmentFault(
            "a worker died over a unit",
            where=f"stage {stage}, unit {number}",
            found=f"exit status {status}",
            fix="look at its last words on stderr; fewer workers need less memory",
        )


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
        return Counts.from_dict(answer["counts"])
    kind = getattr(errors, answer["error"], DiptychError)
    what = answer["parts"].pop("what")
    raise kind(what, **answer["parts"])


def _on_ray(run: Run, handler: str, stage: Stage, numbers: Sequence[int]) -> Iterator[Answer]:
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
    words = {"handler": handler, "folder": str(run.folder), "stage": stage.name}
    rows = [{**words, "number": number} for number in numbers]
    units = ray.data.from_items(rows, override_num_blocks=len(rows)).map(unit_on_ray)
    yield from (json.loads(row["answer"]) for row in units.iter_rows())


def unit_on_ray(row: Mapping[str, Any]) -> dict[str, str]:
    """Do one unit where Ray wants it done."""
    answer = handler_of(row["handler"], {"folder": row["folder"]})
    request = json.dumps([row["stage"], int(row["number"])]).encode()
    return {"answer": answer([request])[0].decode()}
