"""Carry out a recipe: pack, learn a vocabulary, train, evaluate, report.

Writes, in the run's folder: `data/` (shards), `tokenizer/`, `model/`, `metrics.jsonl`, `results.json`,
`report.html`, and the receipts of each.
"""

import dataclasses
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diptych.cli.recipe import Recipe, TaskPart
from diptych.core.files import write_json
from diptych.core.manifest import is_done
from diptych.core.progress import Progress
from diptych.core.records import Metric, Pair
from diptych.core.settings import from_mapping

if TYPE_CHECKING:
    from diptych.data.shards import ShardSet
    from diptych.data.sources import Columns
    from diptych.data.tokenizer import Tokenizer
    from diptych.embed.features import Precision
    from diptych.evaluate.suite import Suite, SuiteResult
    from diptych.models.model import Model
    from diptych.train.trainer import TrainResult


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """How a recipe ended: the training's result, and what the evaluation found if the run was finished."""

    trained: "TrainResult"
    metrics: tuple[Metric, ...]
    model: "Model"


def run_recipe(recipe: Recipe, folder: Path, *, resume: bool = False, command: str = "") -> Outcome:
    """Carry out a recipe in a folder.

    Args:
        recipe: what to do.
        folder: for everything the run writes; parts that are done already are not done again.
        resume: go on with a training that was stopped.
        command: what the user typed, for the report.
    """
    from diptych.data.loader import Loader, LoaderSettings
    from diptych.train.settings import TrainSettings
    from diptych.train.trainer import train

    settings = from_mapping(TrainSettings, recipe.train, where="train")
    shards = pack_once(recipe, folder)
    tokenizer = vocabulary_once(recipe, shards, folder)
    model = build_model(recipe, tokenizer, seed=settings.seed)
    loader = Loader(
        shards,
        tokenizer,
        model.preprocess,
        LoaderSettings(settings.batch_size, workers=recipe.loader.workers, seed=settings.seed),
    )
    precision = settings.resolved_precision(model.device)
    suites = build_suites(recipe.evaluate, precision=precision)
    trained = train(model, loader, settings, run_folder=folder, evaluators=suites, resume=resume)
    if trained.model_folder is None:
        return Outcome(trained, (), model)
    results = [suite.run(model) for suite in suites]
    metrics = tuple(metric for result in results for metric in result.metrics())
    write_json(folder / "results.json", [metric.as_dict() for metric in metrics])
    if results:
        _report(recipe, model, results, trained, folder, command)
    return Outcome(trained, metrics, model)


def pack_once(recipe: Recipe, folder: Path) -> "ShardSet":
    """Pack the source into the run's folder, unless it is a shard set of ours already."""
    from diptych.data.pack import PackSettings, pack
    from diptych.data.shards import ShardSet
    from diptych.data.shards_index import KIND
    from diptych.data.sources import Columns, open_source

    given = Path(recipe.data.source)
    if given.is_dir() and is_done(given, KIND):
        return ShardSet.open(given)
    source = open_source(recipe.data.source, columns=Columns(recipe.data.image, recipe.data.caption))
    pack(source, folder / "data", settings=PackSettings(workers=recipe.data.workers))
    return ShardSet.open(folder / "data")


def captions_of(pairs: Iterable[Pair]) -> Iterator[str]:
    """Yield every caption of every pair."""
    for pair in pairs:
        yield from pair.captions


def vocabulary_once(recipe: Recipe, shards: "ShardSet", folder: Path) -> "Tokenizer":
    """Load the recipe's vocabulary, or train it on the captions and keep it in the run's folder."""
    from diptych.core.files import staging_folder
    from diptych.data.tokenizer import Tokenizer

    part, kept = recipe.tokenizer, folder / "tokenizer"
    if part.file:
        return load_tokenizer(Path(part.file), context_length=part.context_length)
    if not kept.exists():
        with Progress("learning the vocabulary"), staging_folder(kept) as staged:
            captions = captions_of(shards)
            Tokenizer.train(captions, size=part.size, context_length=part.context_length).save(staged)
    return Tokenizer.load(kept, context_length=part.context_length)


