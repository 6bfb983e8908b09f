"""The sections that only the report of a suite has, each from plain results to markup."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from diptych.data.near_copies.overlap import OverlapReport
from diptych.evaluate.metrics.robustness import Shift
from diptych.evaluate.suite.compare import Comparison
from diptych.evaluate.suite.plan import Missing
from diptych.report.markup import Html, join, tag
from diptych.report.overlap import overlap_table
from diptych.report.page import Leaf, titled
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
"""A difference whose p-value is below is called one."""

References = Sequence[tuple[str, Mapping[str, float]]]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Html:
    heads = tag("tr", *(tag("th", name, scope="col") for name in head))
    body = [tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:])) for row in rows]
    table = tag("table", tag("thead", heads), tag("tbody", *body), class_="figures")
    return tag("div", table, class_="scroll", tabindex=0)


def results(found: Sequence[Mapping[str, Any]], references: References) -> Leaf | None:
    """Every task beside the paper and public models.

    Args:
        found: results, see `suite_results`.
        references: name of a model, and its share by task.
    """
    if not found:
        return None
    rows = []
    for result in found:
        for protocol, told in result["protocols"].items():
            value = math.nan if told["value"] is None else told["value"]
            interval = tuple(told["ci95"]) if told["ci95"] else None
            shown = join(tag("b", percent(value)), interval_bar(value, interval))
            others = [_reference(shares, result["task"], protocol) for _, shares in references]
            rows.append(
                [
                    result["task"],
                    f"{protocol}: {told['metric'].replace('_', ' ')}",
                    shown,
                    _interval(interval),
                    _verdict(result, protocol),
                    *others,
                ]
            )
    head = ["task", "measure", "value", "95 % interval", "paper", *(name for name, _ in references)]
    words = tag(
        "p",
        "Each task in the metric that its data set is reported in. The paper's number is that of the same "
        "model, where it is a model of the paper; public tables sometimes use another metric for a data set.",
    )
    return Leaf("Results", words, _table(head, rows))


def _reference(shares: Mapping[str, float], task: str, protocol: str) -> str:
    fits = protocol in ("zeroshot", "retrieval") and task in shares
    return percent(shares[task]) if fits else ""


def _verdict(result: Mapping[str, Any], protocol: str) -> Html:
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


def not_found(missing: Sequence[Missing], refused: Sequence[tuple[str, str, str]]) -> Leaf | None:
    """What was not scored, and why."""
    if not missing and not refused:
        return None
    rows = [(lost.name, f"not found in {lost.looked_in}", lost.get_from) for lost in missing]
    rows += [(task, protocol, reason) for task, protocol, reason in refused]
    words = tag("p", "These are no part of any mean. A mean over fewer data sets is another number.")
    return Leaf("Not scored", words, _table(("task", "what", "where to get it, or why not"), rows))


def side_by_side(model: str, other: str, compared: Sequence[Comparison]) -> Leaf | None:
    """Two models on the same pictures."""
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
        "Shares of first answers that are right. The gain is in percentage points, its interval from a "
        "paired bootstrap; p is McNemar's exact test over the items on which the two models differ.",
    )
    head = ("task", "protocol", model, other, "gain", "95 % interval", "p", "n")
    return Leaf("Side by side", words, _table(head, rows))


def robustness(found: Sequence[Shift]) -> Leaf | None:
    """Natural shifts, beside what the accuracy on the original set leads to expect."""
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
    return Leaf("Natural shifts", words, _table(head, rows))


def seen(found: Sequence[OverlapReport]) -> Leaf | None:
    """What is left of the scores without the pictures that training has seen."""
    if not found:
        return None
    words = tag(
        "p",
        "Overlap: the pictures of a task with a near copy in the training set; clean: those without. p is "
        "the chance of so many right answers on the overlap at the accuracy of the clean ones "
        "(one-sided binomial test); all less clean is what the copies add to the score.",
    )
    return Leaf("Seen in training", words, overlap_table(found))


def _kind(entry: Comparison) -> str:
    if entry.p_value >= SURE:
        return "gain unsure"
    return "gain" if entry.gain > 0 else "gain loss"


def trust(found: Sequence[Mapping[str, Any]]) -> Leaf | None:
    """Whether a confidence of 0.8 is right eight times in ten."""
    content: list[Html] = []
    for result in found:
        told = result["protocols"].get("zeroshot", {}).get("reliability")
        if told and told["ece"] is not None:
            content += [
                tag("h3", f"{titled(result['task'])}: calibration error {percent(told['ece'])}"),
                reliability_diagram(told["confidences"], told["accuracies"], told["counts"]),
            ]
    if not content:
        return None
    words = tag(
        "p",
        "Answers are sorted by how sure the model was of them. A bar that ends on the dashed line keeps "
        "its word; above it the model is too modest, below too sure. Thin bars hold few answers.",
    )
    return Leaf("Can the scores be trusted?", words, join(*content))


def few_shots(found: Sequence[Mapping[str, Any]]) -> Leaf | None:
    """How many labelled pictures of a class words are worth."""
    charts: list[Html] = []
    for result in found:
        told = result["protocols"].get("kshot")
        if not told:
            continue
        zero = result["protocols"].get("zeroshot")
        level = zero["metrics"][0]["value"] if zero else None
        curve = Curve(
            f"{result['task']}: accuracy",
            tuple(float(shots) for shots in told["shots"]),
            tuple(metric["value"] for metric in told["metrics"]),
            "training pictures per class",
            ("zero-shot", level) if level is not None else None,
        )
        charts.append(curve_chart(curve, tall=True))
    if not charts:
        return None
    words = tag(
        "p",
        "Linear probes on a few pictures of each class. Where the curve crosses the dashed line, so many "
        "labelled pictures are worth as much as the names of the classes.",
    )
    return Leaf("A few pictures instead of words", words, join(*charts))


def slices(found: Sequence[Mapping[str, Any]]) -> Leaf | None:
    """The score for each value of a field."""
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
        for protocol, told in result["protocols"].items()
        for metric in told["slices"]
    ]
    if not rows:
        return None
    words = tag(
        "p", "The same answers, split by what the data says of each picture: is it equally good for all?"
    )
    return Leaf("Slices", words, _table(("task", "protocol", "slice", "value", "95 % interval", "n"), rows))
