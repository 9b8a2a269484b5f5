"""When the next sample is due."""

import pytest

from services.monitor.devices.sampling import next_due


@pytest.mark.parametrize(
    ("now", "due"),
    [
        (10.0, 11.0),  # at once
        (10.4, 11.0),  # the time a sample takes does not move the beat
        (12.5, 13.0),  # beats that were missed are not made up for
        (9.9, 11.0),  # woken a little early
    ],
)
def test_the_beat_stays_where_it_is(now: float, due: float) -> None:
    assert next_due(10.0, now, 1.0) == due
