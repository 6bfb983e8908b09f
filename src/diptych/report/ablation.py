"""Write the page of a prompt ablation: prompt sets with intervals, ensemble sizes, every template."""

from pathlib import Path

from diptych.evaluate.prompts.ablation import Ablation
from diptych.report.data import Curve, PromptBar, PromptTable
from diptych.report.page import Header, write_page
from diptych.report.plots import percent, points, whole


def write_ablation(path: str | Path, ablation: Ablation, *, title: str, subject: str) -> None:
    """Write the page; `subject` names the images."""
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
    bars = tuple(PromptBar(row.name, row.accuracy, row.over_bare) for row in ablation.sets)
    weighted = [row for row in ablation.sets if row.weights]
    values = {"ablation": ablation, "prompt_sets": PromptTable("prompt sets", bars), "weighted": weighted}
    write_page(path, "ablation.html", head, sizes=size_curve(ablation), **values)


def size_curve(ablation: Ablation) -> Curve:
    """Return the accuracy of random ensembles by their size, with the middle 95 % of the draws as a band."""
    sizes, low, high = ablation.sizes, *zip(*(size.spread for size in ablation.sizes), strict=True)
    x, y = tuple(float(size.templates) for size in sizes), tuple(size.mean for size in sizes)
    bare = ("bare names", ablation.sets[0].accuracy.value)
    name, x_name = "top-1 accuracy, mean of random ensembles", "templates in the ensemble"
    return Curve(name, x, y, x_name, bare, (low, high))
