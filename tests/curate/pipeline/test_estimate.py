"""Plans follow from measured rates by arithmetic that can be done by hand."""

import pytest

from diptych.curate.pipeline.estimate import EstimateSettings, Rate, estimate_row, hours

CORES = EstimateSettings(cores=10, dollars_per_hour=2.0, network_megabits=800.0, image_kilobytes=100.0)


def test_work_is_shared_and_what_one_process_does_is_not() -> None:
    """A million pairs of which half come so far: 5,000 core seconds over 20 cores, and 500 alone."""
    rate = Rate("match", 0.5, 0.01, 0.001)
    assert hours([rate], 1_000_000, 2, CORES) == pytest.approx((5000 / 20 + 500) / 3600)


def test_a_fetch_is_no_faster_than_its_network() -> None:
    """A thousand images a second pass 800 Mbit/s of 100 kB each."""
    rate = Rate("fetch", 1.0, 0.001, 0.0, downloads=True)
    assert hours([rate], 3_600_000, 1, CORES) == pytest.approx(1.0)
    slow = Rate("fetch", 1.0, 0.1, 0.0, downloads=True)
    assert hours([slow], 3_600_000, 1, CORES) == pytest.approx(10.0)


def test_all_machines_are_paid_for() -> None:
    row = estimate_row([Rate("match", 1.0, 0.01, 0.0)], 36_000_000, 5, CORES)
    assert row == {"pairs": 36_000_000, "machines": 5, "hours": 2.0, "dollars": 20.0}
