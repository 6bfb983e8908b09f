"""Run the protocols: a suite into a folder, task after task, or the tasks on one source in memory.

Writes, in the folder of a suite: `NAME.npz` and `NAME.json` for each task (see `results`), each finished
before the next, so that a kill loses at most one; `suite.json` last; `cache/` with features and classifiers,
which any later run of the folder uses again.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diptych.core.errors import DiptychError, UsageError
from diptych.core.files.durable import clean_temporaries, make_folder, write_json
from diptych.core.manifest import created_by
from diptych.core.records import Metric
from diptych.data.captions import Columns
from diptych.embed.features import EmbeddedPairs, embed_pairs
from diptych.evaluate.suite.caption_choice import caption_choice
from diptych.evaluate.suite.features_cache import FeatureSettings, data_digest
from diptych.evaluate.suite.few_shot import TrainingData, few_shot, probe
from diptych.evaluate.suite.plan import (
    MissingTask,
    OpenedTask,
    Plan,
    ProtocolName,
    TaskSpec,
    open_own,
    open_plan,
    open_spec,
    own_source,
)
from diptych.evaluate.suite.results import read_answers, read_result, record, write_answers
from diptych.evaluate.suite.retrieval import retrieval
from diptych.evaluate.suite.scoring import ProtocolResult, TaskRunner
from diptych.evaluate.suite.zeroshot import zeroshot
from diptych.evaluate.tasks.registry import registry
from diptych.models.encode import Precision

if TYPE_CHECKING:
    from diptych.data.sources.open import Source
    from diptych.models.model import Model

PROTOCOLS: Mapping[ProtocolName, Callable[[TaskRunner], ProtocolResult]] = {
    "zeroshot": zeroshot, "probe": probe, "few_shot": few_shot, "retrieval": retrieval,
    "caption_choice": caption_choice,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class SourceResult:
    """Results of the tasks on one source, in the order of the tasks."""

    source: "Source"
    embedded: EmbeddedPairs
    results: tuple[ProtocolResult, ...]

    def metrics(self) -> list[Metric]:
        """List every task's numbers, each followed by how many samples of the source were bad, by reason."""
        metrics, counts = [], self.embedded.counts
        for result in self.results:
            metrics += [*result.metrics, *result.logged]
            for reason, count in sorted(counts.dropped.items()):
                name = f"bad_samples[{reason}]"
                metrics.append(Metric(result.metric.task, name, float(count), None, counts.seen))
        return metrics


@dataclass(frozen=True, slots=True)
class SourceEvaluator:
    """Evaluator of the tasks on one source, whose images are embedded once and kept in memory.

    Training calls it as an evaluator; `diptych evaluate SOURCE` runs it once. Of the samples that are bad, an
    image that cannot be read is wrong in every task, the others belong to none.
    """

    source: "Source"
    tasks: tuple[OpenedTask, ...]  # zeroshot or retrieval, one protocol each
    precision: Precision = "float32"
    max_bad_fraction: float = 1.0  # of the samples; above it nothing is scored

    @property
    def name(self) -> str:
        """Name of the source."""
        return self.source.name

    def __call__(self, model: "Model") -> list[Metric]:
        """Embed the source once and list every task's metrics."""
        return self.run(model).metrics()

    def run(self, model: "Model") -> SourceResult:
        """Embed the source once and score every task on it."""
        embedded = embed_pairs(model, self.source, precision=self.precision)
        embedded.counts.check(self.max_bad_fraction)
        return self.score(model, embedded)

    def score(self, model: "Model", embedded: EmbeddedPairs) -> SourceResult:
        """Score the tasks on the source's images, which are embedded already."""
        settings = FeatureSettings(self.precision)
        runners = [TaskRunner(model, task, settings, embedded=embedded) for task in self.tasks]
        results = (PROTOCOLS[runner.task.protocols[0]](runner) for runner in runners)
        return SourceResult(self.source, embedded, tuple(results))


