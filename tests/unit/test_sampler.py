"""The schedule of samples."""

import pytest

from services.monitor.devices.sampler import next_due


@pytest.mark.parametrize(
    ("now", "due"),
    [
        (10.0, 11.0),  # sampled at once
        (10.4, 11.0),  # a slow sample does not shift the ticks
        (12.5, 13.0),  # missed ticks are skipped
        (9.9, 11.0),  # woken early
    ],
)
def test_samples_stay_on_the_ticks(now: float, due: float) -> None:
    assert next_due(10.0, now, 1.0) == due
