"""Reports: usage queries that are stored under a name."""

from modelyard.bus.connection import Bus
from modelyard.bus.records import Records
from modelyard.bus.tasks import Tasks
from schemas import buckets
from schemas.base import check_token
from schemas.errors import BadRequest, NotFound
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
from services.monitor.usage.database import UsageDatabase


class Reports:
    """The bucket `reports` and the `report` commands."""

    def __init__(self, records: Records[Report], usage: UsageDatabase) -> None:
        self._records = records
        self._usage = usage

    @classmethod
    async def open(cls, bus: Bus, tasks: Tasks, usage: UsageDatabase) -> "Reports":
        return cls(await Records.start(bus, buckets.REPORTS, tasks, "report"), usage)

    async def put(self, command: PutReport) -> ReportStored:
        """Store a query; BadRequest if it is invalid."""
        _check_name(command.report)
        self._usage.resolve(command.query)
        report = Report(report=command.report, query=command.query, title=command.title)
        revision = await self._records.put(command.report, report, expected=command.revision)
        return ReportStored(report=command.report, revision=revision)

    async def get(self, ref: ReportRef) -> StoredReport:
        _check_name(ref.report)
        head = await self._records.head(ref.report)
        if head.value is None:
            raise NotFound(f"There is no report {ref.report!r}.", param="report")
        return StoredReport(report=head.value, revision=head.revision)

    async def list(self, _query: ListReports) -> ReportList:
        return ReportList(
            reports=tuple(
                StoredReport(report=report, revision=self._records.revision(name))
                for name, report in sorted(self._records.values.items())
            )
        )

    async def delete(self, ref: ReportRef) -> ReportStored:
        stored = await self.get(ref)
        revision = await self._records.delete(ref.report, expected=stored.revision)
        return ReportStored(report=ref.report, revision=revision)

    async def run(self, ref: ReportRef) -> UsageReport:
        return await self._usage.report((await self.get(ref)).report.query)


def _check_name(name: str) -> None:
    try:
        check_token(name)
    except ValueError as error:
        raise BadRequest(f"{error}.", param="report") from error
