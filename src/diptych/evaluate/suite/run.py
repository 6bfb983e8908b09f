"""Carry out a suite: task after task, each finished before the next, so that a kill loses at most one.

Writes, in the folder of the run: `NAME.npz` and `NAME.json` for each task (see `suite_results`), `suite.json`
last; `cache/` with features and classifiers, which any later run of the folder uses again.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diptych.core.errors import DiptychError, UsageError
from diptych.core.files.durable import clean_temporaries, make_folder, write_json
from diptych.core.manifest import created_by
from diptych.evaluate.suite.features_cache import FeatureSettings, data_digest
from diptych.evaluate.suite.plan import Missing, Opened, Plan, open_plan, open_spec
from diptych.evaluate.suite.protocols import Answers, TaskRunner
from diptych.evaluate.suite.results import read_answers, read_result, record, write_answers
from diptych.evaluate.tasks.registry import task_models

if TYPE_CHECKING:
    from diptych.models.model import Model

SUMMARY = "suite.json"


@dataclass(frozen=True, slots=True)
class SuiteSettings:
    """Where a suite reads and writes.

    Attributes:
        data: the folder of the known data sets.
        out: the folder of the run.
        resume: use what is finished there already.
        cache: of features and classifiers; None keeps them in `out`.
        features: how features are made.
    """

    data: Path
    out: Path
    resume: bool = False
    cache: Path | None = None
    features: FeatureSettings = field(default_factory=FeatureSettings)

    @property
    def kept(self) -> Path:
        """Folder of features and classifiers."""
        return self.cache or self.out / "cache"


@dataclass(frozen=True, slots=True)
class SuiteOutcome:
    """What a suite found.

    Attributes:
        name: of the suite.
        folder: of the run.
        results: what the files of the tasks say, in order.
        opened: the tasks themselves, as many.
        missing: data sets that are not there.
        summary: what `suite.json` says.
    """

    name: str
    folder: Path
    results: tuple[Mapping[str, Any], ...]
    opened: tuple[Opened, ...]
    missing: tuple[Missing, ...]
    summary: Mapping[str, Any]

    def answers(self, number: int) -> dict[str, NDArray[Any]]:
        """Return the answer for each picture of a task; see `suite_results.read_answers`."""
        result = self.results[number]
        return read_answers(self.folder / f"{result['task']}.npz", result)


def run_suite(
    model: "Model",
    plan: Plan,
    settings: SuiteSettings,
    *,
    name: str,
    log: Callable[[str], None] = lambda _: None,
) -> SuiteOutcome:
    """Score a model on every task whose data is there.

    Args:
        model: the model.
        plan: the suite.
        settings: where to read and write.
        name: what the user calls the model.
        log: is told what happens, a line each.

    Raises:
        UsageError: the folder holds results that may not be used again; no data set is there.
        DiptychError: a task failed; those before it are finished.
    """
    opened, missing = open_plan(plan, settings.data)
    for lost in missing:
        log(f"{lost.name}: not found in {lost.looked_in}; get it from {lost.get_from}")
    _check_folder(plan, settings)
    make_folder(settings.out)
    if settings.features.shard[1] == 1:  # others that share the work may be writing
        clean_temporaries(settings.out)
    digest = model.digest
    told = {"name": name, "digest": digest, "public": public_name(model, name)}
    results = [_one(model, task, settings, told=told, log=log) for task in opened]
    summary = _summary(plan, told, results, missing)
    write_json(settings.out / SUMMARY, summary)
    return SuiteOutcome(plan.name, settings.out, tuple(results), opened, missing, summary)


def embed_shard(
    model: "Model", plan: Plan, settings: SuiteSettings, *, log: Callable[[str], None] = lambda _: None
) -> None:
    """Embed this process's shard of all images; process 0 runs the suite, see `FeatureSettings.shard`."""
    for spec in plan.specs:
        task = open_spec(spec, settings.data)
        if isinstance(task, Missing):
            continue
        digest = data_digest(task.source, *task.choices)
        TaskRunner(model, task, digest=digest, cache=settings.kept, settings=settings.features).prepare()
        log(f"{spec.name}: shard {settings.features.shard[0]} of {settings.features.shard[1]} is embedded")


def public_name(model: "Model", name: str) -> str:
    """Return the public name of a model, by its files' digests or by what the user typed; "" of others."""
    published = str(getattr(model, "provenance", {}).get("published_as", ""))
    return published or (name if name in task_models() else "")


