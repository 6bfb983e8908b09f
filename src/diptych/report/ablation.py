"""Write the page of a prompt ablation: prompt sets with intervals, ensemble sizes, every template."""

from pathlib import Path

from diptych.evaluate.prompts.ablation import Ablation, Row
from diptych.report import sections
from diptych.report.data import PromptBar, PromptTable
from diptych.report.page import Header, Html, Section, join, table, tag, write_page
from diptych.report.plots import Curve, curve_chart, percent, points, whole


def write_ablation(path: str | Path, ablation: Ablation, *, title: str, subject: str) -> None:
    """Write the page.

    Args:
        path: the file.
        ablation: the results.
        title: of the page.
        subject: name of the images.
    """
    bare, best = ablation.sets[0], max(ablation.sets, key=lambda row: row.accuracy.value)
    gain = "" if best.over_bare is None else f", {points(best.over_bare.value)} points over bare names"
    head = Header(
        "prompt ablation",
        title,
        f"{best.name} has an accuracy of {percent(best.accuracy.value)} on the test images{gain}.",
        (
            ("images", subject),
            ("chosen on", f"{whole(ablation.validation)} images"),
            ("scored on", f"{whole(ablation.test)} others"),
            ("templates", str(len(ablation.templates))),
            ("bare names", percent(bare.accuracy.value)),
        ),
    )
    write_page(path, head, [_sets(ablation), _sizes(ablation), _weights(ablation), _templates(ablation)])


def size_curve(ablation: Ablation) -> Curve:
    """Return the accuracy of random ensembles by their size, with the middle 95 % of the draws as a band."""
    return Curve(
        "top-1 accuracy, mean of random ensembles",
        tuple(float(size.templates) for size in ablation.sizes),
        tuple(size.mean for size in ablation.sizes),
        "templates in the ensemble",
        ("bare names", ablation.sets[0].accuracy.value),
        (tuple(size.spread[0] for size in ablation.sizes), tuple(size.spread[1] for size in ablation.sizes)),
    )


def _sets(ablation: Ablation) -> Section | None:
    bars = tuple(PromptBar(row.name, row.accuracy, row.over_bare) for row in ablation.sets)
    return sections.prompts([PromptTable("prompt sets", bars)])


def _sizes(ablation: Ablation) -> Section:
    words = tag(
        "p",
        "Templates are put into an ensemble in random order. The line is the mean over orders, the band "
        "holds 95 % of them.",
    )
    return Section("Ensemble size", words, curve_chart(size_curve(ablation), tall=True))


def _weights(ablation: Ablation) -> Section | None:
    chosen = [row for row in ablation.sets if row.weights]
    if not chosen:
        return None
    words = tag("p", "Chosen on the validation images only.")
    tables = [join(tag("h3", row.name), _weight_table(row)) for row in chosen]
    return Section("Chosen templates and weights", words, join(*tables))


def _weight_table(row: Row) -> Html:
    ranked = sorted(row.weights.items(), key=lambda item: -item[1])
    return table([(template, percent(weight)) for template, weight in ranked], scroll=False)


def _templates(ablation: Ablation) -> Section:
    rows = []
    for row in ablation.templates:
        low, high = row.accuracy.ci95 or (float("nan"), float("nan"))
        gain = row.over_bare.value if row.over_bare is not None else 0.0
        rows.append(
            (row.name, percent(row.accuracy.value), f"{percent(low)} to {percent(high)}", points(gain))
        )
    text = tag("p", "Accuracy of each template alone, on the test images.")
    return Section("Single templates", text, table(rows, ("template", "accuracy", "95 %", "over bare names")))
