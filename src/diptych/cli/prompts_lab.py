"""Carry out a prompt lab: embed what is asked about, split it, and try the templates.

Reads: one labelled source, or two.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from diptych.cli.answers import show_dropped
from diptych.core.errors import UsageError
from diptych.core.records import Need
from diptych.data.sources.open import Columns, open_source
from diptych.embed.features import embed_pairs
from diptych.evaluate.classifier import build_classifier, build_template_classifiers
from diptych.evaluate.prompts.ablation import Ablation, Examples, ablate, split_halves
from diptych.evaluate.prompts.sets import open_templates
from diptych.evaluate.prompts.templates import BARE, PHOTO, Templates
from diptych.evaluate.zeroshot import ZeroShotEvaluator

if TYPE_CHECKING:
    from diptych.models.model import Model


def run_lab(
    model: "Model", sources: Sequence[str], *, labels: str, templates: str, columns: Columns | None = None
) -> Ablation:
    """Try the templates of a set on a labelled source.

    Args:
        model: the model.
        sources: the test source, and one to choose on; without it the first is cut in halves.
        labels: the column of the true names.
        templates: a prompts file, or the name of a known set.
        columns: of the sources.

    Raises:
        UsageError: there is one template only.
    """
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
    return ablate(
        validation,
        test,
        build_template_classifiers(model, names, known),
        templates=known.templates,
        plain=[(name, build_classifier(model, names, each)) for name, each in plain],
        model=model,
    )


def _examples(
    model: "Model",
    source: str,
    labels: str,
    templates: Templates,
    columns: Columns | None,
    names: tuple[str, ...] = (),
) -> tuple[tuple[str, ...], Examples]:
    columns = replace(columns or Columns(), one_value=(labels,))
    opened = open_source(source, columns=columns, need=Need.NOTHING)
    embedded = embed_pairs(model, opened)
    show_dropped(embedded.counts)
    evaluator = ZeroShotEvaluator("ablation", opened, labels, names, templates)
    found, rows, numbers = evaluator.labelled(embedded)
    return found, Examples(embedded.image_embeds[rows], numbers)
