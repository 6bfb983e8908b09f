"""Run several tasks on one source, whose pictures are embedded once.

Reads: the source. Writes: nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from diptych.core.records import Metric
from diptych.embed.features import EmbeddedPairs, Precision, embed_pairs

if TYPE_CHECKING:
    from diptych.data.sources import Source
    from diptych.models.model import Model


class Result(Protocol):
    """What a task hands back: its metrics, and whatever else a report of its kind shows."""

    def metrics(self) -> list[Metric]:
        """List the task's numbers."""


class Task(Protocol):
    """A task that can share embedded pictures with others."""

    @property
    def name(self) -> str:
        """The task's name in metrics and reports."""

    def score(self, model: "Model", embedded: EmbeddedPairs) -> Result:
        """Score a source that is embedded already."""


@dataclass(frozen=True, slots=True)
class SuiteResult:
    """What the tasks of a suite found.

    Attributes:
        source: where the pairs came from.
        embedded: its pictures after the image tower.
        results: one per task, in the order of the tasks.
    """

    source: "Source"
    embedded: EmbeddedPairs
    results: tuple[Result, ...]

    def metrics(self) -> list[Metric]:
        """List every task's numbers."""
        return [metric for result in self.results for metric in result.metrics()]


@dataclass(frozen=True, slots=True)
class Suite:
    """Several tasks on one source.

    Attributes:
        name: the suite's name.
        source: where the pairs come from.
        tasks: what to score, in order.
        precision: what the image tower computes in.
    """

    name: str
    source: "Source"
    tasks: Sequence[Task]
    precision: Precision = "float32"

    def __call__(self, model: "Model") -> list[Metric]:
        """Embed the source once and list every task's metrics."""
        return self.run(model).metrics()

    def run(self, model: "Model") -> SuiteResult:
        """Embed the source once and score every task on it."""
        embedded = embed_pairs(model, self.source, precision=self.precision)
        results = tuple(task.score(model, embedded) for task in self.tasks)
        return SuiteResult(self.source, embedded, results)
