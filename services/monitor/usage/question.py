"""What a filter means: its bounds in time, and which series it takes. Pure."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from schemas.errors import BadRequest
from schemas.requests import ANYONE
from schemas.usage import UsageFilter
from services.monitor.calendar import period_of, zone
from services.monitor.usage.levels import END, START
from services.monitor.usage.series import Series

_MATCHED = ("model", "key", "mode", "node", "lane", "status", "outcome")


@dataclass(frozen=True)
class Question:
    """A filter at one moment."""

    start: float
    end: float
    tz: ZoneInfo
    wanted: Mapping[str, object]
    """Values that series must have, by field."""

    def takes(self, series: Series) -> bool:
        """Whether a series is asked about."""
        return all(getattr(series, name) == value for name, value in self.wanted.items())

    def numbers(self, table: Mapping[int, Series]) -> Collection[int] | None:
        """The series asked about; None: all of them."""
        if not self.wanted:
            return None
        return [number for number, series in table.items() if self.takes(series)]


def question(asked: UsageFilter, now: float, tz: ZoneInfo, session_began: float) -> Question:
    """BadRequest if the bounds contradict each other; `tz` is the yard's own."""
    used = tz if asked.tz is None else zone(asked.tz)
    wanted = {name: getattr(asked, name) for name in _MATCHED if getattr(asked, name) is not None}
    if wanted.get("key") == "":
        wanted["key"] = ANYONE
    return Question(_start(asked, now, used, session_began), _bound(asked.until, "until", END), used, wanted)


def _start(asked: UsageFilter, now: float, tz: ZoneInfo, session_began: float) -> float:
    ways = [asked.since is not None, asked.last_s is not None, asked.period is not None, asked.session]
    if sum(ways) > 1:
        raise BadRequest("Give one of since, last_s, period and session, not several.", param="since")
    if asked.last_s is not None:
        if not 0 < asked.last_s < END:
            raise BadRequest("`last_s` must be a number of seconds above 0.", param="last_s")
        return max(START, now - asked.last_s)
    if asked.period is not None:
        return period_of(now, asked.period, tz)[0]
    return session_began if asked.session else _bound(asked.since, "since", START)


def _bound(at: float | None, name: str, default: float) -> float:
    if at is None:
        return default
    if not -END < at <= END * 10:
        raise BadRequest(f"`{name}` must be a time in unix seconds.", param=name)
    return min(max(at, START), END)
