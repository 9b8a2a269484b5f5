"""Forecasts back-tested on synthetic years, and disks that fill."""

import random

import pytest

from services.monitor.trends import DAY_S, days_until_full, forecast_days

START = 739_000


def year(seed: int) -> dict[int, float]:
    """Busy weekdays and quiet Sundays, with random noise."""
    rng = random.Random(seed)
    return {
        day: (20.0 if day % 7 == 0 else 100.0 + 5 * (day % 7)) + rng.gauss(0, 15)
        for day in range(START, START + 365)
    }


def test_nine_in_ten_months_are_within_the_interval() -> None:
    inside, misses = 0, 0.0
    tries = [(seed, first) for seed in range(12) for first in range(START + 60, START + 330, 15)]
    for seed, first in tries:
        days = year(seed)
        truth = sum(days[day] for day in range(first, first + 30))
        forecast = forecast_days(days, first, 30)
        inside += forecast.low <= truth <= forecast.high
        misses += abs(forecast.expected - truth) / truth
    assert 0.85 <= inside / len(tries) <= 0.97
    assert misses / len(tries) < 0.03


def test_forecasts_follow_weekdays() -> None:
    days = year(1)
    sunday = next(day for day in range(START + 70, START + 80) if day % 7 == 0)
    assert forecast_days(days, sunday, 1).expected < 40
    assert forecast_days(days, sunday + 1, 1).expected > 90
    assert forecast_days(days, sunday + 1, 0.5).expected == pytest.approx(
        forecast_days(days, sunday + 1, 1).expected / 2
    )


def test_a_forecast_has_the_number_of_its_days() -> None:
    assert forecast_days({}, START, 10) == (0.0, 0.0, 0.0, 0)
    few = forecast_days({START - 1: 10.0, START - 2: 20.0}, START, 10)
    assert (few.expected, few.based_on_days) == (150.0, 2)
    assert few.low < 150 < few.high


def test_a_steadily_filling_disk_has_a_precise_forecast() -> None:
    samples = [(hour * 3600.0, 100 - hour / 24) for hour in range(240)]
    full = days_until_full(samples)
    assert full.days == pytest.approx(90, abs=0.2)
    # A large file for half a day hardly changes the forecast.
    jumped = [(at, free - 50 * (100 <= at // 3600 < 112)) for at, free in samples]
    assert days_until_full(jumped).days == pytest.approx(90, rel=0.05)
    assert days_until_full([(at, 100 + at) for at, _ in samples]).days is None
    assert days_until_full([(at, 100.0) for at, _ in samples]).days is None


def test_too_few_samples_give_no_forecast() -> None:
    assert days_until_full([]).days is None
    assert days_until_full([(0, 10.0), (60, 9.0), (120, 8.0)]).days is None


def test_noise_widens_the_interval() -> None:
    rng = random.Random(2)
    samples = [(day * DAY_S, 1000 - 10 * day + rng.gauss(0, 5)) for day in range(15)]
    full = days_until_full(samples)
    assert full.days is not None
    assert full.soonest is not None
    assert full.latest is not None
    assert full.soonest < full.days < full.latest
    assert full.days == pytest.approx(86, rel=0.1)
