"""Carry out a recipe: pack, learn a vocabulary, train, evaluate, report.

Writes, in the run's folder: `assignments.json` (the settings that were changed on the command line), `data/`
(shards), `tokenizer/`, `model/`, `metrics.jsonl`, `results.json`, `report.html`, and the manifest of each.
"""

import dataclasses
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from diptych.cli.recipe import Recipe, TaskPart
from diptych.core.errors import SettingsError, UsageError
from diptych.core.files.durable import make_folder, staging_folder, write_bytes, write_json
from diptych.core.files.locks import locked
from diptych.core.files.reading import read_json
from diptych.core.manifest import Manifest, file_entry, is_done, read_manifest, verify, write_manifest
from diptych.core.progress import Progress
from diptych.core.records import Counts, Metric, Need, Pair
from diptych.core.settings import RENAMED, from_mapping, to_mapping

if TYPE_CHECKING:
    from diptych.data.shards.reader import ShardSet
    from diptych.data.sources.open import Columns, Source
    from diptych.data.tokenizers.clip import Tokenizer
    from diptych.evaluate.suite.plan import TaskSpec
    from diptych.evaluate.suite.run import SourceEvaluator, SourceResult
    from diptych.models.model import Model
    from diptych.report.data import Report
    from diptych.train.settings import TrainSettings
    from diptych.train.trainer import TrainResult

ASSIGNMENTS = "assignments.json"
VOCABULARY = "vocabulary"


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """How a recipe ended: the result of training, and the final metrics of a run that was finished."""

    trained: "TrainResult"
    metrics: tuple[Metric, ...]
    model: "Model"


class _LastResult:
    """An evaluator that keeps its last result, so that the end of a run is not evaluated twice."""

    def __init__(self, evaluator: "SourceEvaluator") -> None:
        self.evaluator, self.name = evaluator, evaluator.name
        self.last: SourceResult | None = None

    def __call__(self, model: "Model") -> list[Metric]:
        self.last = self.evaluator.run(model)
        return self.last.metrics()

    def result(self, model: "Model") -> "SourceResult":
        """Return the last result, or evaluate now."""
        return self.last or self.evaluator.run(model)


def run_recipe(
    recipe: Recipe,
    folder: Path,
    *,
    resume: bool = False,
    command: str = "",
    assignments: Sequence[str] = (),
    add: Callable[["Report"], "Report"] = lambda report: report,
) -> Outcome:
    """Carry out a recipe in a folder; parts that are done already are not done again.

    Whatever can be wrong with the recipe is found before the first image is read, and paths before torch is
    imported.

    Args:
        recipe: what to do.
        folder: of the run.
        resume: go on with a training that was stopped, with the data and the vocabulary that it has.
        command: what the user typed, for the messages and the report.
        assignments: settings that the user changed, kept for `repeated`.
        add: puts more into the report before it is written.
    """
    begun = _check_folder(folder, resume=resume, command=command)
    _check_inputs(recipe, folder, begun=begun)
    from diptych.data.loader import Loader, LoaderSettings
    from diptych.evaluate.suite.run import source_evaluators
    from diptych.models.towers.presets import preset
    from diptych.report.run import write_report
    from diptych.train.settings import TrainSettings
    from diptych.train.trainer import require_loss, train

    settings = from_mapping(TrainSettings, recipe.train, where="train")
    if settings.epochs is None:
        settings.total_steps(0)
    require_loss(preset(recipe.model.preset))
    batches = LoaderSettings(settings.batch_size, seed=settings.seed, **to_mapping(recipe.loader))
    precision = settings.resolved_precision(settings.resolved_device())
    evaluators = list(map(_LastResult, source_evaluators(task_specs(recipe.evaluate), precision=precision)))
    with locked(make_folder(folder)), _kept(assignments, folder / ASSIGNMENTS):
        shards = pack_once(recipe, folder, begun=begun)
        _check_length(settings, len(shards))
        tokenizer = vocabulary_once(recipe, shards, folder, begun=begun)
        model = build_model(recipe, tokenizer, seed=settings.seed)
        loader = Loader(shards, tokenizer, model.preprocess, batches)
        trained = train(model, loader, settings, run_folder=folder, evaluators=evaluators, resume=resume)
        if trained.model_folder is None:
            return Outcome(trained, (), model)
        results = [evaluator.result(model) for evaluator in evaluators]
        metrics = tuple(metric for result in results for metric in result.metrics())
        write_json(folder / "results.json", [metric.as_dict() for metric in metrics])
        started = time.monotonic()
        report = _report(recipe, model, results, folder)
        left_out = (*_left_out(shards, loader.counts), *report.left_out)
        facts, commands = _facts(recipe, model, trained), (("this run", command),)
        report = dataclasses.replace(report, facts=facts, left_out=left_out, commands=commands)
        write_report(folder / "report.html", add(report))
        Progress("report").log(f"report: {folder / 'report.html'} ({time.monotonic() - started:.1f} s)")
    return Outcome(trained, metrics, model)


