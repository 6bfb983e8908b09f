"""`diptych evaluate`: a model on one source of your own, or on a whole suite of data sets.

Writes, with a suite, in the folder of the run: a JSON for each task, `suite.json`, `report.html`; with
another model to compare with also `baseline/` and `comparison.json`, with natural shifts of ImageNet
`robustness.json`, with a training set `overlap.json`.
"""

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from diptych.cli.arguments import (
    MAX_BAD_FRACTION,
    ColumnNames,
    ImageOptions,
    JsonFile,
    ModelName,
    parse_columns,
)
from diptych.cli.output import print_dropped, print_json, print_metrics
from diptych.core.errors import UsageError
from diptych.core.files.durable import make_folder, write_json
from diptych.core.files.locks import locked
from diptych.core.machine import keep_freed_memory
from diptych.core.records import Counts, Need

if TYPE_CHECKING:
    from diptych.evaluate.suite.run import SourceResult, SuiteOutcome

SHOWN_CLASSES = 10


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """Options for a source.

    Attributes:
        task: zeroshot classifies images by a column's names (with --labels); retrieval finds texts and
            images (without).
        labels: the column of the true names; in a folder of images "label" is the name of the subfolder.
        templates: prompts file (.txt, .json, .toml) with templates and cleaned names, or the name of a known
            set such as imagenet.
        report: also write a page with curves, confusions and images here.
        max_bad_fraction: share of bad samples above which nothing is scored; up to it, an image that cannot
            be read counts as wrong.
    """

    task: Literal["zeroshot", "retrieval"] | None = None
    labels: str = ""
    templates: str = ""
    columns: ColumnNames = ""
    report: Path | None = None
    max_bad_fraction: float = MAX_BAD_FRACTION


@dataclass(frozen=True, slots=True)
class SuiteOptions:
    """Options for a suite.

    Attributes:
        data: folder of the data sets, one folder each, named after the task.
        protocols: zeroshot, probe, few_shot, retrieval, caption_choice, by commas; by default what fits.
        out: folder for results, report and kept features; runs/evaluate/SUITE by default.
        resume: use what is finished in that folder.
        baseline: another model, compared image by image.
        train_data: what the model was trained on: tasks are also scored without the images that it holds.
        shard: RANK/WORLD of processes with one folder: 0 scores, the others help it to embed.
        format: also write the results as CLIP_benchmark's or MTEB's.
    """

    data: Path = Path("data")
    protocols: str = ""
    out: Path | None = None
    resume: bool = False
    baseline: str = ""
    train_data: str = ""
    shard: str = "0/1"
    format: Literal["diptych", "clip_benchmark", "mteb"] = "diptych"


def evaluate(
    model: ModelName,
    source: Annotated[Positional[str], arg(metavar="SOURCE")] = "",
    *,
    suite: str = "",
    source_options: SourceOptions = SourceOptions(),
    suite_options: SuiteOptions = SuiteOptions(),
    read: ImageOptions = ImageOptions(),
    json: JsonFile = "-",
) -> int:
    """Score a model on a source of your own, or with --suite on many data sets.

    Args:
        source: folder, CSV/TSV, Parquet, tar shards, or scenes:unseen.
        suite: paper27, datacomp38, imagenet_shift, retrieval, compositional, a data set, or a TOML file.
        source_options: only with SOURCE.
        suite_options: only with --suite.
        read: how image files are read.
    """
    keep_freed_memory()
    if bool(source) == bool(suite):
        what = "both a source and a suite are given" if suite else "no source or suite is given"
        wanted, fix = "exactly one of the two", "name a source of your own, or a suite with --suite"
        raise UsageError(what, where="SOURCE, --suite", expected=wanted, fix=fix)
    unused = source_options != SourceOptions() if suite else suite_options != SuiteOptions()
    if unused:
        mode, other = ("--suite", "a source") if suite else ("SOURCE", "--suite")
        fix = "see the two groups in diptych evaluate --help"
        raise UsageError(f"an option belongs to {other}", where=mode, fix=fix)
    if suite:
        return _suite(model, suite, suite_options, read, json)
    return _source(model, source, source_options, read, json)


