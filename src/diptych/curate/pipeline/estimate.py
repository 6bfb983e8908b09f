"""Hours and cost of a curation, from the rates at which one was done.

Partitions take `seconds a pair x pairs / (machines x cores)`; what one process does for
all of a stage (`alone_seconds`) does not get faster with machines; the fetch is also bounded by each
machine's network. The shares of pairs that a stage passes on are those of the measured run.
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
        dollars_per_hour: for one machine; 0.68 is the list price of 16 cores with 32 GB (AWS c7i.4xlarge,
            2024).
        network_megabits: what one machine can download a second.
        image_kilobytes: of one downloaded file, where the measured run downloaded none.
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


def estimate(folder: Path, settings: EstimateSettings) -> dict[str, Any]:
    """Estimate larger curations like the finished one in a folder: machines, measured rates, table."""
    manifests = {name: read_manifest(folder / STAGES_FOLDER / name) for name in FLOW}
    try:
        candidates = max(1, int(manifests[FLOW[0]].counts["in"]))
        rates = [_rate(name, manifest, candidates) for name, manifest in manifests.items()]
    except (KeyError, TypeError, ValueError) as error:
        what = "the manifests of a curation lack counts or seconds"
        raise IntegrityError(what, where=folder, found=repr(error)[:200]) from error
    rows = [estimate_row(rates, pairs, machines, settings) for pairs in PAIRS for machines in MACHINES]
    return {"settings": asdict(settings), "rates": [asdict(rate) for rate in rates], "table": rows}


def estimate_row(
    rates: Sequence[Rate], pairs: int, machines: int, settings: EstimateSettings
) -> dict[str, Any]:
    """Return the hours of a curation of so many candidate pairs, and the dollars for all machines together.

    >>> one = Rate("match", 1.0, 0.001, 0.0)
    >>> estimate_row([one], 57_600_000, 1, EstimateSettings(cores=16, dollars_per_hour=0.5))
    {'pairs': 57600000, 'machines': 1, 'hours': 1.0, 'dollars': 0.5}
    """
    seconds = 0.0
    for rate in rates:
        here = pairs * rate.pairs_per_candidate
        work = here * rate.core_seconds_per_pair / (machines * settings.cores)
        if rate.downloads:
            bits = here * settings.image_kilobytes * 8e3
            work = max(work, bits / (machines * settings.network_megabits * 1e6))
        seconds += work + here * rate.alone_seconds_per_pair
    hours = seconds / 3600
    dollars = hours * machines * settings.dollars_per_hour
    return {"pairs": pairs, "machines": machines, "hours": round(hours, 2), "dollars": round(dollars, 2)}


def _rate(name: str, manifest: Manifest, candidates: int) -> Rate:
    pairs, extra = int(manifest.counts["in"]), manifest.extra
    seconds = extra["partition_seconds"] if "partition_seconds" in extra else extra["unit_seconds"]  # < 0.2
    return Rate(
        name,
        pairs_per_candidate=pairs / candidates,
        core_seconds_per_pair=float(seconds) / max(1, pairs),
        alone_seconds_per_pair=float(extra["alone_seconds"]) / max(1, pairs),
        downloads=name == "fetch",
    )
