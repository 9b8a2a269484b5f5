"""Exponential pauses, jitter, and both forms of Retry-After."""

from datetime import UTC, datetime

import pytest

from modelyard.backoff import exponential_s, parse_retry_after_s, with_jitter
from services.downloader.transfer.options import RetryPolicy

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(("attempt", "pause_s"), [(1, 2.0), (2, 4.0), (3, 8.0), (4, 10.0), (50, 10.0)])
def test_pause_doubles_up_to_its_maximum(attempt: int, pause_s: float) -> None:
    assert exponential_s(attempt, 2.0, 10.0) == pause_s


@pytest.mark.parametrize(("position", "pause_s"), [(0.0, 7.5), (0.5, 10.0), (1.0, 12.5)])
def test_jitter_spreads_a_pause_to_both_sides(position: float, pause_s: float) -> None:
    assert with_jitter(10.0, 0.25, position) == pytest.approx(pause_s)


def test_random_jitter_stays_within_its_bounds() -> None:
    assert all(7.5 <= with_jitter(10.0, 0.25) <= 12.5 for _ in range(100))


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("²", None),
        ("0", 0.0),
        (" 120 ", 120.0),
        ("Sun, 01 Mar 2026 12:01:30 GMT", 90.0),
        ("Sun, 01 Mar 2026 12:01:30", 90.0),
        ("Sun, 01 Mar 2026 14:01:30 +0200", 90.0),
        ("Sun, 01 Mar 2026 11:00:00 GMT", 0.0),
    ],
)
def test_retry_after_holds_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    assert parse_retry_after_s(header, NOW) == seconds


@pytest.mark.parametrize(
    ("idle_attempts", "retry_after_s", "shortest_s", "longest_s"),
    [
        (0, None, 0.1, 0.1),
        (1, None, 0.75, 1.25),
        (9, None, 22.5, 37.5),
        (1, 7.0, 7.0, 7.0),
        (1, 9e9, 600, 600),
    ],
    ids=["after new bytes", "first idle attempt", "maximum", "as the server asks", "asks for too much"],
)
def test_pause_of_a_transfer(
    idle_attempts: int, retry_after_s: float | None, shortest_s: float, longest_s: float
) -> None:
    assert shortest_s <= RetryPolicy().pause_s(idle_attempts, retry_after_s) <= longest_s
