"""Lines of a process, and the search over them."""

from enum import IntEnum, StrEnum

from schemas.base import Record


class LogLine(Record, omit_defaults=True):
    """One line; `at` is when it was read, in unix seconds."""

    at: float
    text: str
    level: str | None = None
    """Level of a service's line; engines have no common format."""
    model: str | None = None
    """The model that a service's line is about."""


class LogBatch(Record):
    """Lines that came close together, in order."""

    model: str
    lines: tuple[LogLine, ...]


class ServiceLogBatch(Record):
    """Lines that a service logged within a second, in order."""

    lines: tuple[LogLine, ...]
    dropped: int = 0
    """Lines before these that were too many for the wire; the service's own file has them."""


class LogLevel(IntEnum):
    """Severity of a line; the minimum in a search."""

    DEBUG = 10
    INFO = 20
    WARNING = 30
    ERROR = 40


class LogOrder(StrEnum):
    """Which lines of a search come first."""

    OLDEST = "oldest"
    NEWEST = "newest"


class LogQuery(Record):
    """Which lines to find. What is None matches every line."""

    text: str | None = None
    """A substring of the line, ignoring case."""
    model: str | None = None
    node: str | None = None
    instance: str | None = None
    service: str | None = None
    level: LogLevel | None = None
    """Minimum severity. The level of an engine's line is derived from its words."""
    since: float | None = None
    """Unix seconds; lines from then on."""
    until: float | None = None
    """Lines before that."""


class MatchedLine(Record, omit_defaults=True):
    """A line, and whose it is."""

    at: float
    node: str
    text: str
    level: str
    source: str
    """Id of an instance, or the name of a service."""
    model: str | None = None


class LogPage(Record):
    """Some of the lines that match."""

    lines: tuple[MatchedLine, ...]
    cursor: str | None = None
    """Cursor of the next page; None: the end. A page may be short or empty and still have one."""
