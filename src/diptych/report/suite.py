"""Write the report of a suite: one page for all tasks, with example images.

Reads: the results and predictions of a run, and the sources once more for the images that are shown.
Writes: the file at the given path.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from diptych.core.records import Metric
from diptych.data.near_copies.overlap import OverlapReport
from diptych.evaluate.metrics.robustness import Shift
from diptych.evaluate.suite.compare import best_published, compare
from diptych.evaluate.suite.run import SuiteOutcome
from diptych.evaluate.suite.scoring import TaskLabels
from diptych.evaluate.tasks.registry import task_rows
from diptych.report.data import Curve, ImageExample, Report, Tile
from diptych.report.page import COVER_IMAGES, Header, write_page
from diptych.report.plots import percent
from diptych.report.run import examples_of, task_report, with_images

# With more tasks each shows fewer classes: a page of 27 data sets is still a page
FEW_TASKS, MANY_CARDS, FEW_CARDS = 4, 6, 2

REFERENCES = "ViT-B-32/openai", "ViT-L-14-336/openai"  # Models of the paper that every result is shown beside


def write_suite_report(
    path: Path,
    outcome: SuiteOutcome,
    *,
    baseline: SuiteOutcome | None = None,
    published: Mapping[str, Mapping[str, float]] | None = None,
    shifts: Sequence[Shift] = (),
    seen: Sequence[OverlapReport] = (),
    command: str = "",
) -> None:
    """Render the report and write it durably; the optional parts are what `evaluate.suite.compare` returns.

    Args:
        path: the file.
        outcome: results of the suite.
        baseline: results of another model.
        published: the table of public models.
        shifts: robustness to natural shifts.
        seen: overlaps with the training set.
        command: the command line.
    """
    results = outcome.results
    parts = [_task_report(outcome, number) for number in range(len(results))]
    cover = [image for number in range(COVER_IMAGES) for part in parts for image in part.cover[number:][:1]]
    name = str(outcome.summary["model"]["name"])
    title, facts = f"{outcome.name}: {name}", _facts(outcome)
    write_page(
        path,
        "suite.html",
        Header("suite", title, _means(outcome), facts, tuple(cover[:COVER_IMAGES])),
        outcome=outcome,
        tiles=_tiles(outcome),
        rows=[(result, *scored) for result in results for scored in result["protocols"].items()],
        references=_references(outcome, published),
        shifts=shifts,
        seen=seen,
        compared=compare(outcome, baseline) if baseline is not None else (),
        names=[name, baseline.summary["model"]["name"] if baseline is not None else ""],
        prompts=[table for part in parts for table in part.prompts],
        few_shots=[_few_shots(result) for result in results if result["protocols"].get("few_shot")],
        calibrated=_calibrated(results),
        studies=[study for part in parts for study in part.classes],
        text_queries=[query for part in parts for query in part.text_queries],
        image_queries=[query for part in parts for query in part.image_queries],
        not_scored=_not_scored(outcome),
        left_out=_left_out(results),
        metrics=_numbers(results),
        commands=[("this report", command)] if command else [],
    )


def _task_report(outcome: SuiteOutcome, number: int) -> Report:
    """Return the examples of a task with their images, and its sets of prompts."""
    result, answers = outcome.results[number], outcome.answers(number)
    names, none = tuple(result["class_names"]), answers["rows"][:0]
    labels = TaskLabels(answers["rows"], names, answers.get("labels", none), answers.get("marks"))
    scores = result["protocols"].get("retrieval", {}) | result["protocols"].get("zeroshot", {})
    arrays = {name: answers.get(f"zeroshot_{name}", none) for name in ("hits", "predicted")}
    cards = MANY_CARDS if len(outcome.results) <= FEW_TASKS else FEW_CARDS
    report = task_report(result["task"], scores, labels, arrays, cards=cards)
    chosen = examples_of(report)
    cover = (ImageExample(row=image.row) for image in chosen[:: max(1, len(chosen) // COVER_IMAGES)])
    return with_images(replace(report, cover=tuple(cover)), outcome.opened[number].source)


def _few_shots(result: Mapping[str, Any]) -> Curve:
    scores, zero = (result["protocols"].get(name) for name in ("few_shot", "zeroshot"))
    return Curve(
        f"{result['task']}: accuracy",
        tuple(float(shots) for shots in scores["shots"]),
        tuple(metric["value"] for metric in scores["metrics"]),
        "training images per class",
        ("zero-shot", zero["metrics"][0]["value"]) if zero else None,
    )


def _calibrated(results: Sequence[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    bins = [(each["task"], each["protocols"].get("zeroshot", {}).get("reliability")) for each in results]
    return [(task, each) for task, each in bins if each and each["ece"] is not None]


def _not_scored(outcome: SuiteOutcome) -> list[tuple[str, str, str]]:
    rows = [(lost.task, f"not found in {lost.looked_in}", lost.get_from) for lost in outcome.missing]
    for result in outcome.results:
        rows += [(result["task"], protocol, reason) for protocol, reason in result["not_run"].items()]
    return rows


def _means(outcome: SuiteOutcome) -> str:
    parts = [
        f"{protocol} {percent(mean['mean'])} over {mean['tasks']} of {mean['of']} tasks"
        for protocol, mean in outcome.summary["means"].items()
        if mean["mean"] is not None
    ]
    return "Means: " + "; ".join(parts) + "." if parts else ""


def _facts(outcome: SuiteOutcome) -> tuple[tuple[str, str], ...]:
    expected = outcome.summary["expected"]
    return (
        ("model", outcome.summary["model"]["name"]),
        ("digest", outcome.summary["model"]["digest"][:16]),
        ("tasks scored", f"{len(outcome.results)} of {len(outcome.results) + len(outcome.missing)}"),
        ("published numbers reproduced", f"{expected['passed']} of {expected['of']}"),
    )


def _tiles(outcome: SuiteOutcome) -> list[Tile]:
    """Show the means, or the tasks themselves where they are few."""
    tiles = []
    if len(outcome.results) > FEW_TASKS:
        for protocol, mean in outcome.summary["means"].items():
            if mean["mean"] is not None:
                metric = Metric(outcome.name, protocol, mean["mean"], None, mean["tasks"])
                note = f"Over {mean['tasks']} of the suite's {mean['of']} tasks."
                tiles.append(Tile(f"mean, {protocol}", metric, note))
        return tiles
    for result in outcome.results:
        for protocol, scores in result["protocols"].items():
            label, note = f"{result['task']}, {protocol}", scores["metric"].replace("_", " ")
            tiles.append(Tile(label, _metric(result["task"], scores), note))
    return tiles


def _metric(task: str, scores: Mapping[str, Any]) -> Metric:
    value = float("nan") if scores["value"] is None else scores["value"]
    return Metric(task, scores["metric"], value, tuple(scores["ci95"] or ()) or None, scores["n"])


def _numbers(results: Sequence[Mapping[str, Any]]) -> list[Metric]:
    metrics: list[Metric] = []
    for result in results:
        for protocol, scores in result["protocols"].items():
            task = f"{result['task']}, {protocol}"
            metrics += dict.fromkeys(_metric(task, entry) for entry in (scores, *scores["metrics"]))
    return metrics


def _references(
    outcome: SuiteOutcome, published: Mapping[str, Mapping[str, float]] | None
) -> list[tuple[str, dict[str, float]]]:
    """List models to show beside: two of the paper, this one as published, the best of the table."""
    known = [task for task in outcome.opened if task.row is not None and task.spec.task in task_rows()]
    rows = {task.spec.name: task_rows()[task.spec.task] for task in known}
    references = []
    for model in REFERENCES:
        shares = {name: row.published(model) for name, row in rows.items()}
        columns = {name: share / 100 for name, share in shares.items() if share is not None}
        references.append((f"{model}, paper", columns))
    if published:
        for model in dict.fromkeys((outcome.summary["model"]["public"], best_published(published))):
            scores = published.get(model, {})
            columns = {name: scores[row.column] for name, row in rows.items() if row.column in scores}
            references.append((f"{model}, published", columns))
    return [(name, columns) for name, columns in references if columns]


def _left_out(results: Sequence[Mapping[str, Any]]) -> list[tuple[str, int]]:
    rows = []
    for result in results:
        items, task = result["items"], result["task"]
        rows.append((f"{task}: images", items["pictures"]))
        rows.append((f"{task}: images that cannot be read (counted as wrong)", items["unreadable"]))
        if items["stated"] is not None and items["stated"] != items["pictures"]:
            rows.append((f"{task}: images that the split should have", items["stated"]))
        if items["unlabelled"]:
            rows.append((f"{task}: images without a label (left out)", items["unlabelled"]))
    return rows