def load_tokenizer(path: Path, *, context_length: int) -> "Tokenizer":
    """Load a vocabulary from a folder, a `tokenizer.json` or the published merges."""
    from diptych.data.tokenizer import Tokenizer

    if path.is_dir():
        return Tokenizer.load(path, context_length=context_length)
    if path.suffix == ".json":
        return Tokenizer.from_json(path, context_length=context_length)
    return Tokenizer.from_merges(path, context_length=context_length)


def build_model(recipe: Recipe, tokenizer: "Tokenizer", *, seed: int) -> "Model":
    """Build the recipe's model with fresh weights, fitted to its vocabulary."""
    from diptych.data.images import Preprocess
    from diptych.models.clip import build
    from diptych.models.model import Model
    from diptych.models.presets import preset

    config = preset(recipe.model.preset).with_tokenizer(
        vocab_size=tokenizer.vocab_size,
        start_id=tokenizer.start_id,
        end_id=tokenizer.end_id,
        context_length=tokenizer.context_length,
    )
    given = {
        part.name: getattr(recipe.preprocess, part.name) for part in dataclasses.fields(recipe.preprocess)
    }
    preprocess = Preprocess(size=config.vision.image_size, **given)
    return Model(build(config, seed=seed), tokenizer, preprocess, {"preset": recipe.model.preset})


def build_suites(
    tasks: Sequence[TaskPart], *, precision: "Precision" = "float32", columns: "Columns | None" = None
) -> tuple["Suite", ...]:
    """Group tasks by source, so that its pictures are embedded once."""
    from diptych.data.sources import Columns, open_source
    from diptych.evaluate.prompts import load
    from diptych.evaluate.retrieval import RetrievalEvaluator
    from diptych.evaluate.suite import Suite
    from diptych.evaluate.zeroshot import ZeroShotEvaluator

    suites = []
    for ref in dict.fromkeys(task.source for task in tasks):
        source = open_source(ref, columns=columns or Columns())
        scored: list[RetrievalEvaluator | ZeroShotEvaluator] = []
        for task in (task for task in tasks if task.source == ref):
            if task.task == "retrieval":
                scored.append(RetrievalEvaluator(task.name, source, precision))
                continue
            templates = load(task.templates) if task.templates else None
            scored.append(ZeroShotEvaluator(task.name, source, task.labels, (), templates, precision))
        suites.append(Suite(source.name, source, tuple(scored), precision))
    return tuple(suites)


def _report(
    recipe: Recipe,
    model: "Model",
    results: Sequence["SuiteResult"],
    trained: "TrainResult",
    folder: Path,
    command: str,
) -> None:
    from diptych.evaluate.gallery import build_report
    from diptych.evaluate.report import write_report

    started = time.monotonic()
    first, *others = results
    report = build_report(
        model,
        first,
        title=recipe.report.title or folder.name,
        summary=recipe.report.summary,
        queries=recipe.report.queries,
        metrics_file=folder / "metrics.jsonl",
    )
    further = tuple(metric for result in others for metric in result.metrics())
    parameters = sum(tensor.numel() for tensor in model.clip.parameters())
    facts = (
        ("preset", recipe.model.preset),
        ("parameters", f"{parameters / 1e6:.2f} million"),
        ("pairs seen", f"{trained.samples_seen:,}"),
        ("time", f"{trained.seconds / 60:.1f} minutes"),
        ("model", model.digest[:16]),
    )
    commands = (("this run", command),) if command else ()
    write_report(
        folder / "report.html",
        dataclasses.replace(report, facts=facts, commands=commands, metrics=(*report.metrics, *further)),
    )
    with Progress("report") as progress:
        progress.log(f"report: {folder / 'report.html'} ({time.monotonic() - started:.1f} s)")