@contextmanager
def _kept(assignments: Sequence[str], path: Path) -> Iterator[None]:
    """Keep what was changed on the command line; where the run refuses it, restore what was kept before."""
    before = path.read_bytes() if path.is_file() else None
    write_json(path, {"assignments": list(assignments)})
    try:
        yield
    except SettingsError:
        if before is not None:
            write_bytes(path, before)
        raise


def repeated(folder: Path, assignments: Sequence[str]) -> tuple[str, ...]:
    """Return the assignments of a run that is resumed: those it was started with, unless given anew."""
    path = folder / ASSIGNMENTS
    before = read_json(path).get("assignments", []) if path.is_file() else []
    for old, new in RENAMED.items():
        before = [re.sub(rf"\b{old}(?=\s*=)", new, text, count=1) for text in before]
    return tuple({text.partition("=")[0].strip(): text for text in (*before, *assignments)}.values())


def _check_folder(folder: Path, *, resume: bool, command: str) -> bool:
    """Refuse a folder that a run is in, before anything is read; return whether a run goes on in it."""
    if folder.exists() and not folder.is_dir():
        raise UsageError("the folder of a run is a file", where=folder, fix="choose another one with --out")
    begun = (folder / "state").exists() or (folder / "metrics.jsonl").exists()
    if resume or not begun:
        return begun
    actual, fix = "a run that was stopped", "choose another folder with --out, or go on with it: "
    fix += f"{command} --resume"
    if is_done(folder, "run"):
        actual, fix = "a finished run", "choose another folder with --out: "
        fix += f"{command.partition(' --out ')[0]} --out OTHER"
    raise UsageError("the folder holds a run already", where=folder, found=actual, fix=fix)


def _check_inputs(recipe: Recipe, folder: Path, *, begun: bool) -> None:
    """Refuse what cannot be read or does not fit: sources, vocabulary, architecture, tasks."""
    from diptych.data.tokenizers.clip import require_size
    from diptych.models.towers.presets import preset

    if not (begun and _has_data(folder)):
        _source(recipe)
    if not (begun and (folder / "tokenizer").is_dir()):
        file = recipe.tokenizer.file
        if not file:
            require_size(recipe.tokenizer.size)
        elif not Path(file).exists():
            where = f"tokenizer.file: {file}"
            raise UsageError("there is no such vocabulary", where=where, fix="check the path")
    preset(recipe.model.preset)
    for task in recipe.evaluate:
        check_task(task)


def check_task(task: TaskPart, columns: "Columns | None" = None) -> None:
    """Refuse a task whose source, templates or label column are not there."""
    from diptych.data.sources.open import Columns, open_source
    from diptych.evaluate.prompts.sets import open_templates
    from diptych.evaluate.suite.scoring import unknown_labels

    if task.templates:
        open_templates(task.templates)
    columns = dataclasses.replace(columns or Columns(), one_value=(task.labels,) if task.labels else ())
    source = open_source(task.source, columns=columns, need=Need.NOTHING if task.labels else Need.CAPTION)
    known: dict[str, None] = {}
    for pair in source.pairs(Counts()) if task.labels else ():
        if task.labels in pair.fields:
            return
        known.update(dict.fromkeys(pair.fields))
    if task.labels:
        raise unknown_labels(task.labels, known, where=source.name)


def _check_length(settings: "TrainSettings", pairs: int) -> None:
    """Refuse a run that ends before its warm-up; say so where a batch holds more pairs than there are."""
    settings.total_steps(pairs)
    if settings.batch_size > pairs:
        Progress("run").log(
            f"a batch of {settings.batch_size:,} holds some of the {pairs:,} pairs twice, and tells the two "
            f"apart in vain: a train.batch_size of at most {pairs:,} learns more"
        )


def _has_data(folder: Path) -> bool:
    from diptych.data.shards.index import KIND

    return is_done(folder / "data", KIND)


def _source(recipe: Recipe) -> "Source":
    from diptych.data.sources.open import Columns, open_source

    return open_source(recipe.data.source, columns=Columns(recipe.data.image, recipe.data.caption))


def pack_once(recipe: Recipe, folder: Path, *, begun: bool = False) -> "ShardSet":
    """Pack the source into the run's folder, unless it is a shard set of ours already.

    A run that was begun keeps the data that it has packed, whatever has become of their source.
    """
    from diptych.data.pack import PackSettings, pack
    from diptych.data.shards.index import KIND
    from diptych.data.shards.reader import ShardSet
    from diptych.data.shards.writer import ShardSettings

    if begun and _has_data(folder):
        Progress("run").log(f"the run goes on with the data that it has packed: {folder / 'data'}")
        return ShardSet.open(folder / "data")
    given = Path(recipe.data.source)
    if given.is_dir() and is_done(given, KIND):
        return ShardSet.open(given)
    shards = ShardSettings(max_bad_fraction=recipe.data.max_bad_fraction)
    settings = PackSettings(workers=recipe.data.workers, shards=shards)
    pack(_source(recipe), folder / "data", settings=settings)
    return ShardSet.open(folder / "data")


