"""Factories of usage tests: records, prices, and a usage file with a store and a reader."""

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from schemas.prices import Price, PriceList, PriceTier, PricingMethod
from schemas.requests import Lane, Outcome, RequestFinished
from schemas.usage import RecordsPage, RecordsQuery, UsageQuery, UsageReport
from services.monitor.price_book import PriceBook
from services.monitor.usage.reader import UsageReader
from services.monitor.usage.report import records_page, resolve_filter, usage_report
from services.monitor.usage.schema import SUM_COLUMNS
from services.monitor.usage.store import UsageStore

UTC = ZoneInfo("UTC")
DAY_S = 86400.0
CHEAP = Price(tiers=(PriceTier(input=Decimal("0.000001"), output=Decimal("3")),))
DEAR = Price(tiers=(PriceTier(input=Decimal("2"), output=Decimal("0.7")),))
HOURLY = Price(method=PricingMethod.HOURLY, per_hour=Decimal("3.6"))


def record(request: str, model: str = "a", finished_at: float = 10.0, **changes: Any) -> RequestFinished:
    values: dict[str, Any] = {
        "lane": Lane.INTERACTIVE,
        "path": "/v1/chat/completions",
        "stream": True,
        "outcome": Outcome.OK,
        "status": 200,
        "queued_at": finished_at - 1,
        "prompt_tokens": 7,
        "cached_tokens": 3,
        "completion_tokens": 5,
        **changes,
    }
    return RequestFinished(request=request, model=model, finished_at=finished_at, **values)


def price_book(**prices: Price) -> PriceBook:
    return PriceBook({model: PriceList(model=model, prices=(price,)) for model, price in prices.items()})


class UsageFile:
    """A usage file with a store and a reader, and queries of it."""

    def __init__(self, path: Path, tz: ZoneInfo = UTC, prices: PriceBook | None = None) -> None:
        self.path = path
        self.prices = prices or price_book()
        self.store = UsageStore(path, tz, lambda: self.prices)
        self.reader = UsageReader(path, tz)
        self._tz = tz

    def report(self, **fields: Any) -> UsageReport:
        query, now = UsageQuery(**fields), time.time()
        resolved = resolve_filter(query, now, self._tz, now)
        return usage_report(self.reader, query, resolved, now=now, currency="EUR")

    def page(self, **fields: Any) -> RecordsPage:
        query, now = RecordsQuery(**fields), time.time()
        return records_page(self.reader, query, resolve_filter(query, now, self._tz, now), currency="EUR")

    def requests(self, **fields: Any) -> dict[str | None, int]:
        return {row.model: row.requests for row in self.report(**fields).rows}

    async def write(self, call: Any, *arguments: Any) -> Any:
        """As UsageDatabase, in this thread."""
        return call(self.store, *arguments)

    async def notify_recount(self) -> None:
        return None

    def close(self) -> None:
        self.reader.close()
        self.store.close()


@contextlib.contextmanager
def usage_file(path: Path, tz: ZoneInfo = UTC, prices: PriceBook | None = None) -> Iterator[UsageFile]:
    usage = UsageFile(path, tz, prices)
    yield usage
    usage.close()


def stored_sums(path: Path) -> list[list[tuple[object, ...]]]:
    """The rows of the plain sums and latencies."""
    db = sqlite3.connect(path)
    tables = [
        db.execute(f"SELECT {unit}, series, {', '.join(SUM_COLUMNS)} FROM {table} ORDER BY 1, 2").fetchall()
        for table, unit in (("quarters", "quarter"), ("days", "day"))
    ]
    tables.append(db.execute("SELECT * FROM latencies ORDER BY 1, 2, 3, 4").fetchall())
    db.close()
    return tables
