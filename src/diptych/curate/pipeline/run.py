"""The whole curation: from a recipe to a shard set and its data card, stage by stage.

    queries → candidates → filter → match → balance → fetch → fingerprint → dedup → shards → card

Writes, in one folder: `recipe.json`; `stages/NAME` (see `stages`); the shard set itself (`NNNNN.tar`,
`index.npy`, `manifest.json`), which `data.source` of a training takes as it is; `datacard.json`. A curation
that was stopped goes on where it was; the bytes of the result depend on the recipe and its inputs alone, not
on engine, workers or interruptions.

A worker, or a Ray task, is sent folder, stage and number of a partition; everything else is read from the
folder, which all must see under the same path. A worker that dies is replaced, its partition tried once more.

Source: Radford et al. 2021, section 2.2; Xu et al. 2023 (MetaCLIP), sections 3 and 4.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

from diptych.core import errors
from diptych.core.errors import DiptychError, EnvironmentFault, MissingPackageError, UsageError, unknown_name
from diptych.core.files.durable import clean_temporaries, make_folder, write_json
from diptych.core.files.locks import LOCK_NAME, locked
from diptych.core.files.reading import read_json
from diptych.core.manifest import Manifest
from diptych.core.records import Counts
from diptych.core.settings import from_mapping, to_mapping, with_current_names
from diptych.core.workers import Handler, WorkerDiedError, WorkerPool, handler_of
from diptych.curate.pipeline.recipe import CurateRecipe
from diptych.curate.pipeline.stages import Run, Stage, run_partition, run_stage
from diptych.curate.pipeline.stages_images import IMAGE_STAGES
from diptych.curate.pipeline.stages_texts import TEXT_STAGES

RECIPE_NAME = "recipe.json"
# Format of the folder. 1 had keys that were not unique, 2 the columns `licence` and `stamp`. A curation of
# another format cannot be resumed; its finished shard set stays readable.
FORMAT = 3
TRIES = 2  # of a partition whose worker died: the machine may have been short of memory for a moment
HANDLER = f"{__name__}:partition_handler"
Engine = Literal["local", "ray"]

STAGES = {stage.name: stage for stage in (*TEXT_STAGES, *IMAGE_STAGES)}


def curate(
    recipe: CurateRecipe,
    folder: Path,
    *,
    only: str = "",
    engine: Engine = "local",
    workers: int = 1,
    resume: bool = False,
) -> dict[str, Manifest]:
    """Carry out a curation, or one stage of it; return the manifests of the stages that are done now.

    Args:
        recipe: what to do.
        folder: for everything it writes.
        only: one stage; all of them when empty.
        engine: "local" processes or a "ray" cluster, which must see the folder under the same path.
        workers: local processes; 1 is this one, without protection from crashes.
        resume: go on with a curation that was stopped.

    Raises:
        UnknownNameError: no such stage.
        UsageError: the folder holds something else, a stage before `only` is missing, or another command is
            working there.
        EnvironmentFault: a worker died twice over the same partition.
    """
    if only and only not in STAGES:
        raise unknown_name("stage", only, STAGES)
    folder = folder.absolute()
    if folder.exists() and not folder.is_dir():
        raise _refused(folder)
    chosen = [STAGES[only]] if only else list(STAGES.values())
    # The partitions are the threads.
    threads = dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    with (
        locked(make_folder(folder)),
        closing(WorkerPool(HANDLER, {"folder": str(folder)}, environment=threads)) as pool,
    ):
        run = _begin(recipe, folder, resume=resume or bool(only))

        def run_partitions(stage: Stage, numbers: Sequence[int]) -> Iterator[Counts]:
            if engine == "ray" and numbers:
                return map(_counts, _on_ray(run, stage, numbers))
            if workers > 1 and numbers:
                return map(_counts, _in_processes(pool, stage, numbers, workers))
            return (run_partition(run, stage, number) for number in numbers)

        return {stage.name: run_stage(run, stage, run_partitions) for stage in chosen}


def _begin(recipe: CurateRecipe, folder: Path, *, resume: bool) -> Run:
    """Begin a curation in an empty folder, or resume the one of the same recipe that is in it."""
    plain = {"format": FORMAT, **json.loads(json.dumps(to_mapping(recipe)))}
    path = folder / RECIPE_NAME
    if not path.is_file():
        clean_temporaries(folder)
        if any(entry.name != LOCK_NAME for entry in folder.iterdir()):
            raise _refused(folder)
        write_json(path, plain)
        return Run(folder, recipe)
    before = with_current_names(read_json(path))
    differences = [name for name in sorted({*before, *plain}) if before.get(name) != plain.get(name)]
    if differences:
        raise UsageError(
            "this folder holds another curation",
            where=folder,
            found=f"other settings: {', '.join(differences)}",
            expected="the recipe that it was begun with, by a version of the same format",
            fix="choose another folder with --out, or give the same recipe",
        )
    if not resume:
        fix = "go on with it (--resume), or choose another folder with --out"
        raise UsageError("a curation was begun in this folder", where=folder, fix=fix)
    clean_temporaries(folder)
    return Run(folder, recipe)


def _refused(folder: Path) -> UsageError:
    return UsageError("the output exists and holds something else", where=folder, fix="choose another folder")


def partition_handler(settings: Mapping[str, Any]) -> Handler:
    """Return the handler of a worker: one partition a request, `[stage, number]` as JSON.

    The response is that of `Counts.as_dict`, or the type and parts of the error.
    """
    folder = Path(settings["folder"])
    plain = with_current_names(read_json(folder / RECIPE_NAME))
    plain.pop("format", None)
    run = Run(folder, from_mapping(CurateRecipe, plain, where=folder))

    def handle(request: list[bytes]) -> list[bytes]:
        stage, number = json.loads(request[0])
        try:
            response = run_partition(run, STAGES[stage], number).as_dict()
        except DiptychError as error:
            parts = ("what", "where", "found", "expected", "fix")
            response = {"error": type(error).__name__, **{name: getattr(error, name) for name in parts}}
        return [json.dumps(response).encode()]

    return handle


def _counts(response: bytes) -> Counts:
    """Return the counts of a response, or raise its error."""
    plain = json.loads(response)
    if name := plain.pop("error", ""):
        raise getattr(errors, name, DiptychError)(plain.pop("what"), **plain)
    return Counts.from_dict(plain)


def _in_processes(pool: WorkerPool, stage: Stage, numbers: Sequence[int], workers: int) -> Iterator[bytes]:
    """Run partitions in worker processes and yield the responses as they come."""

    def ask(number: int) -> bytes:
        status = 0
        for _ in range(TRIES):
            try:
                return pool.ask([json.dumps([stage.name, number]).encode()])[0]
            except WorkerDiedError as error:
                status = error.status
        raise EnvironmentFault(
            "a worker died while running a partition",
            where=f"stage {stage.name}, partition {number}",
            found=f"exit status {status}",
            fix="see its messages on stderr; fewer workers need less memory",
        )

    threads = ThreadPoolExecutor(min(workers, len(numbers)), thread_name_prefix="curate")
    try:
        for done in as_completed([threads.submit(ask, number) for number in numbers]):
            yield done.result()
    except BaseException:
        pool.close()
        raise
    finally:
        threads.shutdown(wait=True, cancel_futures=True)


def _on_ray(run: Run, stage: Stage, numbers: Sequence[int]) -> Iterator[bytes]:
    """Run partitions with Ray Data: on the connected cluster, that of RAY_ADDRESS, or a local one."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        what, fix = "engine 'ray' needs a package that is not installed", "pip install 'diptych[ray]'"
        raise MissingPackageError(what, found=str(error), expected="ray", fix=fix) from error
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = [{"folder": str(run.folder), "stage": stage.name, "number": number} for number in numbers]
    partitions = ray.data.from_items(rows, override_num_blocks=len(rows)).map(partition_on_ray)
    yield from (row["response"] for row in partitions.iter_rows())


def partition_on_ray(row: Mapping[str, Any]) -> dict[str, bytes]:
    """Run one partition in a Ray task."""
    request = json.dumps([row["stage"], int(row["number"])]).encode()
    return {"response": bytes(handler_of(HANDLER, {"folder": row["folder"]})([request])[0])}
