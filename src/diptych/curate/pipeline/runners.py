"""Run the partitions of a stage: in this process, in worker processes, or on a Ray cluster.

The bytes written are the same. A worker is sent three values (folder, stage, number); everything else is read
from the folder, which all workers must see under the same path. A worker that dies is replaced, its partition
tried once more.
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
from diptych.curate.pipeline.stages import Run, Stage, run_partition

Engine = Literal["local", "ray"]
ENGINES: tuple[Engine, ...] = ("local", "ray")
TRIES = 2
"""A partition whose worker died is tried again: the machine may have been short of memory for a moment."""

PartitionResult = Mapping[str, Any]
"""`{"counts": …}`, or the type and parts of an error."""


class StageRunner:
    """Runs the partitions of all stages, in worker processes started on demand and reused between stages.

    Args:
        run: the curation.
        handler: "module:function" that makes of `{"folder": …}` the handler of `[stage, number]` as JSON.
        engine: local processes, or a Ray cluster.
        workers: local processes; 1 is this one, without protection from crashes.
    """

    def __init__(self, run: Run, handler: str, *, engine: Engine = "local", workers: int = 1) -> None:
        self._run, self._handler, self._engine, self._workers = run, handler, engine, workers
        # The partitions are the threads.
        threads = dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
        self._pool = WorkerPool(handler, {"folder": str(run.folder)}, environment=threads)

    def __enter__(self) -> "StageRunner":
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.close()

    def run(self, stage: Stage, numbers: Sequence[int]) -> Iterator[Counts]:
        """Run partitions of a stage and yield their counts as they end.

        Raises:
            DiptychError: of the first partition that failed.
            EnvironmentFault: a worker died twice over the same partition.
        """
        if not numbers:
            return
        if self._engine == "ray":
            yield from (counts_of(result) for result in _on_ray(self._run, self._handler, stage, numbers))
        elif self._workers <= 1:
            yield from (run_partition(self._run, stage, number) for number in numbers)
        else:
            yield from (counts_of(result) for result in self._in_processes(stage, numbers))

    def _in_processes(self, stage: Stage, numbers: Sequence[int]) -> Iterator[PartitionResult]:
        threads = ThreadPoolExecutor(min(self._workers, len(numbers)), thread_name_prefix="curate")
        try:
            for done in as_completed([threads.submit(self._ask, stage.name, number) for number in numbers]):
                yield done.result()
        except BaseException:
            self._pool.close()
            raise
        finally:
            threads.shutdown(wait=True, cancel_futures=True)

    def _ask(self, stage: str, number: int) -> PartitionResult:
        status = 0
        for _ in range(TRIES):
            try:
                return cast(
                    PartitionResult, json.loads(self._pool.ask([json.dumps([stage, number]).encode()])[0])
                )
            except WorkerDiedError as error:
                status = error.status
        raise EnvironmentFault(
            "a worker died while running a partition",
            where=f"stage {stage}, partition {number}",
            found=f"exit status {status}",
            fix="see its messages on stderr; fewer workers need less memory",
        )


def partition_result(run: Run, stage: Stage, number: int) -> PartitionResult:
    """Run a partition and return its counts, or the error it raised, as plain values."""
    try:
        return {"counts": run_partition(run, stage, number).as_dict()}
    except DiptychError as error:
        parts = {name: getattr(error, name) for name in ("what", "where", "found", "expected", "fix")}
        return {"error": type(error).__name__, "parts": parts}


def counts_of(result: PartitionResult) -> Counts:
    """Return the counts of a result, or raise its error."""
    if "error" not in result:
        return Counts.from_dict(result["counts"])
    kind = getattr(errors, result["error"], DiptychError)
    what = result["parts"].pop("what")
    raise kind(what, **result["parts"])


def _on_ray(run: Run, handler: str, stage: Stage, numbers: Sequence[int]) -> Iterator[PartitionResult]:
    """Run partitions with Ray Data: on the connected cluster, that of RAY_ADDRESS, or a local one."""
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
    partitions = ray.data.from_items(rows, override_num_blocks=len(rows)).map(partition_on_ray)
    yield from (json.loads(row["result"]) for row in partitions.iter_rows())


def partition_on_ray(row: Mapping[str, Any]) -> dict[str, str]:
    """Run one partition in a Ray task."""
    handler = handler_of(row["handler"], {"folder": row["folder"]})
    request = json.dumps([row["stage"], int(row["number"])]).encode()
    return {"result": handler([request])[0].decode()}