def source_evaluators(
    specs: Sequence[TaskSpec],
    *,
    columns: Columns | None = None,
    precision: Precision = "float32",
    max_bad_fraction: float = 1.0,
) -> Iterator[SourceEvaluator]:
    """Yield one evaluator for each source, so that the images of several tasks are embedded once."""
    for ref in dict.fromkeys(spec.source for spec in specs):
        of_source = [spec for spec in specs if spec.source == ref]
        source, need = own_source(ref, of_source, columns)
        tasks = tuple(open_own(spec, source, need) for spec in of_source)
        yield SourceEvaluator(source, tasks, precision, max_bad_fraction)


@dataclass(frozen=True, slots=True)
class SuiteSettings:
    """Where a suite reads and writes."""

    data: Path  # the folder of the known data sets
    out: Path  # the folder of the run
    resume: bool = False  # use what is finished there already
    cache: Path | None = None  # of features and classifiers; None keeps them in `out`
    features: FeatureSettings = field(default_factory=FeatureSettings)

    @property
    def cache_folder(self) -> Path:
        """Folder of features and classifiers."""
        return self.cache or self.out / "cache"


@dataclass(frozen=True, slots=True)
class SuiteOutcome:
    """Results of a suite."""

    name: str
    folder: Path
    results: tuple[Mapping[str, Any], ...]  # what the files of the tasks say, in order
    opened: tuple[OpenedTask, ...]  # the tasks themselves, as many
    missing: tuple[MissingTask, ...]
    summary: Mapping[str, Any]  # what `suite.json` says

    def answers(self, number: int) -> dict[str, NDArray[Any]]:
        """Return the answer for each image of a task; see `results.read_answers`."""
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
        model: the model, which the user calls `name`.
        plan: the suite.
        settings: where to read and write.
        name: of the model, or its public name.
        log: is called with what happens, a line each.

    Raises:
        UsageError: the folder holds results that may not be used again; no data set is there.
        DiptychError: a task failed; those before it are finished.
    """
    opened, missing = open_plan(plan, settings.data)
    for task in missing:
        log(f"{task.task}: not found in {task.looked_in}; get it from {task.get_from}")
    finished = [spec.name for spec in plan.specs if (settings.out / f"{spec.name}.json").exists()]
    if finished and not settings.resume:
        what, fix = (
            "the folder holds results already",
            "choose another folder with --out, or use them with --resume",
        )
        raise UsageError(what, where=settings.out, found=", ".join(finished[:5]), fix=fix)
    make_folder(settings.out)
    if settings.features.shard[1] == 1:  # others that share the work may be writing
        clean_temporaries(settings.out)
    # The public name is known by the digests of the model's files, or by what the user typed.
    published = str(getattr(model, "provenance", {}).get("published_as", ""))
    public = published or (name if name in registry().models else "")
    facts = {"name": name, "digest": model.digest, "public": public}
    results = [_score_task(model, one, settings, facts=facts, log=log) for one in opened]
    summary = _summary(plan, facts, results, missing)
    write_json(settings.out / "suite.json", summary)
    return SuiteOutcome(plan.name, settings.out, tuple(results), opened, missing, summary)


def embed_shard(
    model: "Model", plan: Plan, settings: SuiteSettings, *, log: Callable[[str], None] = lambda _: None
) -> None:
    """Embed this process's shard of all images; process 0 runs the suite, see `FeatureSettings.shard`."""
    rank, world = settings.features.shard
    for spec in plan.specs:
        task = open_spec(spec, settings.data)
        if isinstance(task, OpenedTask):
            runner = _runner(model, task, settings)
            if {"probe", "few_shot"} & set(task.protocols) - dict(task.not_run).keys():
                TrainingData(runner)
            log(f"{spec.name}: shard {rank} of {world} is embedded")


def _runner(model: "Model", task: OpenedTask, settings: SuiteSettings, digest: str = "") -> TaskRunner:
    digest = digest or data_digest(task.source, *task.choices)
    return TaskRunner(model, task, settings.features, cache=settings.cache_folder, digest=digest)


