"""Hold two models against each other image by image, and either against published tables.

Reads: the answers that two runs of a suite kept; a CSV as open_clip publishes its results.
Source: McNemar 1947 and Efron and Tibshirani 1993 through `metrics_intervals`.
"""

import csv
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diptych.core.errors import SettingsError, UsageError
from diptych.evaluate.metrics.intervals import mcnemar, paired_bootstrap
from diptych.evaluate.metrics.robustness import Shift, shifts
from diptych.evaluate.suite.run import SuiteOutcome
from diptych.evaluate.tasks.registry import suite_tasks, task_rows

PUBLISHED = "published_openclip_results.csv"
AVERAGE = "Average perf. on 38 datasets"
RENAMED = "-quickgelu"
"""open_clip names an architecture anew for its activation; the weights are those of the plain name."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One task of two models, on the same images.

    Attributes:
        task: its name.
        protocol: how both were asked.
        value: the share of hits of the model.
        other: that of the other model.
        gain: the difference.
        ci95: of the gain, from a paired bootstrap.
        p_value: McNemar's exact test; of hits averaged over draws, the paired bootstrap's.
        n: images, or texts.
    """

    task: str
    protocol: str
    value: float
    other: float
    gain: float
    ci95: tuple[float, float] | None
    p_value: float
    n: int

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def compare(outcome: SuiteOutcome, other: SuiteOutcome) -> list[Comparison]:
    """Compare two models on every task and protocol that both have.

    Raises:
        UsageError: a task of theirs is not over the same images.
    """
    found: list[Comparison] = []
    places = {result["task"]: place for place, result in enumerate(other.results)}
    for number, result in enumerate(outcome.results):
        place = places.get(result["task"])
        if place is None:
            continue
        if result["data"] != other.results[place]["data"]:
            raise UsageError(
                "two models were scored on different data",
                where=f"task {result['task']}",
                found=other.results[place]["data"][:16],
                expected=result["data"][:16],
                fix="run the suite again for both",
            )
        mine, theirs = outcome.answers(number), other.answers(place)
        shared = [name for name in mine if name.endswith("hits") and name in theirs]
        for name in shared:
            protocol = name.removesuffix("_hits").replace("retrieval_text", "retrieval of pictures")
            after, before = mine[name], theirs[name]
            tested = paired_bootstrap(before, after)
            p_value = mcnemar(before, after) if after.dtype == np.bool_ else tested.p_value
            found.append(
                Comparison(
                    result["task"], protocol, float(after.mean()), float(before.mean()), tested.gain,
                    tested.interval, p_value, len(after),
                )
            )  # fmt: skip
    return found


def natural_shifts(outcome: SuiteOutcome, table: Mapping[str, Mapping[str, float]]) -> list[Shift]:
    """Tell the effective robustness on every natural shift of ImageNet that was scored by words.

    The line is that of the table's models, which are contrastive ones too: it says whether this model is more
    robust than others of its kind, not than models trained on ImageNet.
    """
    names = suite_tasks("imagenet_shift")
    columns = {name: task_rows()[name].column for name in names if task_rows()[name].column}
    found = {
        result["task"]: result["protocols"]["zeroshot"]["value"]
        for result in outcome.results
        if result["task"] in names and "zeroshot" in result["protocols"]
    }
    return shifts({name: value for name, value in found.items() if value is not None}, columns, table)


def find_published(data: Path) -> Path | None:
    """Return the table of public models that lies beside the data, if there is one."""
    return next((path for path in (data / PUBLISHED, data / "text" / PUBLISHED) if path.is_file()), None)


def read_published(path: Path) -> dict[str, dict[str, float]]:
    """Read a table of public models: name/pretrained -> column -> share in [0, 1].

    Raises:
        SettingsError: it has no columns `name` and `pretrained`, or a cell that is no number.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
        return {
            f"{row.pop('name').removesuffix(RENAMED)}/{row.pop('pretrained')}": {
                column: float(value) for column, value in row.items() if column and value
            }
            for row in rows
        }
    except (KeyError, ValueError, AttributeError) as error:
        raise SettingsError(
            "a table of public models cannot be read",
            where=path,
            found=str(error)[:80],
            expected="CSV with name, pretrained, and a column of numbers for each data set",
        ) from None


def best_published(table: Mapping[str, Mapping[str, float]]) -> str:
    """Return the public model with the best mean over all data sets."""
    return max(table, key=lambda name: table[name].get(AVERAGE, 0.0), default="")
