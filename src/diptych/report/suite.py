"""Write the report of a suite: one page for all tasks, with the pictures behind the numbers.

Reads: the results and answers of a run, and the sources once more for the pictures that are shown.
Writes: the file it is told to, see `diptych.report.page`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from diptych.core.records import Counts, Metric, Pair
from diptych.data.near_copies.overlap import OverlapReport
from diptych.evaluate.metrics.robustness import Shift
from diptych.evaluate.suite.compare import best_published, compare, read_published
from diptych.evaluate.suite.plan import Opened
from diptych.evaluate.suite.run import SuiteOutcome
from diptych.evaluate.tasks.registry import task_models, task_rows
from diptych.evaluate.zeroshot import PromptScore, ZeroShotResult
from diptych.report import sections, suite_sections
from diptych.report.examples import Choice, choose_cards, class_study
from diptych.report.images import Picture
from diptych.report.page import Leaf, Masthead, left_out, write_page
from diptych.report.parts import (
    ClassCard,
    ClassStudy,
    ImageQuery,
    PromptBar,
    PromptTable,
    TextQuery,
    Tile,
)
from diptych.report.plots import percent

FEW_TASKS, MANY_CARDS, FEW_CARDS = 4, 6, 2
"""With more tasks each shows fewer classes: a page of 27 data sets is still a page."""

WALL_PICTURES = 12
REFERENCES = "ViT-B-32/openai", "ViT-L-14-336/openai"
"""Models of the paper that every result is shown beside."""


@dataclass(frozen=True, slots=True)
class _Shown:
    """One task of the report."""

    studies: tuple[ClassStudy, ...]
    texts: tuple[TextQuery, ...]
    images: tuple[ImageQuery, ...]
    wall: tuple[Picture, ...]


def write_suite_report(
    path: Path,
    outcome: SuiteOutcome,
    *,
    baseline: SuiteOutcome | None = None,
    published: Path | None = None,
    shifts: Sequence[Shift] = (),
    seen: Sequence[OverlapReport] = (),
    command: str = "",
) -> None:
    """Render the report and write it durably.

    Args:
        path: the file.
        outcome: what the suite found.
        baseline: what it found of another model.
        published: a table of public models, see `suite_compare`.
        shifts: robustness to natural shifts, see `suite_compare`.
        seen: which pictures the model was trained on, see `suite_seen`.
        command: what the user typed.
    """
    shown = [
        _pictures(outcome, number, cards=MANY_CARDS if len(outcome.results) <= FEW_TASKS else FEW_CARDS)
        for number in range(len(outcome.results))
    ]
    name = str(outcome.summary["model"]["name"])
    leaves = [
        sections.headline(_tiles(outcome)),
        suite_sections.results(outcome.results, _references(outcome, published)),
        suite_sections.robustness(shifts),
        suite_sections.seen(seen),
        _side_by_side(outcome, baseline),
        sections.prompts([table for table in map(_prompts, outcome.results) if table is not None]),
        suite_sections.few_shots(outcome.results),
        suite_sections.slices(outcome.results),
        suite_sections.trust(outcome.results),
        *(sections.classes(study) for task in shown for study in task.studies),
        sections.retrieval(
            [query for task in shown for query in task.texts],
            [query for task in shown for query in task.images],
        ),
        suite_sections.not_found(outcome.missing, _refused(outcome)),
        left_out(_left_out(outcome.results)),
        sections.all_numbers(
            _numbers(outcome.results),
            (("this report", command),) if command else (),
            shares="Clopper-Pearson",
        ),
    ]
    wall = [
        picture
        for number in range(WALL_PICTURES)
        for task in shown
        for picture in task.wall[number : number + 1]
    ]
    head = Masthead(
        "suite", f"{outcome.name}: {name}", _told(outcome), _facts(outcome), tuple(wall[:WALL_PICTURES])
    )
    write_page(path, head, leaves)


def _side_by_side(outcome: SuiteOutcome, baseline: SuiteOutcome | None) -> Leaf | None:
    if baseline is None:
        return None
    name, other = (str(one.summary["model"]["name"]) for one in (outcome, baseline))
    return suite_sections.side_by_side(name, other, compare(outcome, baseline))


def _refused(outcome: SuiteOutcome) -> list[tuple[str, str, str]]:
    return [
        (result["task"], protocol, reason)
        for result in outcome.results
        for protocol, reason in result["not_run"].items()
    ]


def _told(outcome: SuiteOutcome) -> str:
    parts = [
        f"{protocol} {percent(mean['mean'])} over {mean['tasks']} of {mean['of']} tasks"
        for protocol, mean in outcome.summary["means"].items()
        if mean["mean"] is not None
    ]
    return "Means: " + "; ".join(parts) + "." if parts else ""


def _facts(outcome: SuiteOutcome) -> tuple[tuple[str, str], ...]:
    held = outcome.summary["expected"]
    return (
        ("model", outcome.summary["model"]["name"]),
        ("digest", outcome.summary["model"]["digest"][:16]),
        ("tasks scored", f"{len(outcome.results)} of {len(outcome.results) + len(outcome.missing)}"),
        ("published numbers met", f"{held['passed']} of {held['of']}"),
    )


def _tiles(outcome: SuiteOutcome) -> list[Tile]:
    """Show the means, or the tasks themselves where they are few."""
    if len(outcome.results) > FEW_TASKS:
        return [
            Tile(
                f"mean, {protocol}",
                Metric(outcome.name, protocol, mean["mean"], None, mean["tasks"]),
                f"Over {mean['tasks']} of the suite's {mean['of']} tasks.",
            )
            for protocol, mean in outcome.summary["means"].items()
            if mean["mean"] is not None
        ]
    return [
        Tile(f"{result['task']}, {protocol}", _metric(result["task"], told), told["metric"].replace("_", " "))
        for result in outcome.results
        for protocol, told in result["protocols"].items()
    ]


def _metric(task: str, told: Mapping[str, Any]) -> Metric:
    value = float("nan") if told["value"] is None else told["value"]
    return Metric(task, told["metric"], value, tuple(told["ci95"]) if told["ci95"] else None, told["n"])


def _numbers(results: Sequence[Mapping[str, Any]]) -> list[Metric]:
    found = []
    for result in results:
        for protocol, told in result["protocols"].items():
            listed = dict.fromkeys(
                _metric(f"{result['task']}, {protocol}", entry) for entry in (told, *told["metrics"])
            )
            found += list(listed)
    return found


def _references(outcome: SuiteOutcome, published: Path | None) -> list[tuple[str, dict[str, float]]]:
    """List models to show beside: two of the paper, this one as published, the best of the table."""
    rows = {
        task.spec.name: task.row
        for task in outcome.opened
        if task.row is not None and task.spec.task in task_rows()
    }
    found = []
    for model in REFERENCES:
        assert model in task_models()
        shares = {name: row.published(model) for name, row in rows.items()}
        told = {name: share / 100 for name, share in shares.items() if share is not None}
        found.append((f"{model}, paper", told))
    if published is not None:
        table = read_published(published)
        public = outcome.summary["model"]["public"]
        for model in dict.fromkeys((public, best_published(table))):
            columns = table.get(model, {})
            told = {name: columns[row.column] for name, row in rows.items() if row.column in columns}
            found.append((f"{model}, published", told))
    return [(name, told) for name, told in found if told]


def _prompts(result: Mapping[str, Any]) -> PromptTable | None:
    told = result["protocols"].get("zeroshot")
    if told is None:
        return None
    bars = []
    for entry in told["prompts"]:
        gain = None
        if entry.get("gain") is not None:
            ends = tuple(entry["gain_ci95"]) if entry["gain_ci95"] else None
            gain = Metric(result["task"], "gain", entry["gain"], ends, told["n"])
        share = Metric(
            result["task"], "top1", entry["value"], tuple(entry["ci95"]) if entry["ci95"] else None, told["n"]
        )
        bars.append(PromptBar(entry["name"], share, gain, entry["example"]))
    return PromptTable(result["task"], tuple(bars))


def _left_out(results: Sequence[Mapping[str, Any]]) -> list[tuple[str, int]]:
    rows = []
    for result in results:
        items, task = result["items"], result["task"]
        rows.append((f"{task}: pictures", items["pictures"]))
        rows.append((f"{task}: pictures that cannot be read (counted as wrong)", items["unreadable"]))
        if items["stated"] is not None and items["stated"] != items["pictures"]:
            rows.append((f"{task}: pictures that the split should have", items["stated"]))
        if items["unlabelled"]:
            rows.append((f"{task}: pictures without a label (left out)", items["unlabelled"]))
    return rows


def _pictures(outcome: SuiteOutcome, number: int, *, cards: int) -> _Shown:
    """Choose what is shown of a task, and fetch it."""
    result, opened = outcome.results[number], outcome.opened[number]
    best, worst = [], []
    study: ClassStudy | None = None
    if "zeroshot" in result["protocols"] and opened.kind == "classification":
        zero = _as_zero_shot(result, outcome.answers(number))
        best, worst = (chosen[:cards] for chosen in choose_cards(zero))
        study = class_study(zero)
    asked = result["protocols"].get("retrieval", {})
    texts = [
        (query["text"], [Choice(row, right) for row, right in query["found"]])
        for query in asked.get("text_queries", ())
    ]
    images = [(query["row"], query["found"]) for query in asked.get("image_queries", ())]
    chosen = [choice for _, picks in (*best, *worst, *texts) for choice in picks]
    pairs = _fetch(opened, {choice.row for choice in chosen} | {row for row, _ in images})

    def hang(choice: Choice) -> Picture:
        pair = pairs.get(choice.row)
        caption = next(iter(pair.captions), pair.key) if pair is not None else ""
        return Picture(pair.image if pair is not None else b"", caption, choice.right, choice.note)

    def filled(found: Sequence[tuple[ClassCard, list[Choice]]]) -> tuple[ClassCard, ...]:
        return tuple(replace(card, pictures=tuple(map(hang, picks))) for card, picks in found)

    return _Shown(
        (replace(study, best=filled(best), worst=filled(worst)),) if study is not None else (),
        tuple(TextQuery(text, tuple(map(hang, picks))) for text, picks in texts),
        tuple(
            ImageQuery(hang(Choice(row)), tuple((text, bool(right)) for text, right in found))
            for row, found in images
        ),
        tuple(replace(hang(choice), right=None, note="") for choice in chosen[:: max(1, len(chosen) // 12)]),
    )


def _as_zero_shot(result: Mapping[str, Any], answers: Mapping[str, Any]) -> ZeroShotResult:
    told = result["protocols"]["zeroshot"]
    score = PromptScore(
        told["prompts"][-1]["name"],
        (_metric(result["task"], told),),
        np.asarray(answers["zeroshot_hits"]),
        np.asarray(answers["zeroshot_predicted"]),
        None,
        told["prompts"][-1]["example"],
    )
    items = result["items"]
    return ZeroShotResult(
        result["task"], tuple(result["class_names"]), answers["rows"], answers["labels"], (score,),
        items["unlabelled"], items["unreadable"],
    )  # fmt: skip


def _fetch(opened: Opened, rows: set[int]) -> dict[int, Pair]:
    """Read a source once more, up to the last row that is shown."""
    found: dict[int, Pair] = {}
    for row, pair in enumerate(opened.source.pairs(Counts())):
        if row in rows:
            found[row] = pair
        if len(found) == len(rows):
            break
    return found