def _score_task(
    model: "Model",
    task: OpenedTask,
    settings: SuiteSettings,
    *,
    facts: Mapping[str, str],
    log: Callable[[str], None],
) -> Mapping[str, Any]:
    """Return a finished result, or make it."""
    spec, digest = task.spec, data_digest(task.source, *task.choices)
    path = settings.out / f"{spec.name}.json"
    if path.exists():
        reading = model.preprocess.reading_name
        wanted = {"model": facts["digest"], "data": digest, "asked": spec.digest, "images": reading}
        result = _finished(path, wanted)
        log(f"{spec.name}: finished before, {_described(result)}")
        return result
    try:
        runner = _runner(model, task, settings, digest)
        asked = [protocol for protocol in task.protocols if protocol not in dict(task.not_run)]
        made: dict[str, ProtocolResult] = {protocol: PROTOCOLS[protocol](runner) for protocol in asked}
    except DiptychError as error:
        error.where = f"task {spec.name}" + (f": {error.where}" if error.where else "")
        raise
    answers_digest = write_answers(path.with_suffix(".npz"), runner.labels, made)
    write_json(path, record(runner, made, model=facts, answers_digest=answers_digest))
    result = read_result(path)  # so that a new result and one of before are alike to the last list
    log(f"{spec.name}: {_described(result)}")
    return result


def _finished(path: Path, wanted: Mapping[str, str]) -> Mapping[str, Any]:
    """Read a result and refuse one of another model, other data or another question."""
    result = read_result(path)
    actual = {**result, "model": result.get("model", {}).get("digest", "")}
    actual["images"] = result.get("settings", {}).get("images", "stored")  # as before it was a setting
    words = {"model": "another model", "data": "other data", "asked": "another question"}
    words["images"] = "images read in another way (--orientation, --scaled-jpeg)"
    for name, digest in wanted.items():
        if (other := actual.get(name, "")) != digest:
            what, fix = (
                f"a result in the folder is of {words[name]}",
                "choose another folder with --out, or remove this file",
            )
            found, expected = f"{name} {other[:16]}", f"{name} {digest[:16]}"
            raise UsageError(what, where=path, found=found, expected=expected, fix=fix)
    read_answers(path.with_suffix(".npz"), result)
    return result


def _described(result: Mapping[str, Any]) -> str:
    parts = [
        f"{protocol} {entry['metric']} {entry['value']:.4f}"
        + (f" among {entry['classes']} classes" if "classes" in entry else "")
        for protocol, entry in result["protocols"].items()
        if entry["value"] is not None
    ]
    items, failed = result["items"], sum(not entry["passed"] for entry in result["expected"])
    bad = ", ".join(f"{reason} {count}" for reason, count in items["reasons"].items())
    unlike = f"; {failed} not as published" if failed else ""
    return ", ".join(parts) + (f"; of {items['pictures']} images: {bad}" if bad else "") + unlike


def _summary(
    plan: Plan, facts: Mapping[str, str], results: Sequence[Mapping[str, Any]], missing: Sequence[MissingTask]
) -> dict[str, Any]:
    """Average over tasks, and say over which: a mean over fewer data sets is another number."""
    values = {
        result["task"]: {name: entry["value"] for name, entry in result["protocols"].items()}
        for result in results
    }
    means = {}
    for protocol in dict.fromkeys(name for of_task in values.values() for name in of_task):
        counted = {task: of_task.get(protocol) for task, of_task in values.items()}
        counted = {task: value for task, value in counted.items() if value is not None}
        mean = float(np.mean(list(counted.values()))) if counted else None
        means[protocol] = {"mean": mean, "tasks": len(counted), "of": len(plan.specs), "over": list(counted)}
    expected = [entry for result in results for entry in result["expected"]]
    return {
        "suite": plan.name,
        "model": dict(facts),
        "means": means,
        "expected": {"passed": sum(entry["passed"] for entry in expected), "of": len(expected)},
        "tasks": values,
        "not_found": [asdict(task) for task in missing],
        "code": created_by(),
    }
