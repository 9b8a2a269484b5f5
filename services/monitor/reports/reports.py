"""Reports: questions about usage that are kept under a name."""

from modelyard.bus import audit
from modelyard.bus.connection import Bus
from modelyard.bus.records import BucketCache, BucketStore
from modelyard.bus.tasks import Tasks
from schemas import buckets
from schemas.base import check_token
from schemas.errors import BadRequest, Conflict, NotFound
from schemas.usage import (
    ListReports,
    PutReport,
    Report,
    ReportList,
    ReportRef,
    ReportStored,
    StoredReport,
    UsageReport,
)
from services.monitor.usage.keeper import UsageKeeper


class Reports:
    """The bucket `reports` and its commands."""

    def __init__(self, bus: Bus, mirror: BucketCache[Report], usage: UsageKeeper) -> None:
        self._store = BucketStore(bus, buckets.REPORTS)
        self._mirror = mirror
        self._usage = usage

    @classmethod
    async def open(cls, bus: Bus, tasks: Tasks, usage: UsageKeeper) -> "Reports":
        return cls(bus, await BucketCache.start(bus, buckets.REPORTS, tasks), usage)

    async def put(self, asked: PutReport) -> ReportStored:
        """Keep a question, once it is known to make sense."""
        _check_name(asked.report)
        self._usage.question(asked.query)
        value, revision = await self._store.head(asked.report)
        if asked.revision is not None and asked.revision != (revision if value else 0):
            raise Conflict(
                f"The report {asked.report} was changed meanwhile; read it again.", param="revision"
            )
        report = Report(report=asked.report, query=asked.query, title=asked.title)
        stored = await self._store.put(asked.report, report, last=revision)
        audit.changed(f"report {asked.report}", value, report)
        return ReportStored(report=asked.report, revision=stored)

    async def get(self, ref: ReportRef) -> StoredReport:
        """One of them."""
        _check_name(ref.report)
        value, revision = await self._store.head(ref.report)
        if value is None:
            raise NotFound(f"There is no report {ref.report!r}.", param="report")
        return StoredReport(report=value, revision=revision)

    async def all(self, _wanted: ListReports) -> ReportList:
        """All of them."""
        found = sorted(self._mirror.values.items())
        return ReportList(
            reports=tuple(
                StoredReport(report=report, revision=self._mirror.revisions[name]) for name, report in found
            )
        )

    async def delete(self, ref: ReportRef) -> ReportStored:
        """Forget it."""
        there = await self.get(ref)
        stored = await self._store.delete(ref.report, last=there.revision)
        audit.changed(f"report {ref.report}", there.report, None)
        return ReportStored(report=ref.report, revision=stored)

    async def run(self, ref: ReportRef) -> UsageReport:
        """Ask it now."""
        return await self._usage.report((await self.get(ref)).report.query)


def _check_name(name: str) -> None:
    try:
        check_token(name)
    except ValueError as error:
        raise BadRequest(f"{error}.", param="report") from error
