"""Days, weeks and months of a time zone as unix seconds. Where clocks change, a day has 23 or 25 hours."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from schemas.errors import BadRequest
from schemas.usage import Period, UsageStep

_CLOCK_STEPS_S = {UsageStep.MINUTE: 60, UsageStep.HOUR: 3600}


def zone(name: str) -> ZoneInfo:
    """The IANA time zone of this name; BadRequest if there is none."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise BadRequest(
            f"There is no time zone {name!r}; it looks like Europe/Berlin.", param="tz"
        ) from None


@lru_cache(maxsize=4096)
def midnight(day: int, tz: ZoneInfo) -> float:
    """The start of a day (an ordinal of `date`). Where midnight is skipped, the first moment after it."""
    local = datetime.combine(date.fromordinal(day), time(), tz)
    return local.astimezone(UTC).timestamp()


def day_of(at: float, tz: ZoneInfo) -> int:
    return datetime.fromtimestamp(at, tz).toordinal()


def first_day(day: int, step: UsageStep | Period) -> int:
    """The first day of the week or month that contains `day`; `day` itself for days."""
    if step == "week":
        return day - date.fromordinal(day).weekday()
    if step == "month":
        return date.fromordinal(day).replace(day=1).toordinal()
    return day


def next_first_day(day: int, step: UsageStep | Period) -> int:
    """The first day of the next day, week or month; `day` is a first day."""
    if step == "month":
        return (date.fromordinal(day) + timedelta(days=32)).replace(day=1).toordinal()
    return day + (7 if step == "week" else 1)


def period_of(at: float, period: Period, tz: ZoneInfo) -> tuple[float, float]:
    first = first_day(day_of(at, tz), period)
    return midnight(first, tz), midnight(next_first_day(first, period), tz)


def buckets(start: float, end: float, step: UsageStep, tz: ZoneInfo) -> Iterator[tuple[float, float]]:
    """The whole buckets that intersect `start` to `end`, in order."""
    if step in _CLOCK_STEPS_S:
        yield from _clock_buckets(start, end, _CLOCK_STEPS_S[step], tz)
        return
    first = first_day(day_of(start, tz), step)
    while (begin := midnight(first, tz)) < end:
        first = next_first_day(first, step)
        yield begin, midnight(first, tz)


def _clock_buckets(start: float, end: float, width_s: int, tz: ZoneInfo) -> Iterator[tuple[float, float]]:
    at = start - (start + _offset_s(start, tz)) % width_s
    while at < end:
        after = at + width_s
        # Where the clock moves by part of an hour, the bucket extends to the next full one.
        if moved := (after + _offset_s(after, tz)) % width_s:
            after += width_s - moved
        yield at, after
        at = after


def _offset_s(at: float, tz: ZoneInfo) -> float:
    offset = datetime.fromtimestamp(at, tz).utcoffset()
    return offset.total_seconds() if offset else 0.0
