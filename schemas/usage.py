"""Usage queries and reports. Periods include their start and exclude their end."""

from enum import StrEnum

from schemas.base import Record
from schemas.requests import Lane, Outcome, RequestFinished


class Dimension(StrEnum):
    """A dimension to group usage by."""

    MODEL = "model"
    KEY = "key"
    """Id of the API key; `anyone` for requests without one."""
    MODE = "mode"
    NODE = "node"
    LANE = "lane"
    STATUS = "status"
    OUTCOME = "outcome"


class UsageStep(StrEnum):
    """The width of a bucket of time. Buckets begin on the clock of a time zone, weeks on Monday."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"


class Period(StrEnum):
    """A span of the calendar."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"


class UsageFilter(Record):
    """Filter of requests. None fields match everything."""

    since: float | None = None
    until: float | None = None
    last_s: float | None = None
    """Instead of `since`: this many seconds before now."""
    period: Period | None = None
    """Instead of `since`: from the start of the present day, week or month."""
    session: bool = False
    """Instead of `since`: from the start of the yard."""
    tz: str | None = None
    """The IANA time zone of `period` and of buckets; None: that of the setting YARD_TIME_ZONE."""
    model: str | None = None
    """Name or alias."""
    key: str | None = None
    mode: str | None = None
    node: str | None = None
    lane: Lane | None = None
    status: int | None = None
    outcome: Outcome | None = None


class UsageQuery(UsageFilter):
    """Filter and grouping of a usage report."""

    by: tuple[Dimension, ...] = (Dimension.MODEL,)
    step: UsageStep | None = None
    latency: bool = False
    """Whether to include latency percentiles."""
    recent: int = 0
    """Number of newest records to include."""


class Percentiles(Record):
    """Percentiles in milliseconds, accurate to 2.5 %; None without measurements."""

    p50_ms: float | None = None
    p90_ms: float | None = None
    p99_ms: float | None = None


class Latency(Record):
    """Latency of answers."""

    duration: Percentiles
    """From queued to the end."""
    first_token: Percentiles
    """From queued to the first byte of the answer."""


class UsageSums(Record):
    """Sums over some requests, and over the time that models were loaded."""

    requests: int = 0
    failed: int = 0
    cancelled: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Prompt tokens served from the cache."""
    completion_tokens: int = 0
    loaded_s: float = 0.0
    """Time that instances were ready; parallel instances add up."""
    energy_wh: float = 0.0
    """Energy of the devices of models that are priced by energy."""
    cost: str = "0"
    """A decimal number in the currency of the report."""
    latency: Latency | None = None


class UsageRow(UsageSums):
    """Sums of one group. Dimensions that are not grouped by are None."""

    at: float | None = None
    """Start of the time bucket, in unix seconds."""
    model: str | None = None
    key: str | None = None
    mode: str | None = None
    node: str | None = None
    lane: str | None = None
    status: int | None = None
    outcome: str | None = None


class UsageReport(Record):
    """Usage by group: in order of time, then most requests first. What has no requests has no row."""

    rows: tuple[UsageRow, ...]
    total: UsageSums
    tz: str
    currency: str
    since: float | None = None
    until: float | None = None
    buckets: tuple[float, ...] = ()
    """Start of every time bucket, empty ones included."""
    recent: tuple[RequestFinished, ...] = ()


class RecordsQuery(UsageFilter):
    """Single records, oldest first, in pages."""

    after: str | None = None
    """`next` of the previous page."""
    limit: int = 500


class PricedRequest(Record):
    """A usage record and what it cost when it was counted."""

    record: RequestFinished
    cost: str


class RecordsPage(Record):
    """Some records; the next page begins after `next`, unless that is None."""

    records: tuple[PricedRequest, ...]
    currency: str
    next: str | None = None


class RebuildUsage(Record):
    """Rebuild all sums from the usage records of the event stream."""

    discard_older: bool = False
    """Keep nothing that the stream does not hold any more."""


class UsageRebuilt(Record):
    """The result of a rebuild."""

    read: int
    """Records in the stream."""
    added: int
    """Records that were missing before."""
    discarded: int
    kept: int
    """Records after the rebuild."""


class UsageUnit(StrEnum):
    """The unit of a budget or forecast."""

    MONEY = "money"
    TOKENS = "tokens"
    REQUESTS = "requests"


class ForecastQuery(Record):
    """Forecast of a quantity for the end of a period."""

    unit: UsageUnit = UsageUnit.MONEY
    period: Period = Period.MONTH
    tz: str | None = None
    model: str | None = None
    key: str | None = None


class Forecast(Record):
    """A number for the end of a period, and between which numbers nine in ten such periods end."""

    so_far: float
    expected: float
    low: float
    high: float
    ends_at: float
    based_on_days: int
    """Complete days of history; below 7 the interval is unreliable."""
    method: str


class Report(Record):
    """A question worth asking again."""

    report: str
    """Its name."""
    query: UsageQuery
    title: str = ""


class PutReport(Report):
    """A report, new or in place of the one of its name."""

    revision: int | None = None
    """Compare-and-set: the revision that the caller saw; 0: none may exist yet."""


class ReportRef(Record):
    """Which report."""

    report: str


class ReportStored(Record):
    """The report is stored, or taken away."""

    report: str
    revision: int


class ListReports(Record):
    """All of them."""


class StoredReport(Record):
    """A report as stored."""

    report: Report
    revision: int


class ReportList(Record):
    """Reports by name."""

    reports: tuple[StoredReport, ...]
