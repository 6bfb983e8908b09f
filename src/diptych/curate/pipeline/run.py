"""The whole curation: from a recipe to a shard set and its data card, stage by stage.

    queries → candidates → filter → match → balance → fetch → fingerprint → dedup → shards → card

Reads: a recipe (`recipe.py`). Writes, in one folder: `recipe.json`; `stages/NAME` (see `stages`); the
shard set itself (`NNNNN.tar`, `index.npy`, `manifest.json`), which `data.source` of a training takes as it
is; `datacard.json`. A curation that was stopped goes on where it was; the bytes of the
result depend on the recipe and its inputs alone, not on engine, workers or interruptions.

Source: Radford et al. 2021, section 2.2; Xu et al. 2023 (MetaCLIP), sections 3 and 4.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diptych.core.errors import UsageError, unknown_name
from diptych.core.files.durable import clean_temporaries, make_folder, write_json
from diptych.core.files.json_objects import read_json
from diptych.core.files.locks import LOCK_NAME, locked
from diptych.core.manifest import Manifest, read_manifest
from diptych.core.progress import Progress
from diptych.core.settings import from_mapping, to_mapping, with_current_names
from diptych.core.workers import Handler
from diptych.curate.pipeline.recipe import CurateRecipe
from diptych.curate.pipeline.runners import Engine, StageRunner, partition_result
from diptych.curate.pipeline.stages import (
    KIND,
    Run,
    Stage,
    close_stage,
    is_finished,
    open_partitions,
    require_finished,
)
from diptych.curate.pipeline.stages_images import DEDUP, FETCH, FINGERPRINT
from diptych.curate.pipeline.stages_queries import QUERIES
from diptych.curate.pipeline.stages_result import CARD, SHARDS
from diptych.curate.pipeline.stages_texts import BALANCE, CANDIDATES, FILTER, MATCH

RECIPE_NAME = "recipe.json"
FORMAT = 3
"""Format of the folder. 1 had keys that were not unique, 2 the columns `licence` and `stamp`. A curation of
another format cannot be resumed; its finished shard set stays readable."""

STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (QUERIES, CANDIDATES, FILTER, MATCH, BALANCE, FETCH, FINGERPRINT, DEDUP, SHARDS, CARD)
}
"""All stages by name, in the order of the flow."""


def open_run(folder: Path) -> Run:
    """Open a curation that was begun.

    Raises:
        UsageError: there is none in the folder.
    """
    plain = with_current_names(read_json(folder / RECIPE_NAME))
    plain.pop("format", None)
    return Run(folder, from_mapping(CurateRecipe, plain, where=folder))


def partition_handler(settings: Mapping[str, Any]) -> Handler:
    """Return the handler of a worker: one partition a request, `[stage, number]` as JSON."""
    run = open_run(Path(settings["folder"]))

    def handle(request: list[bytes]) -> list[bytes]:
        stage, number = json.loads(request[0])
        return [json.dumps(partition_result(run, STAGES[stage], number)).encode()]

    return handle


def begin_run(recipe: CurateRecipe, folder: Path, *, resume: bool = False) -> Run:
    """Begin a curation in a folder, or resume the one that is in it.

    Args:
        recipe: what to do.
        folder: empty and locked by the caller; with `resume`, also that of the same curation.
        resume: go on with what is there.

    Raises:
        UsageError: the folder holds something else, or the same and `resume` is off.
    """
    plain = {"format": FORMAT, **json.loads(json.dumps(to_mapping(recipe)))}
    path = folder / RECIPE_NAME
    if not path.is_file():
        clean_temporaries(folder)
        if any(found.name != LOCK_NAME for found in folder.iterdir()):
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
        raise UsageError(
            "a curation was begun in this folder",
            where=folder,
            fix="go on with it (--resume), or choose another folder with --out",
        )
    clean_temporaries(folder)
    return Run(folder, recipe)


def run_stage(run: Run, stage: Stage, runner: StageRunner) -> Manifest:
    """Do what is left of one stage.

    Args:
        run: the curation.
        stage: which one.
        runner: runs its partitions.

    Returns:
        Its manifest.

    Raises:
        UsageError: a stage before it is not done.
        DiptychError: what its work raised.
    """
    folder = run.stage(stage.name)
    if is_finished(run, stage.name):
        return read_manifest(folder, KIND + stage.name)
    require_finished(run, stage)
    started = time.monotonic()
    make_folder(folder)
    stage.prepare(run)
    prepared = time.monotonic() - started
    left = open_partitions(run, stage)
    with Progress(stage.name) as progress:
        for counts in runner.run(stage, left):
            progress.advance(counts.seen, dropped=counts.dropped.total())
    return close_stage(run, stage, prepared=prepared, seconds=time.monotonic() - started)


def curate(
    recipe: CurateRecipe,
    folder: Path,
    *,
    only: str = "",
    engine: Engine = "local",
    workers: int = 1,
    resume: bool = False,
) -> dict[str, Manifest]:
    """Carry out a curation, or one stage of it.

    Args:
        recipe: what to do.
        folder: for everything it writes.
        only: name of one stage; all of them when empty.
        engine: "local" processes or a "ray" cluster, which must see the folder under the same path.
        workers: local processes.
        resume: go on with a curation that was stopped.

    Returns:
        The manifests of the stages that are done now, by name.

    Raises:
        UnknownNameError: no such stage.
        UsageError: the folder holds something else, a stage before `only` is missing, or another command is
            working there.
    """
    if only and only not in STAGES:
        raise unknown_name("stage", only, STAGES)
    folder = folder.absolute()
    if folder.exists() and not folder.is_dir():
        raise _refused(folder)
    with locked(make_folder(folder)):
        run = begin_run(recipe, folder, resume=resume or bool(only))
        chosen = [STAGES[only]] if only else list(STAGES.values())
        with StageRunner(run, f"{__name__}:partition_handler", engine=engine, workers=workers) as runner:
            return {stage.name: run_stage(run, stage, runner) for stage in chosen}


def _refused(folder: Path) -> UsageError:
    return UsageError("the output exists and holds something else", where=folder, fix="choose another folder")
