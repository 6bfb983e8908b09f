"""Hours and cost of a curation, from the rates at which one was done.

Partitions take `seconds a pair x pairs / (machines x cores)`; what one process does for
all of a stage (`alone_seconds`) does not get faster with machines; the fetch is also bounded by each
machine's network. The shares of pairs that a stage passes on are those of the measured run.

Reads: the manifests of a finished curation. Writes: nothing.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from diptych.core.errors import IntegrityError
from diptych.core.manifest import Manifest, read_manifest
from diptych.curate.pipeline.datacard import FLOW
from diptych.curate.pipeline.stages import STAGES_FOLDER

PAIRS = (1_000_000, 100_000_000, 1_000_000_000, 12_000_000_000)
MACHINES = (1, 16, 128)


@dataclass(frozen=True, slots=True)
class EstimateSettings:
    """The machines that the estimate is for.

    Attributes:
        cores: of one machine.
        dollars_per_hour: for one machine; 0.68 is the list price of 16 cores with 32 GB (AWS c7i.4xlarge,
        2024). network_megabits: what one machine can download a second. image_kilobytes: of one
        downloaded file, where the measured run downloaded none.
    """

    cores: int = 16
    dollars_per_hour: float = 0.68
    network_megabits: float = 2000.0
    image_kilobytes: float = 100.0


@dataclass(frozen=True, slots=True)
class Rate:
    """What one stage took, for each pair of its input."""

    stage: str
    pairs_per_candidate: float
    core_seconds_per_pair: float
    alone_seconds_per_pair: float
    downloads: bool = False


DEFAULT_SETTINGS = EstimateSettings()


def measured(folder: Path) -> tuple[Rate, ...]:
    """Read the rates of a finished curation.

    Raises:
        UsageError: a stage is not finished.
        IntegrityError: its manifest does not say what a stage writes.
    """
    manifests = {name: read_manifest(folder / STAGES_FOLDER / name) for name in FLOW}
    try:
        candidates = max(1, int(manifests["candidates"].counts["in"]))
        return tuple(_rate(name, manifest, candidates) for name, manifest in manifests.items())
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(
            "the manifests of a curation lack counts or seconds", where=folder, found=repr(error)[:200]
        ) from error


def hours(
    rates: Sequence[Rate], pairs: int, machines: int, settings: EstimateSettings = DEFAULT_SETTINGS
) -> float:
    """Return how long it takes.

    Args:
        rates: of the stages.
        pairs: candidate pairs.
        machines: how many work on it.
        settings: what they are.

    >>> one = Rate("match", 1.0, 0.001, 0.0)
    >>> round(hours([one], 57_600_000, 1, EstimateSettings(cores=16)), 3)
    1.0
    """
    seconds = 0.0
    for rate in rates:
        here = pairs * rate.pairs_per_candidate
        work = here * rate.core_seconds_per_pair / (machines * settings.cores)
        if rate.downloads:
            bits = here * settings.image_kilobytes * 8e3
            work = max(work, bits / (machines * settings.network_megabits * 1e6))
        seconds += work + here * rate.alone_seconds_per_pair
    return seconds / 3600


def table(
    rates: Sequence[Rate],
    *,
    pairs: Sequence[int] = PAIRS,
    machines: Sequence[int] = MACHINES,
    settings: EstimateSettings = DEFAULT_SETTINGS,
) -> list[dict[str, Any]]:
    """Return one row for every number of pairs and of machines: hours, and dollars for all machines
    together.
    """
    rows = []
    for count in pairs:
        for number in machines:
            took = hours(rates, count, number, settings)
            dollars = took * number * settings.dollars_per_hour
            rows.append(
                {"pairs": count, "machines": number, "hours": round(took, 2), "dollars": round(dollars, 2)}
            )
    return rows


def estimate(folder: Path, settings: EstimateSettings = DEFAULT_SETTINGS) -> dict[str, Any]:
    """Estimate larger curations like the one in a folder: the machines, the measured rates, the table."""
    rates = measured(folder)
    return {
        "settings": asdict(settings),
        "rates": [asdict(rate) for rate in rates],
        "table": table(rates, settings=settings),
    }


def _rate(name: str, manifest: Manifest, candidates: int) -> Rate:
    here = max(1, int(manifest.counts["in"]))
    extra = manifest.extra
    seconds = (
        extra["partition_seconds"] if "partition_seconds" in extra else extra["unit_seconds"]
    )  # before 0.2
    return Rate(
        name,
        pairs_per_candidate=int(manifest.counts["in"]) / candidates,
        core_seconds_per_pair=float(seconds) / here,
        alone_seconds_per_pair=float(manifest.extra["alone_seconds"]) / here,
        downloads=name == "fetch",
    )