def _source(model: str, source: str, options: SourceOptions, read: ImageOptions, json: str) -> int:
    from diptych.cli.recipe import TaskPart
    from diptych.cli.run import check_task, task_specs
    from diptych.data.sources.open import LABEL
    from diptych.evaluate.suite.run import source_evaluators

    columns = parse_columns(options.columns)
    task = options.task or ("zeroshot" if options.labels else "retrieval")
    labels = options.labels or (LABEL if task == "zeroshot" else "")
    part = TaskPart(labels or task, source, task, labels, options.templates)
    check_task(part, columns)
    limit = options.max_bad_fraction
    (evaluator,) = source_evaluators(task_specs([part]), columns=columns, max_bad_fraction=limit)
    loaded = read.load(model)
    result = evaluator.run(loaded)
    metrics = result.metrics()
    print_dropped(result.embedded.counts)
    _show_classes(result)
    print_metrics(metrics)
    if options.report is not None:
        from diptych.report.run import build_report, write_report

        title = f"{part.name} on {Path(source).name}"
        write_report(options.report, build_report(loaded, (result,), title=title))
    return print_json([metric.as_dict() for metric in metrics], json)


def _show_classes(outcome: "SourceResult") -> None:
    """State which classes a score is among, in their order: by name, numbers in them as numbers."""
    for result in outcome.results:
        if "classes" in result.extra:
            names, occurring = result.labels.class_names, result.extra["classes_that_occur"]
            more = f", … {names[-1]}" if len(names) > SHOWN_CLASSES else ""
            listed = ", ".join(names[:SHOWN_CLASSES]) + more
            _say(f"zero-shot among {len(names)} classes, {occurring} of which occur: {listed}")


def _suite(model: str, suite: str, options: SuiteOptions, read: ImageOptions, json: str) -> int:
    from diptych.data.sources.open import open_source
    from diptych.evaluate.suite import compare
    from diptych.evaluate.suite.features_cache import FeatureSettings, parse_shard
    from diptych.evaluate.suite.plan import load_plan, open_plan, parse_protocols
    from diptych.evaluate.suite.results import write_formats
    from diptych.evaluate.suite.run import SuiteSettings, embed_shard, run_suite
    from diptych.report.suite import write_suite_report

    plan = load_plan(suite, protocols=parse_protocols(options.protocols))
    open_plan(plan, options.data)
    if options.train_data:
        open_source(options.train_data, need=Need.IMAGE)
    out = options.out or Path("runs") / "evaluate" / plan.name
    features = FeatureSettings(shard=parse_shard(options.shard))

    def settings(folder: Path) -> SuiteSettings:
        return SuiteSettings(options.data, folder, options.resume, out / "cache", features)

    if features.shard[0]:
        for name in filter(None, (model, options.baseline)):
            embed_shard(read.load(name), plan, settings(out), log=_say)
        return 0

    def run(name: str, folder: Path) -> "SuiteOutcome":
        return run_suite(read.load(name), plan, settings(folder), name=name, log=_say)

    with locked(make_folder(out)):
        outcome = run(model, out)
        baseline = run(options.baseline, out / "baseline") if options.baseline else None
        if baseline is not None:
            compared = compare.compare(outcome, baseline)
            write_json(out / "comparison.json", [asdict(entry) for entry in compared])
        seen = []
        if options.train_data:
            counts = Counts()
            seen = compare.seen_in_training(outcome, open_source(options.train_data, need=Need.IMAGE), counts)
            print_dropped(counts)
            write_json(out / "overlap.json", [report.as_dict() for report in seen])
        for line in write_formats(out, outcome.results, outcome.opened, options.format):
            _say(line)
        published = compare.read_published(options.data)
        shifts = compare.natural_shifts(outcome, published)
        if shifts:
            write_json(out / "robustness.json", [asdict(shift) for shift in shifts])
        words = f"diptych evaluate {model} --suite {suite} --data {options.data} --out {out}{read.as_words()}"
        given = {"baseline": options.baseline, "train-data": options.train_data}
        words += "".join(f" --{name} {value}" for name, value in given.items() if value)
        write_suite_report(
            out / "report.html", outcome, baseline=baseline, published=published, shifts=shifts, seen=seen,
            command=words,
        )  # fmt: skip
        _say(f"report: {out / 'report.html'}")
        return print_json(dict(outcome.summary), json)


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