def _check_folder(plan: Plan, settings: SuiteSettings) -> None:
    there = [spec.name for spec in plan.specs if (settings.out / f"{spec.name}.json").exists()]
    if there and not settings.resume:
        raise UsageError(
            "the folder holds results already",
            where=settings.out,
            found=", ".join(there[:5]),
            fix="choose another folder with --out, or use them with --resume",
        )


def _one(
    model: "Model",
    task: Opened,
    settings: SuiteSettings,
    *,
    told: Mapping[str, str],
    log: Callable[[str], None],
) -> dict[str, Any]:
    """Return a finished result, or make it."""
    spec = task.spec
    digest = data_digest(task.source, *task.choices)
    path = settings.out / f"{spec.name}.json"
    wanted = {"model": told["digest"], "data": digest, "asked": spec.digest}
    if path.exists():
        result = _finished(path, wanted)
        log(f"{spec.name}: finished before, {_shown(result)}")
        return result
    try:
        runner = TaskRunner(model, task, digest=digest, cache=settings.kept, settings=settings.features)
        refused = dict(task.missing)
        answers: dict[str, Answers] = {
            protocol: runner.run(protocol) for protocol in task.protocols if protocol not in refused
        }
    except DiptychError as error:
        error.where = f"task {spec.name}" + (f": {error.where}" if error.where else "")
        raise
    arrays_digest = write_answers(path.with_suffix(".npz"), runner, answers)
    write_json(path, record(runner, answers, model=told, arrays_digest=arrays_digest))
    result = read_result(path)  # so that a new result and one of before are alike to the last list
    log(f"{spec.name}: {_shown(result)}")
    return result


def _finished(path: Path, wanted: Mapping[str, str]) -> dict[str, Any]:
    """Read a result and refuse one of another model, other data or another question."""
    result = read_result(path)
    found = {
        "model": result.get("model", {}).get("digest", ""),
        "data": result.get("data", ""),
        "asked": result.get("asked", ""),
    }
    words = {"model": "another model", "data": "other data", "asked": "another question"}
    for name, digest in wanted.items():
        if found[name] != digest:
            raise UsageError(
                f"a result in the folder is of {words[name]}",
                where=path,
                found=f"{name} {found[name][:16]}",
                expected=f"{name} {digest[:16]}",
                fix="choose another folder with --out, or remove this file",
            )
    read_answers(path.with_suffix(".npz"), result)
    return result


def _shown(result: Mapping[str, Any]) -> str:
    parts = [
        f"{protocol} {found['metric']} {found['value']:.4f}"
        + (f" among {found['classes']} classes" if "classes" in found else "")
        for protocol, found in result["protocols"].items()
        if found["value"] is not None
    ]
    failed = sum(not entry["passed"] for entry in result["expected"])
    bad = ", ".join(f"{reason} {count}" for reason, count in result["items"]["reasons"].items())
    return (
        ", ".join(parts)
        + (f"; of {result['items']['pictures']} images: {bad}" if bad else "")
        + (f"; {failed} not as published" if failed else "")
    )


def _summary(
    plan: Plan, told: Mapping[str, str], results: list[dict[str, Any]], missing: tuple[Missing, ...]
) -> dict[str, Any]:
    """Average over tasks, and say over which: a mean over fewer data sets is another number."""
    means = {}
    protocols = dict.fromkeys(name for result in results for name in result["protocols"])
    for protocol in protocols:
        values = {
            result["task"]: result["protocols"][protocol]["value"]
            for result in results
            if protocol in result["protocols"]
        }
        counted = {name: value for name, value in values.items() if value is not None}
        means[protocol] = {
            "mean": float(np.mean(list(counted.values()))) if counted else None,
            "tasks": len(counted),
            "of": len(plan.specs),
            "over": list(counted),
        }
    held = [entry for result in results for entry in result["expected"]]
    return {
        "suite": plan.name,
        "model": dict(told),
        "means": means,
        "expected": {"passed": sum(entry["passed"] for entry in held), "of": len(held)},
        "tasks": {
            result["task"]: {name: told["value"] for name, told in result["protocols"].items()}
            for result in results
        },
        "not_found": [
            {"task": task.name, "title": task.title, "looked_in": task.looked_in, "get_from": task.get_from}
            for task in missing
        ],
        "code": created_by(),
    }