def captions_of(pairs: Iterable[Pair], counts: Counts) -> Iterator[str]:
    """Yield every caption of every pair, and count the pairs."""
    for pair in pairs:
        counts.keep()
        yield from pair.captions


def vocabulary_once(recipe: Recipe, shards: "ShardSet", folder: Path, *, begun: bool = False) -> "Tokenizer":
    """Copy the recipe's vocabulary into the run's folder, or train it there on the captions, once.

    A run that was begun keeps the vocabulary that it has, whatever has become of its file.
    """
    from diptych.data.tokenizers.clip import Tokenizer
    from diptych.train.state import require_same

    part, kept = recipe.tokenizer, folder / "tokenizer"
    there = is_done(kept, VOCABULARY)
    ours = not part.file or (begun and there)
    given = None if ours else Tokenizer.load(part.file, context_length=part.context_length)
    settings = {"size": None if part.file else part.size, "context_length": part.context_length}
    made_from = shards.digest if given is None else given.digest
    if there:
        manifest = verify(kept)
        if begun:
            require_same({"tokenizer": manifest.settings}, {"tokenizer": settings}, where=kept)
        if begun or (manifest.settings, manifest.extra) == (settings, {"from": made_from}):
            return Tokenizer.load(kept, context_length=part.context_length)
    with Progress("learning the vocabulary"), staging_folder(kept, replace=kept.exists()) as staged:
        captions, length = captions_of(shards, Counts()), part.context_length
        tokenizer = given or Tokenizer.train(captions, size=part.size, context_length=length)
        tokenizer.save(staged)
        written = tuple(file_entry(path, root=staged) for path in sorted(staged.iterdir()))
        extra = {"from": made_from}
        write_manifest(staged, Manifest(VOCABULARY, settings=settings, outputs=written, extra=extra))
    return tokenizer


def build_model(recipe: Recipe, tokenizer: "Tokenizer", *, seed: int) -> "Model":
    """Build the recipe's model with fresh weights, fitted to its vocabulary."""
    from diptych.data.images.transforms import Preprocess
    from diptych.models.model import Model
    from diptych.models.towers.clip import build
    from diptych.models.towers.presets import preset

    config = preset(recipe.model.preset).with_tokenizer(
        vocab_size=tokenizer.vocab_size,
        start_id=tokenizer.start_id,
        end_id=tokenizer.end_id,
        pad_id=0,  # what the tokenizer fills rows with
        context_length=tokenizer.context_length,
    )
    preprocess = Preprocess(size=config.vision.image_size, **dataclasses.asdict(recipe.preprocess))
    return Model(build(config, seed=seed), tokenizer, preprocess, {"preset": recipe.model.preset})


def task_specs(tasks: Sequence[TaskPart]) -> "list[TaskSpec]":
    """Return the tasks of a recipe as those of a suite."""
    from diptych.evaluate.suite.plan import TaskSpec

    def spec(task: TaskPart) -> TaskSpec:
        labels = task.labels if task.task == "zeroshot" else ""
        source, templates, protocols = task.source, task.templates, (task.task,)
        return TaskSpec(task.name, source, labels=labels, templates=templates, protocols=protocols)

    return [*map(spec, tasks)]


def _report(recipe: Recipe, model: "Model", results: Sequence["SourceResult"], folder: Path) -> "Report":
    from diptych.report.run import build_report

    part, metrics_file = recipe.report, folder / "metrics.jsonl"
    title = part.title or folder.name
    return build_report(
        model, results, title=title, summary=part.summary, queries=part.queries, metrics_file=metrics_file
    )


def _facts(recipe: Recipe, model: "Model", trained: "TrainResult") -> tuple[tuple[str, str], ...]:
    parameters = sum(tensor.numel() for tensor in model.clip.parameters())
    return (
        ("preset", recipe.model.preset),
        ("parameters", f"{parameters / 1e6:.2f} million"),
        ("pairs seen", f"{trained.samples_seen:,}"),
        ("time", f"{trained.seconds / 60:.1f} minutes"),
        ("model", model.digest[:16]),
    )


def _left_out(shards: "ShardSet", loaded: Counts) -> tuple[tuple[str, int], ...]:
    """Count what packing dropped and what the loader had to skip."""
    from diptych.data.shards.index import KIND

    folder = Path(shards.ref)
    counts = read_manifest(folder).counts if is_done(folder, KIND) else shards.counts.as_dict()
    rows = [("pairs packed for training", int(counts["out"]))]
    for stage, dropped in (("packing", counts["dropped"]), ("training", loaded.as_dict()["dropped"])):
        for reason, count in sorted(dropped.items()):
            rows.append((f"dropped in {stage}: {reason.replace('_', ' ')}", int(count)))
    return tuple(rows)
