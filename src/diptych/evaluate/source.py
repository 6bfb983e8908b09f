"""Run several tasks on one source, whose images are embedded once.

Reads: the source. Writes: nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from diptych.core.records import Metric
from diptych.embed.features import EmbeddedPairs, embed_pairs
from diptych.models.encode import Precision

if TYPE_CHECKING:
    from diptych.data.sources.open import Source
    from diptych.models.model import Model


class Result(Protocol):
    """What a task hands back: its metrics, and whatever else a report of its kind shows."""

    def metrics(self) -> list[Metric]:
        """List the task's numbers."""


class Task(Protocol):
    """A task that can share embedded images with others."""

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
        embedded: its images after the image tower.
        results: one per task, in the order of the tasks.
    """

    source: "Source"
    embedded: EmbeddedPairs
    results: tuple[Result, ...]

    def metrics(self) -> list[Metric]:
        """List every task's numbers, each followed by how many samples of the source were bad, by reason."""
        dropped, seen = self.embedded.counts.dropped, self.embedded.counts.seen
        found: list[Metric] = []
        for metrics in (result.metrics() for result in self.results):
            found += metrics
            found += [
                Metric(metrics[0].task, f"bad_samples[{reason}]", float(count), None, seen)
                for reason, count in sorted(dropped.items())
            ]
        return found


@dataclass(frozen=True, slots=True)
class Suite:
    """Several tasks on one source.

    Attributes:
        name: the suite's name.
        source: where the pairs come from.
        tasks: what to score, in order.
        precision: what the image tower computes in.
        max_bad_fraction: share of the source's samples that may be bad; above it nothing is scored. Of those
            that are, an image that cannot be read is wrong in every task, the others belong to none.
    """

    name: str
    source: "Source"
    tasks: Sequence[Task]
    precision: Precision = "float32"
    max_bad_fraction: float = 1.0

    def __call__(self, model: "Model") -> list[Metric]:
        """Embed the source once and list every task's metrics."""
        return self.run(model).metrics()

    def run(self, model: "Model") -> SuiteResult:
        """Embed the source once and score every task on it.

        Raises:
            TooMuchBadDataError: a larger share of the samples than `max_bad_fraction` is bad.
        """
        embedded = embed_pairs(model, self.source, precision=self.precision)
        embedded.counts.check(self.max_bad_fraction)
        results = tuple(task.score(model, embedded) for task in self.tasks)
        return SuiteResult(self.source, embedded, results)
