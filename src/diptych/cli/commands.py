"""The commands, each a thin function: its arguments are the command's options, its docstring its help."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, UseAppendAction, arg

from diptych.cli.arguments import (
    MAX_BAD_FRACTION,
    Assignments,
    ColumnNames,
    ImageOptions,
    JsonFile,
    ModelName,
    OutFolder,
    SourceName,
    parse_columns,
    parse_names,
)  # fmt: skip
from diptych.cli.curate import curate
from diptych.cli.evaluate import evaluate
from diptych.cli.output import print_dropped, print_json, print_metrics
from diptych.cli.prompts import ablate, calibrate, prompts
from diptych.cli.search import duplicates, index, search
from diptych.core.errors import DataError, UsageError
from diptych.core.machine import keep_freed_memory

NEXT = """
model    {run}/model
results  {run}/results.json
report   {run}/report.html

Try next
  diptych index add photos.index FOLDER --model {run}
  diptych search photos.index "a text" -k 5
  diptych classify {run} IMAGE --labels "one name,another name"
  diptych evaluate {run} SOURCE --task retrieval
"""


def demo(*, out: Path = Path("runs/demo"), seed: int = 0) -> int:
    """Watch a small CLIP learn from drawn scenes, in minutes, then search images with it.

    Args:
        out: folder of the run.
        seed: of the scenes, the weights and the order.
    """
    keep_freed_memory()
    from diptych.cli.demo import run_demo

    return run_demo(out, seed=seed)


def tokenizer(
    source: SourceName,
    out: OutFolder,
    *,
    size: int = 8192,
    columns: ColumnNames = "",
    context: int = 77,
    max_bad_fraction: float = MAX_BAD_FRACTION,
) -> int:
    """Train a byte-pair vocabulary on a source's captions; images are not looked at.

    Args:
        source: folder, CSV/TSV, Parquet, tar shards, or scenes:train.
        out: folder for tokenizer.json, vocab.json and merges.txt.
        size: entries, specials included; CLIP's is 49408.
        context: longest text in tokens that models with this vocabulary read.
        max_bad_fraction: share of samples without a caption above which nothing is written.
    """
    from diptych.cli.run import captions_of
    from diptych.core.files.durable import staging_folder
    from diptych.core.records import Counts, Need
    from diptych.data.sources.open import open_source
    from diptych.data.tokenizers.clip import Tokenizer

    counts = Counts()
    pairs = open_source(source, columns=parse_columns(columns), need=Need.CAPTION).pairs(counts)
    with staging_folder(out) as staged:
        trained = Tokenizer.train(captions_of(pairs, counts), size=size, context_length=context)
        counts.check(max_bad_fraction)
        if not counts.kept:
            fix = "check --columns caption=NAME"
            raise DataError("there is no caption to learn from", where=source, fix=fix)
        trained.save(staged)
    return print_json({"tokenizer": str(out), "entries": trained.vocab_size, **counts.as_dict()})


def pack(
    source: SourceName,
    out: OutFolder,
    *,
    columns: ColumnNames = "",
    workers: int = 2,
    max_bad_fraction: float = MAX_BAD_FRACTION,
) -> int:
    """Pack a source into shards: every image decoded once, every bad pair dropped and counted.

    Args:
        source: folder, CSV/TSV, Parquet, tar shards, or scenes:train.
        out: folder for the shards.
        workers: decoding processes.
        max_bad_fraction: share of bad pairs above which nothing is written.
    """
    from diptych.core.records import Counts
    from diptych.data.pack import PackSettings
    from diptych.data.pack import pack as pack_source
    from diptych.data.shards.writer import ShardSettings
    from diptych.data.sources.open import open_source

    settings = PackSettings(workers=workers, shards=ShardSettings(max_bad_fraction=max_bad_fraction))
    manifest = pack_source(open_source(source, columns=parse_columns(columns)), out, settings=settings)
    print_dropped(Counts.from_dict(manifest.counts))
    return print_json({"shards": str(out), **manifest.counts})


def remove(
    data: Annotated[Positional[Path], arg(metavar="DATA")],
    key: Annotated[Positional[tuple[str, ...]], arg(metavar="KEY")] = (),
    *,
    keys: Path | None = None,
    reason: str = "",
    drop_others: bool = False,
) -> int:
    """Take samples out of packed shards for good; the set then is its next version.

    Args:
        data: a folder of packed shards.
        key: names of the samples.
        keys: a text file with further names, one a line.
        reason: kept in the manifest, beside digests of the names.
        drop_others: delete all else in the folder too, such as stages of a curation: it may hold them.
    """
    from diptych.data.shards.edit import read_keys
    from diptych.data.shards.edit import remove as remove_samples

    names = [*key, *(read_keys(keys) if keys is not None else ())]
    if not names:
        wanted, fix = "a key, or a file of them", "give --keys FILE"
        raise UsageError("no key given", where="KEY", expected=wanted, fix=fix)
    manifest = remove_samples(data, names, reason=reason, drop_others=drop_others)
    changed = {name: manifest.extra[name] for name in ("version", "samples") if name in manifest.extra}
    removed = sum(record["count"] for record in manifest.extra.get("removals", ()))
    return print_json({"shards": str(data), **changed, "removed_in_all": removed})


def train(
    recipe: Annotated[Positional[Path], arg(metavar="RECIPE")],
    *,
    assignments: Assignments = (),
    out: Path | None = None,
    resume: bool = False,
) -> int:
    """Train from a recipe: pack, learn a vocabulary, train, evaluate, report.

    Args:
        recipe: a TOML file, such as recipes/fashion.toml.
        assignments: change one setting, for example --set train.epochs=2; may be repeated.
        out: folder of the run; runs/NAME of the recipe by default.
        resume: go on with a run that was stopped: with its data, its vocabulary and its --set.
    """
    keep_freed_memory()
    from diptych.cli.recipe import load_recipe
    from diptych.cli.run import repeated, run_recipe

    folder = out or Path("runs") / recipe.stem
    assignments = repeated(folder, assignments) if resume else assignments
    words = ["diptych train", str(recipe), *(f"--set {text}" for text in assignments), f"--out {folder}"]
    parts, command = load_recipe(recipe, assignments), " ".join(words)
    outcome = run_recipe(parts, folder, resume=resume, command=command, assignments=assignments)
    if outcome.trained.stopped_by is None:
        print_metrics(outcome.metrics)
        sys.stderr.write(NEXT.format(run=folder))
        print_json([metric.as_dict() for metric in outcome.metrics])
    return outcome.trained.exit_code


def classify(
    model: ModelName,
    images: Annotated[Positional[tuple[Path, ...]], arg(metavar="IMAGE")],
    *,
    labels: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAMES")],
    templates: str = "",
    reject: float | None = None,
    calibration: Path | None = None,
    read: ImageOptions = ImageOptions(),
    json: JsonFile = "-",
) -> int:
    """Say which of your labels fits each image best, and whether any does.

    Args:
        images: image files, or folders of them.
        labels: names to choose from, separated by commas, or a file with one a line; given several times,
            each is one name.
        templates: prompts file, or the name of a known set such as imagenet; bare names without one.
        reject: of unrelated images, the share that may still get a label, such as 0.05; see calibrate.
        calibration: what `diptych calibrate` wrote; beside the model by default.
        read: how image files are read.
    """
    keep_freed_memory()
    from diptych.cli.queries import classify_images, image_files, open_calibration

    names, files = parse_names(labels, where="--labels"), image_files(images)
    held = None if reject is None else open_calibration(model, calibration, reject)
    found, counts = classify_images(model, files, names, templates, held=held, read=read)
    print_json(found, json)
    print_dropped(counts)
    if counts.dropped:
        unread = f"{counts.dropped.total()} of {counts.seen} ({counts.reasons()})"
        raise DataError("some images cannot be read", found=unread)
    return 0


def convert(
    model: ModelName,
    out: OutFolder,
    *,
    to: Literal["diptych", "openai", "open_clip", "transformers"],
    activation: Literal["quick_gelu", "gelu"] | None = None,
    config: Path | None = None,
    tokenizer: Path | None = None,
    preprocess: str | None = None,
) -> int:
    """Carry a model to another library's files and prove that it stayed the same.

    Args:
        out: folder for the files.
        to: whose format; that library's own loader reads the folder.
        activation: for weights that lie without a configuration.
        config: JSON file of open_clip or transformers, for such weights of a shape that nobody published.
        tokenizer: folder or file, where no vocabulary lies beside the weights.
        preprocess: clip, half, clip-squash or siglip, where no file states it.
    """
    keep_freed_memory()
    from diptych.models.formats.references import LoadOptions, resolve

    resolve(model)
    from diptych.models.formats.convert import convert as convert_model
    from diptych.models.load import load

    options: LoadOptions = {
        "activation": activation, "config": config, "tokenizer": tokenizer, "preprocess": preprocess
    }  # fmt: skip
    loaded = load(model, backend="torch", **options)
    return print_json({"out": str(out), **convert_model(loaded, out, to)})


def export(
    model: ModelName,
    out: OutFolder,
    *,
    to: Literal["onnx"] = "onnx",
    precision: Literal["float32", "float16", "int8"] = "float32",
    source: str = "",
    labels: str = "",
    columns: ColumnNames = "",
) -> int:
    """Write a model for other runtimes, checked against the original before it appears.

    Args:
        out: folder for image.onnx, text.onnx and all that belongs to them.
        to: the format; onnxruntime and OpenVINO read it.
        precision: of the weights; int8 is the fastest and states the cosine that it keeps.
        source: images and captions of your own to compare on as well.
        labels: a column of the source: states the zero-shot accuracy of both.
    """
    del to  # the one format there is; named so that a second one changes no command that is written down
    keep_freed_memory()
    from diptych.data.sources.open import open_source
    from diptych.models.formats.references import resolve

    if labels and not source:
        what, fix = "no source given for the labels", "give --source too"
        raise UsageError(what, where="--labels", found=labels, fix=fix)
    given = open_source(source, columns=parse_columns(columns)) if source else None
    resolve(model)
    from diptych.export.onnx import export as export_model
    from diptych.models.load import load

    loaded = load(model, backend="torch")
    manifest = export_model(loaded, out, precision=precision, source=given, labels=labels)
    return print_json({"export": str(out), "precision": precision, **manifest.extra})


_ALL: tuple[Callable[..., int], ...] = (
    demo, curate, tokenizer, pack, remove, train, evaluate, classify, calibrate, prompts, ablate, index,
    search, duplicates, convert, export,
)  # fmt: skip
COMMANDS = {command.__name__: command for command in _ALL}
