"""The commands about prompts and scores: senses of class names, the prompt lab, calibration."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from diptych.cli.arguments import (
    MAX_BAD_FRACTION,
    JsonFile,
    ModelName,
    ReadOptions,
    SourceName,
    parse_columns,
    parse_names,
)  # fmt: skip
from diptych.cli.output import print_dropped, print_json, print_metrics
from diptych.core.errors import SettingsError, UsageError
from diptych.core.files.durable import write_text
from diptych.core.machine import keep_freed_memory
from diptych.core.records import Need
from diptych.core.settings import load_toml, to_mapping

if TYPE_CHECKING:
    from diptych.data.sources.open import Columns
    from diptych.evaluate.prompts.ablation import Ablation, LabeledImages
    from diptych.evaluate.prompts.templates import Templates
    from diptych.evaluate.prompts.word_senses import WordSense
    from diptych.models.model import Model

SHOWN_ALTERNATIVES = 2  # other senses that are printed beside the chosen one

HEAD = """\
# Class names with what they were taken to mean. Written by `diptych prompts`; change whatever is wrong.
# Decided: {decided}

"""


def prompts(
    names: Annotated[Positional[str], arg(metavar="NAMES")],
    *,
    wordnet: Path,
    by_hand: Path | None = None,
    out: Path | None = None,
    all_kinds: bool = False,
    json: JsonFile = "-",
) -> int:
    """Find out which sense each class name has, and write prompts that say so.

    Args:
        names: class names, separated by commas, or a text file with one a line.
        wordnet: a WordNet folder (data.noun, index.noun), or Open English WordNet as .xml, .xml.gz or .tsv.
        by_hand: a TOML file of senses that you decided, such as crane = "02012849-n".
        out: a prompts file (.toml) to write, for --templates of the other commands.
        all_kinds: say of every name what it is a kind of, not only of the ambiguous ones.
        json: where the choices go: a file, or - for stdout.
    """
    import tomli_w

    from diptych.data.wordnet import read_wordnet
    from diptych.evaluate.prompts.templates import PHOTO
    from diptych.evaluate.prompts.word_senses import disambiguate

    if out is not None and out.suffix != ".toml":
        raise UsageError("a prompts file is written as TOML", where="--out", found=out, fix="name it .toml")
    labels = parse_names([names], where="NAMES")
    choices = disambiguate(labels, read_wordnet(wordnet), by_hand=_decisions(by_hand))
    show_choices(choices)
    if out is not None:
        cleaned = {
            choice.name: choice.phrase
            for choice in choices
            if choice.phrase != choice.name and (choice.ambiguous or all_kinds)
        }
        decided = ", ".join(sorted({choice.decided_by for choice in choices}))
        table = tomli_w.dumps({"templates": list(PHOTO.templates), "names": cleaned})
        write_text(out, HEAD.format(decided=decided) + table)
    return print_json([_record(choice) for choice in choices], json)


def ablate(
    model: ModelName,
    source: SourceName,
    *,
    labels: str,
    templates: str,
    validation: str = "",
    read: ReadOptions = ReadOptions(),
    report: Path | None = None,
    json: JsonFile = "-",
) -> int:
    """Find out what each template is worth, how many are enough, and which to take.

    Args:
        source: folder, CSV/TSV, Parquet, tar shards, or scenes:unseen.
        labels: the column of the true names.
        templates: prompts file (.txt, .json, .toml), or the name of a known set such as imagenet.
        validation: a source to choose templates on; by default half of the first, then not scored on.
        read: how the source is read.
        report: also write a page with plots here.
    """
    keep_freed_memory()
    from diptych.cli.recipe import TaskPart
    from diptych.cli.run import check_task
    from diptych.report.ablation import write_ablation

    sources, columns = [source, *([validation] if validation else [])], parse_columns(read.columns)
    for name in sources:
        check_task(TaskPart(labels, name, "zeroshot", labels, templates), columns)
    ablation = run_lab(read.load(model), sources, labels=labels, templates=templates, columns=columns)
    print_metrics([row.accuracy for row in ablation.sets])
    if report is not None:
        write_ablation(report, ablation, title=f"Prompts for {labels}", subject=f"{Path(source).name}")
    return print_json(to_mapping(ablation), json)


def run_lab(
    model: "Model", sources: Sequence[str], *, labels: str, templates: str, columns: "Columns"
) -> "Ablation":
    """Try templates on a labeled source; without a second one to choose on it is cut in halves."""
    from diptych.evaluate.classifier import build_classifier, build_template_classifiers
    from diptych.evaluate.prompts.ablation import ablate, split_halves
    from diptych.evaluate.prompts.sets import open_templates
    from diptych.evaluate.prompts.templates import BARE, PHOTO, Templates

    known = open_templates(templates)
    if len(known.templates) < 2:
        raise UsageError("there is nothing to compare", where=templates, expected="two templates or more")
    parts = [_examples(model, source, labels, known, columns) for source in sources]
    names = parts[0][0]
    if len(parts) == 2 and parts[1][0] != names:
        names = tuple(sorted({*parts[0][0], *parts[1][0]}))
        parts = [_examples(model, source, labels, known, columns, names) for source in sources]
    if len(parts) == 2:
        test, validation = parts[0][1], parts[1][1]
    else:
        first, second = split_halves(len(parts[0][1].labels))
        validation, test = parts[0][1].part(first), parts[0][1].part(second)
    plain = [("bare names", BARE), (PHOTO.name, PHOTO)]
    if known.names:
        plain.append(("cleaned names", Templates("cleaned names", BARE.templates, known.names, known.source)))
    classifiers = build_template_classifiers(model, names, known)
    compared = [(name, build_classifier(model, names, each)) for name, each in plain]
    return ablate(validation, test, classifiers, templates=known.templates, plain=compared, model=model)


def _examples(
    model: "Model",
    source: str,
    labels: str,
    templates: "Templates",
    columns: "Columns",
    names: tuple[str, ...] = (),
) -> "tuple[tuple[str, ...], LabeledImages]":
    from diptych.data.sources.open import open_source
    from diptych.embed.features import embed_pairs
    from diptych.evaluate.prompts.ablation import LabeledImages
    from diptych.evaluate.suite.scoring import column_labels

    opened = open_source(source, columns=replace(columns, one_value=(labels,)), need=Need.NOTHING)
    embedded = embed_pairs(model, opened)
    print_dropped(embedded.counts)
    held = column_labels(embedded, labels, where=opened.name, named=templates.names, first=names)
    return held.class_names, LabeledImages(embedded.image_embeds[held.rows], held.class_ids)


def calibrate(
    model: ModelName,
    source: SourceName,
    *,
    images: bool = False,
    read: ReadOptions = ReadOptions(),
    out: Path | None = None,
    seed: int = 0,
    max_bad_fraction: float = MAX_BAD_FRACTION,
) -> int:
    """Learn from pairs what this model's scores mean: for match probabilities and `classify --reject`.

    Args:
        source: pairs that the model did not learn from; its images are what unrelated ones look like.
        images: use images alone, with or without captions: enough for --reject, without match probabilities.
        read: how the source is read.
        out: the file; calibration.npz beside the model by default.
        seed: of the draws.
        max_bad_fraction: share of bad samples above which nothing is written.
    """
    keep_freed_memory()
    from diptych.cli.queries import calibration_path
    from diptych.data.sources.open import open_source
    from diptych.embed.features import embed_pairs
    from diptych.evaluate.metrics.calibration import calibrate as fit
    from diptych.models.encode import encode_texts

    need = Need.IMAGE if images else Need.PAIR
    opened = open_source(source, columns=parse_columns(read.columns), need=need)
    loaded = read.load(model)
    pairs = embed_pairs(loaded, opened)
    print_dropped(pairs.counts)
    pairs.counts.check(max_bad_fraction)
    texts = None if images else encode_texts(loaded, [captions[0] for captions in pairs.captions])
    calibration = fit(pairs.image_embeds, texts, seed=seed, model_digest=loaded.digest)
    path = out or calibration_path(model)
    calibration.save(path)
    bank = {"images": len(calibration.image_bank), "texts": len(calibration.text_bank)}
    weights = None if images else [round(float(weight), 6) for weight in calibration.weights]
    return print_json({"calibration": str(path), "bank": bank, "weights": weights, **pairs.counts.as_dict()})


def show_choices(choices: "Sequence[WordSense]") -> None:
    """Print which names were ambiguous and what was chosen, to stderr."""
    ambiguous = [choice for choice in choices if choice.ambiguous]
    unknown = [choice.name for choice in choices if not choice.sense_count]
    sys.stderr.write(f"{len(ambiguous)} of {len(choices)} names are ambiguous\n")
    for choice in ambiguous:
        sys.stderr.write(
            f"  {choice.name}: {choice.phrase}  [{choice.probability:.0%}, {choice.decided_by}]\n"
            f"    {choice.synset}  {choice.gloss}\n"
        )
        for synset, gloss in choice.competitors[:SHOWN_ALTERNATIVES]:
            sys.stderr.write(f"      not {synset}  {gloss}\n")
    if unknown:
        sys.stderr.write(f"not in this WordNet: {', '.join(unknown)}\n")


def _decisions(path: Path | None) -> dict[str, str]:
    if path is None:
        return {}
    decided = load_toml(path)
    for name, synset in decided.items():
        if not isinstance(synset, str):
            what, where = "a decision is not text", f"{path}: {name}"
            raise SettingsError(what, where=where, found=repr(synset), expected="a synset's id")
    return decided


def _record(choice: "WordSense") -> dict[str, Any]:
    names = ("name", "sense_count", "synset", "gloss", "kind", "probability", "decided_by", "phrase")
    competitors = [{"synset": synset, "gloss": gloss} for synset, gloss in choice.competitors]
    return {**{name: getattr(choice, name) for name in names}, "competitors": competitors}
