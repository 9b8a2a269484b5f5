"""What tests of usage share: records, and a store with a reader on it."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from schemas.prices import Price, PriceList
from schemas.requests import Lane, Outcome, RequestFinished
from schemas.usage import RecordsPage, RecordsQuery, UsageQuery, UsageReport
from services.monitor.costs.book import PriceBook
from services.monitor.usage import report
from services.monitor.usage.question import question
from services.monitor.usage.reader import UsageReader
from services.monitor.usage.store import UsageStore

UTC = ZoneInfo("UTC")


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


def book(**prices: Price) -> PriceBook:
    return PriceBook({model: PriceList(model=model, prices=(price,)) for model, price in prices.items()})


class Kept:
    """A file of usage, and questions to it."""

    def __init__(self, path: Path, tz: ZoneInfo = UTC, prices: PriceBook | None = None) -> None:
        self.path = path
        self.prices = prices or book()
        self.store = UsageStore(path, tz, lambda: self.prices)
        self.reader = UsageReader(path, tz)
        self._tz = tz

    def ask(self, **asked: Any) -> UsageReport:
        query, now = UsageQuery(**asked), time.time()
        return report.report(self.reader, query, question(query, now, self._tz, now), now=now, currency="EUR")

    def page(self, **asked: Any) -> RecordsPage:
        query, now = RecordsQuery(**asked), time.time()
        return report.records(self.reader, query, question(query, now, self._tz, now), currency="EUR")

    def requests(self, **asked: Any) -> dict[str | None, int]:
        return {row.model: row.requests for row in self.ask(**asked).rows}

    def close(self) -> None:
        self.reader.close()
        self.store.close()


@contextlib.contextmanager
def kept(path: Path, tz: ZoneInfo = UTC, prices: PriceBook | None = None) -> Iterator[Kept]:
    usage = Kept(path, tz, prices)
    yield usage
    usage.close()
