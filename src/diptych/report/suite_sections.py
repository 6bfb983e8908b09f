"""Sections that only the report of a suite has, each from its results to markup."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from diptych.data.near_copies.overlap import SIGNIFICANT, OverlapReport
from diptych.evaluate.metrics.robustness import Shift
from diptych.evaluate.suite.compare import Comparison
from diptych.evaluate.suite.plan import Missing
from diptych.report.page import Html, Section, join, table, tag, titled
from diptych.report.plots import (
    Curve,
    curve_chart,
    interval_bar,
    percent,
    points,
    reliability_diagram,
    whole,
)

SURE = 0.05
"""Significance level of a difference between two models."""

References = Sequence[tuple[str, Mapping[str, float]]]


def results(found: Sequence[Mapping[str, Any]], references: References) -> Section | None:
    """Return the table of all tasks beside the paper's and public models.

    Args:
        found: results, see `suite.results`.
        references: name of a model, and its accuracy by task.
    """
    if not found:
        return None
    rows = []
    for result in found:
        for protocol, scores in result["protocols"].items():
            value = math.nan if scores["value"] is None else scores["value"]
            interval = tuple(scores["ci95"]) if scores["ci95"] else None
            shown = join(tag("b", percent(value)), interval_bar(value, interval))
            others = [_reference(shares, result["task"], protocol) for _, shares in references]
            rows.append(
                [
                    result["task"],
                    f"{protocol}: {scores['metric'].replace('_', ' ')}",
                    shown,
                    _interval(interval),
                    _expected(result, protocol),
                    *others,
                ]
            )
    head = ["task", "measure", "value", "95 % interval", "paper", *(name for name, _ in references)]
    words = tag(
        "p",
        "Each task in the metric that its data set is reported in. The paper's number is that of the same "
        "model, where it is a model of the paper; public tables sometimes use another metric for a data set.",
    )
    return Section("Results", words, table(rows, head))


def _reference(shares: Mapping[str, float], task: str, protocol: str) -> str:
    fits = protocol in ("zeroshot", "retrieval") and task in shares
    return percent(shares[task]) if fits else ""


def _expected(result: Mapping[str, Any], protocol: str) -> Html:
    entries = [entry for entry in result["expected"] if entry["protocol"] == protocol]
    return join(
        *(
            tag(
                "span",
                f"{percent(entry['value'])} {'met' if entry['passed'] else 'missed'} ",
                class_="in-right" if entry["passed"] else "in-wrong",
            )
            for entry in entries
        )
    )


def _interval(interval: Sequence[float] | None) -> str:
    return f"{percent(interval[0])} to {percent(interval[1])}" if interval else ""


def not_found(missing: Sequence[Missing], refused: Sequence[tuple[str, str, str]]) -> Section | None:
    """Return the table of tasks that were not scored, with the reason."""
    if not missing and not refused:
        return None
    rows = [(lost.name, f"not found in {lost.looked_in}", lost.get_from) for lost in missing]
    rows += [(task, protocol, reason) for task, protocol, reason in refused]
    words = tag("p", "These are not part of any mean. Means over different data sets cannot be compared.")
    return Section("Not scored", words, table(rows, ("task", "what", "where to get it, or why not")))


def side_by_side(model: str, other: str, compared: Sequence[Comparison]) -> Section | None:
    """Return the comparison of two models on the same images."""
    if not compared:
        return None
    rows = [
        (
            entry.task,
            entry.protocol,
            percent(entry.value),
            percent(entry.other),
            tag("span", points(entry.gain), class_=_kind(entry)),
            f"{points(entry.ci95[0])} to {points(entry.ci95[1])}" if entry.ci95 else "",
            f"{entry.p_value:.3g}",
            whole(entry.n),
        )
        for entry in compared
    ]
    words = tag(
        "p",
        "Top-1 accuracies. The gain is in percentage points, its interval from a "
        "paired bootstrap; p is McNemar's exact test over the items on which the two models differ.",
    )
    head = ("task", "protocol", model, other, "gain", "95 % interval", "p", "n")
    return Section("Side by side", words, table(rows, head))


def robustness(found: Sequence[Shift]) -> Section | None:
    """Return the robustness to natural shifts, beside the accuracy expected from the original set."""
    if not found:
        return None
    rows = [
        (
            titled(shift.task),
            percent(shift.accuracy),
            percent(shift.shifted),
            percent(shift.expected),
            tag("span", points(shift.effective), class_="gain" if shift.effective > 0 else "gain loss"),
            whole(shift.models),
        )
        for shift in found
    ]
    words = tag(
        "p",
        "Accuracies on a set and on its natural shift lie on a line, between logits. What is expected is the "
        "accuracy of the table's public models, contrastive ones too, at this model's accuracy on the "
        "original set; what the model has above that is its effective robustness, in percentage points.",
    )
    head = ("shift", "original", "shifted", "expected", "effective robustness", "models")
    return Section("Natural shifts", words, table(rows, head))


def seen(found: Sequence[OverlapReport]) -> Section | None:
    """Return the overlap of evaluation and training sets, and the accuracy without it."""
    if not found:
        return None
    words = tag(
        "p",
        "Overlap: the images of a task with a near copy in the training set; clean: those without. p is "
        "the probability of so many right predictions on the overlap at the accuracy of the clean ones "
        "(one-sided binomial test); all less clean is what the copies add to the score.",
    )
    return Section("Seen in training", words, overlap_table(found))


def _kind(entry: Comparison) -> str:
    if entry.p_value >= SURE:
        return "gain unsure"
    return "gain" if entry.gain > 0 else "gain loss"


def trust(found: Sequence[Mapping[str, Any]]) -> Section | None:
    """Return the reliability diagrams."""
    content: list[Html] = []
    for result in found:
        scores = result["protocols"].get("zeroshot", {}).get("reliability")
        if scores and scores["ece"] is not None:
            content += [
                tag("h3", f"{titled(result['task'])}: calibration error {percent(scores['ece'])}"),
                reliability_diagram(scores["confidences"], scores["accuracies"], scores["counts"]),
            ]
    if not content:
        return None
    words = tag(
        "p",
        "Predictions are binned by confidence. On the diagonal the confidence equals the accuracy; above it "
        "the model is under-confident, below it over-confident. Thin bars hold few predictions.",
    )
    return Section("Calibration", words, join(*content))


def few_shots(found: Sequence[Mapping[str, Any]]) -> Section | None:
    """Return the few-shot curves beside the zero-shot accuracy."""
    charts: list[Html] = []
    for result in found:
        scores = result["protocols"].get("few_shot")
        if not scores:
            continue
        zero = result["protocols"].get("zeroshot")
        level = zero["metrics"][0]["value"] if zero else None
        curve = Curve(
            f"{result['task']}: accuracy",
            tuple(float(shots) for shots in scores["shots"]),
            tuple(metric["value"] for metric in scores["metrics"]),
            "training images per class",
            ("zero-shot", level) if level is not None else None,
        )
        charts.append(curve_chart(curve, tall=True))
    if not charts:
        return None
    words = tag(
        "p",
        "Linear probes on a few training images per class. The dashed line is the zero-shot accuracy.",
    )
    return Section("Few-shot linear probes", words, join(*charts))


def slices(found: Sequence[Mapping[str, Any]]) -> Section | None:
    """Return the accuracy for each value of a field."""
    rows = [
        (
            result["task"],
            protocol,
            metric["metric"],
            join(
                tag("b", percent(metric["value"])),
                interval_bar(metric["value"], tuple(metric["ci95"]) if metric["ci95"] else None),
            ),
            _interval(metric["ci95"]),
            whole(metric["n"]),
        )
        for result in found
        for protocol, scores in result["protocols"].items()
        for metric in scores["slices"]
    ]
    if not rows:
        return None
    words = tag("p", "The same predictions, split by a field of the data.")
    return Section("Slices", words, table(rows, ("task", "protocol", "slice", "value", "95 % interval", "n")))


def overlap_table(reports: Sequence[OverlapReport]) -> Html:
    """Return a table of overlaps: a row for each evaluation set, the largest overlap first."""
    names = ("data set", "overlap", "accuracy on overlap", "on clean", "all − clean", "p")
    ordered = sorted(reports, key=lambda report: (-report.overlap_share, report.task))
    return table([_overlap_row(report) for report in ordered], names)


def _overlap_row(report: OverlapReport) -> tuple[str, ...]:
    share = f"{percent(report.overlap_share)} ({whole(report.n_overlap)} of {whole(report.n)})"
    interval = report.overlap_interval if report.n_overlap else None
    low, high = report.overlap_interval
    accuracy = percent(report.overlap_accuracy)
    shown = f"{accuracy} [{percent(low)}, {percent(high)}]" if interval else "–"
    changed = "–" if math.isnan(report.difference) else points(report.difference)
    chance = "–" if math.isnan(report.p_value) else f"{report.p_value:.2g}"
    clear = report.p_value < SIGNIFICANT  # never for NaN
    return (
        report.task,
        share,
        join(shown, interval_bar(report.overlap_accuracy, interval) if interval else ""),
        percent(report.clean_accuracy),
        changed,
        tag("b", chance) if clear else chance,
    )
