"""Settings of the fetch that cannot be meant are refused before anything is asked."""

import pytest

from diptych.core.errors import SettingsError
from diptych.curate.fetch.settings import FetchSettings


@pytest.mark.parametrize(
    "wrong",
    [{"user_agent": "x\r\nHost: y"}, {"contact": "\n"}, {"per_host": 0}, {"quality": 0}, {"resize": "border"},
     {"respect_opt_out": ("nothing",)},
     {"timeout_seconds": 0}, {"formats": ("EPS",)}, {"allow_networks": ("x",)}],
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        FetchSettings(**wrong)  # type: ignore[arg-type]
