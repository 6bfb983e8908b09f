"""Plans follow from measured rates by arithmetic that can be done by hand."""

import pytest

from diptych.curate.pipeline.estimate import EstimateSettings, Rate, estimate_row

CORES = EstimateSettings(cores=10, dollars_per_hour=2.0, network_megabits=800.0, image_kilobytes=100.0)


@pytest.mark.parametrize(
    ("rate", "pairs", "machines", "hours"),
    [
        # Half of 36 million pairs: 180,000 core seconds over 20 cores, and 18,000 of one process.
        (Rate("match", 0.5, 0.01, 0.001), 36_000_000, 2, 7.5),
        # A thousand images a second pass 800 Mbit/s of 100 kB each, whatever the cores could do.
        (Rate("fetch", 1.0, 0.001, 0.0, downloads=True), 3_600_000, 1, 1.0),
        (Rate("fetch", 1.0, 0.1, 0.0, downloads=True), 3_600_000, 1, 10.0),
        (Rate("match", 1.0, 0.01, 0.0), 36_000_000, 5, 2.0),
    ],
)
def test_work_is_shared_what_one_process_does_is_not_and_all_machines_are_paid_for(
    rate: Rate, pairs: int, machines: int, hours: float
) -> None:
    row = estimate_row([rate], pairs, machines, CORES)
    assert row == {"pairs": pairs, "machines": machines, "hours": hours, "dollars": 2.0 * machines * hours}
