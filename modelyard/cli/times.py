"""Moments as people write them: `24h` back from now, a day, or a day and a time."""

import argparse
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from modelyard.cli.text import duration

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo


class Moment(NamedTuple):
    """One of the two: so long ago, or this day and time."""

    ago_s: float | None
    at: datetime | None

    def timestamp(self, tz: str | None, now: float) -> float:
        """Unix seconds; what names no zone is meant in `tz`, or else in the yard's."""
        if self.at is None:
            return now - (self.ago_s or 0.0)
        return (self.at if self.at.tzinfo else self.at.replace(tzinfo=_zone(tz))).timestamp()


def moment(text: str) -> Moment:
    """`24h`, `2026-11-01` or `2026-11-01T08:00`; an argparse error for anything else."""
    try:
        return Moment(None, datetime.fromisoformat(text))
    except ValueError:
        pass
    try:
        return Moment(duration(text), None)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time; write 24h or 7d for so long ago, or a day like 2026-11-01"
        ) from None


def time_zone(text: str) -> str:
    """The name of a time zone; an argparse error if there is none of it."""
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        return ZoneInfo(text).key
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a time zone; it looks like Europe/Berlin"
        ) from None


def _zone(name: str | None) -> "ZoneInfo":
    from zoneinfo import ZoneInfo

    from modelyard.host.settings import load

    return ZoneInfo(name or load().time_zone)
