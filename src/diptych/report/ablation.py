"""The prompt lab as a page: bars with intervals, the curve of ensemble sizes, every template.

Writes: the file it is told to, see `diptych.report.page`.
"""

from pathlib import Path

from diptych.evaluate.prompts.ablation import Ablation, Row
from diptych.report import sections
from diptych.report.markup import Html, join, tag
from diptych.report.page import Leaf, Masthead, write_page
from diptych.report.parts import PromptBar, PromptTable
from diptych.report.plots import Curve, curve_chart, percent, points, whole


def write_ablation(path: str | Path, found: Ablation, *, title: str, subject: str) -> None:
    """Write the page.

    Args:
        path: the file.
        found: what the lab found.
        title: of the page.
        subject: what the pictures are.
    """
    bare, best = found.sets[0], max(found.sets, key=lambda row: row.accuracy.value)
    gain = "" if best.over_bare is None else f", {points(best.over_bare.value)} points over bare names"
    head = Masthead(
        "prompt lab",
        title,
        f"{best.name} is right on {percent(best.accuracy.value)} of the test pictures{gain}.",
        (
            ("pictures", subject),
            ("chosen on", f"{whole(found.validation)} pictures"),
            ("scored on", f"{whole(found.test)} others"),
            ("templates", str(len(found.templates))),
            ("bare names", percent(bare.accuracy.value)),
        ),
    )
    write_page(path, head, [_sets(found), _sizes(found), _weights(found), _templates(found)])


def size_curve(found: Ablation) -> Curve:
    """Return the accuracy of random ensembles by their size, with the middle 95 % of the draws as a band."""
    return Curve(
        "first guess right, mean of random ensembles",
        tuple(float(size.templates) for size in found.sizes),
        tuple(size.mean for size in found.sizes),
        "templates in the ensemble",
        ("bare names", found.sets[0].accuracy.value),
        (tuple(size.spread[0] for size in found.sizes), tuple(size.spread[1] for size in found.sizes)),
    )


def _sets(found: Ablation) -> Leaf | None:
    bars = tuple(PromptBar(row.name, row.accuracy, row.over_bare) for row in found.sets)
    return sections.prompts([PromptTable("ways to write a class", bars)])


def _sizes(found: Ablation) -> Leaf:
    words = tag(
        "p",
        "Templates are put into an ensemble in random order. The line is the mean over orders, the band "
        "holds 95 % of them: its width is what picking templates by chance risks.",
    )
    return Leaf("How many are enough", words, curve_chart(size_curve(found), tall=True))


def _weights(found: Ablation) -> Leaf | None:
    chosen = [row for row in found.sets if row.weights]
    if not chosen:
        return None
    words = tag("p", "Chosen on the validation pictures alone; the test pictures had no say.")
    tables = [join(tag("h3", row.name), _weight_table(row)) for row in chosen]
    return Leaf("What was chosen", words, join(*tables))


def _weight_table(row: Row) -> Html:
    ranked = sorted(row.weights.items(), key=lambda item: -item[1])
    lines = [
        tag("tr", tag("th", template, scope="row"), tag("td", percent(weight))) for template, weight in ranked
    ]
    return tag("table", tag("tbody", *lines), class_="figures")


def _templates(found: Ablation) -> Leaf:
    head = tag(
        "tr", *(tag("th", name, scope="col") for name in ("template", "right", "95 %", "over bare names"))
    )
    rows = []
    for row in found.templates:
        low, high = row.accuracy.ci95 or (float("nan"), float("nan"))
        gain = row.over_bare.value if row.over_bare is not None else 0.0
        cells = (percent(row.accuracy.value), f"{percent(low)} to {percent(high)}", points(gain))
        rows.append(tag("tr", tag("th", row.name, scope="row"), *(tag("td", cell) for cell in cells)))
    table = tag("table", tag("thead", head), tag("tbody", *rows), class_="figures")
    words = tag("p", "Each template by itself, on the test pictures.")
    return Leaf("Every template", words, tag("div", table, class_="scroll", tabindex=0))
