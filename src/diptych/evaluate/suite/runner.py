"""A model and one task, whose images are embedded once, for every protocol to score.

Every protocol predicts for the same images in the same order, so two of them, or two models, can be compared
image by image.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from diptych.core.checks import Bools, Ints
from diptych.core.errors import unknown_name
from diptych.core.records import Metric
from diptych.embed.features import EmbeddedPairs
from diptych.evaluate.suite.features_cache import FeatureSettings, Kind, cached_pairs, data_digest
from diptych.evaluate.suite.plan import OpenedTask
from diptych.evaluate.suite.scoring import Predictions, further_metrics, main_metric, sliced, task_labels

if TYPE_CHECKING:
    from diptych.data.sources.open import Source
    from diptych.models.model import Model


@dataclass(frozen=True, slots=True)
class ProtocolResult:
    """Result of one protocol on a task."""

    metric: Metric  # the main number
    metrics: tuple[Metric, ...] = ()
    slices: tuple[Metric, ...] = ()  # the share of hits by values of fields
    extra: Mapping[str, Any] = field(default_factory=dict)  # what else a report shows, plain values
    arrays: Mapping[str, NDArray[Any]] = field(
        default_factory=dict
    )  # per image, to compare with another model
    details: Any = None  # ZeroShotResult or RetrievalResult


class TaskRunner:
    """A model, a task, its embedded images and its labels.

    Features and classifiers are in the folder `cache`, under the digest of the task's data; or the images
    are `embedded` already and nothing is kept.
    """

    def __init__(
        self,
        model: "Model",
        task: OpenedTask,
        settings: FeatureSettings,
        *,
        cache: Path | None = None,
        digest: str = "",
        embedded: EmbeddedPairs | None = None,
    ) -> None:
        self.model, self.task, self.settings, self.cache, self.digest = model, task, settings, cache, digest
        self.model_digest = "" if cache is None else model.digest
        self.embedded = embedded or self.features(task.source, "embeds", digest)
        self.labels = task_labels(task, self.embedded)

    def features(self, source: "Source", kind: Kind, digest: str = "") -> EmbeddedPairs:
        """Return the rows of a source, "embeds" or "penultimate" ones, from the cache."""
        assert self.cache is not None
        return cached_pairs(
            self.model,
            source,
            self.cache / "features",
            model_digest=self.model_digest,
            data_digest=digest or data_digest(source, *self.task.choices),
            kind=kind,
            settings=self.settings,
        )

    def classified(
        self, made: Predictions, extra: Mapping[str, Any], further: list[Metric] | None = None
    ) -> ProtocolResult:
        """Return the result of a protocol that predicts classes."""
        task = self.task
        return ProtocolResult(
            main_metric(made, task.metric, task=task.spec.name),
            tuple(further_metrics(made, task=task.spec.name) if further is None else further),
            self.slices(made.hits, self.labels.rows),
            extra,
            {"hits": made.hits, "predicted": made.predicted},
        )

    def slices(self, hits: Bools, rows: Ints) -> tuple[Metric, ...]:
        """Split the share of hits of some rows by the values of the fields that the task names."""
        spec, fields = self.task.spec, [self.embedded.fields[row] for row in rows]
        known = dict.fromkeys(column for of_row in fields for column in of_row)
        for name in spec.slices:
            if name not in known:
                raise unknown_name("column to slice by", name, known, where=f"task {spec.name!r}")
        columns = {name: [of_row.get(name) for of_row in fields] for name in spec.slices}
        parts = [sliced(hits, values, task=spec.name, name=name) for name, values in columns.items()]
        return tuple(metric for part in parts for metric in part)
