"""The table of overlaps: how much of each evaluation set is in the training set, and what that changes."""

import math
from collections.abc import Sequence

from diptych.data.near_copies.overlap import SIGNIFICANT, OverlapReport
from diptych.report.markup import Html, join, tag
from diptych.report.plots import interval_bar, percent, points, whole


def overlap_table(reports: Sequence[OverlapReport]) -> Html:
    """Draw the reports for a page: a row for each set, the most contaminated first.

    Args:
        reports: of any number of evaluation sets.
    """
    names = ("data set", "overlap", "accuracy on overlap", "on clean", "all − clean", "p")
    head = tag("tr", *(tag("th", name, scope="col") for name in names))
    rows = sorted(reports, key=lambda report: (-report.overlap_share, report.task))
    return tag(
        "div",
        tag("table", tag("thead", head), tag("tbody", *map(_row, rows)), class_="figures"),
        class_="scroll",
        tabindex=0,
    )


def _row(report: OverlapReport) -> Html:
    share = f"{percent(report.overlap_share)} ({whole(report.n_overlap)} of {whole(report.n)})"
    interval = report.overlap_interval if report.n_overlap else None
    low, high = report.overlap_interval
    accuracy = percent(report.overlap_accuracy)
    said = f"{accuracy} [{percent(low)}, {percent(high)}]" if interval else "–"
    changed = "–" if math.isnan(report.difference) else points(report.difference)
    chance = "–" if math.isnan(report.p_value) else f"{report.p_value:.2g}"
    clear = report.p_value < SIGNIFICANT  # never for NaN
    return tag(
        "tr",
        tag("th", report.task, scope="row"),
        tag("td", share),
        tag("td", join(said, interval_bar(report.overlap_accuracy, interval) if interval else "")),
        tag("td", percent(report.clean_accuracy)),
        tag("td", changed),
        tag("td", tag("b", chance) if clear else chance),
    )
