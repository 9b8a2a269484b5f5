"""Usage: what finishes is folded into the store and announced to who keeps totals; questions are answered."""

import os
import sqlite3
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar
from zoneinfo import ZoneInfo

import msgspec
import psutil

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.bus.reads import replay
from schemas import subjects
from schemas.errors import Conflict, InternalError
from schemas.requests import RequestFinished
from schemas.usage import (
    RebuildUsage,
    RecordsPage,
    RecordsQuery,
    UsageFilter,
    UsageQuery,
    UsageRebuilt,
    UsageReport,
)
from services.monitor.costs.book import PriceBook
from services.monitor.thread import OwnThread
from services.monitor.usage import rebuild, report
from services.monitor.usage.question import Question, question
from services.monitor.usage.reader import UsageReader
from services.monitor.usage.store import Counted, UsageStore

log = logs.get(__name__)
P = ParamSpec("P")
T = TypeVar("T")

_REBUILD_BATCH = 1000
Told = Callable[[list[Counted]], Awaitable[None]]
"""Hears of what was counted, after it is on disk."""


class UsageKeeper:
    """The file and its two threads: one writes, one reads, so that no question keeps records waiting."""

    def __init__(
        self,
        bus: Bus,
        store: UsageStore,
        reader: UsageReader,
        writing: OwnThread,
        reading: OwnThread,
        currency: str,
    ) -> None:
        self.path = store.path
        self.tz = store.tz
        self.currency = currency
        self.new = store.new
        self._bus = bus
        self._store = store
        self._reader = reader
        self._writing = writing
        self._reading = reading
        self._told: list[Told] = []
        self._recounted: list[Callable[[], Awaitable[None]]] = []
        self._names: Callable[[str], str] = str
        self._session_began = session_began()
        self._rebuilding = False

    @classmethod
    async def open(
        cls, bus: Bus, path: Path, tz: ZoneInfo, book: Callable[[], PriceBook], currency: str
    ) -> "UsageKeeper":
        """InternalError with a sentence if the file cannot be used."""
        writing, reading = OwnThread("usage"), OwnThread("usage queries")
        try:
            store = await writing.run(UsageStore, path, tz, book)
            reader = await reading.run(UsageReader, path, tz)
        except sqlite3.Error as error:
            writing.end()
            reading.end()
            raise InternalError(
                f"The usage records in {path} cannot be opened: {error}. "
                "Moved away, the file is made anew from what the event stream holds."
            ) from error
        return cls(bus, store, reader, writing, reading, currency)

    def close(self) -> None:
        """Leave the file whole once what was begun is done."""
        self._reading.end(self._reader.close)
        self._writing.end(self._store.close)

    def listen(self, told: Told) -> None:
        """Await `told` after everything that is counted."""
        self._told.append(told)

    def listen_recounted(self, told: Callable[[], Awaitable[None]]) -> None:
        """Await `told` after the past itself was changed."""
        self._recounted.append(told)

    async def tell_recounted(self) -> None:
        """The past is another now."""
        for told in self._recounted:
            await told()

    def know_names(self, names: Callable[[str], str]) -> None:
        """`names` turns an alias of a model into its name."""
        self._names = names

    def name_of(self, model: str) -> str:
        """The model's own name, for its name or an alias."""
        return self._names(model)

    async def write(self, call: Callable[Concatenate[UsageStore, P], T], *args: P.args, **_: P.kwargs) -> T:
        """Do something with the store, in its thread."""
        return await self._writing.run(call, self._store, *args)

    async def read(self, call: Callable[Concatenate[UsageReader, P], T], *args: P.args, **_: P.kwargs) -> T:
        """Ask the reader something, in its thread."""
        return await self._reading.run(call, self._reader, *args)

    async def take(self, records: list[RequestFinished]) -> None:
        """Store what finished, then tell of it."""
        await self.tell(await self._writing.run(self._store.add, records))

    async def tell(self, counted: list[Counted]) -> None:
        """Tell those who keep totals of what was counted just now."""
        for told in self._told if counted else ():
            await told(counted)

    def question(self, asked: UsageFilter) -> Question:
        """What a filter means now."""
        named = msgspec.structs.replace(asked, model=self._names(asked.model)) if asked.model else asked
        return question(named, time.time(), self.tz, self._session_began)

    async def report(self, query: UsageQuery) -> UsageReport:
        """Answer `usage.query`."""
        asked = self.question(query)

        def answer(reader: UsageReader) -> UsageReport:
            return report.report(reader, query, asked, now=time.time(), currency=self.currency)

        return await self.read(answer)

    async def records(self, query: RecordsQuery) -> RecordsPage:
        """Answer `usage.records`."""
        asked = self.question(query)

        def answer(reader: UsageReader) -> RecordsPage:
            return report.records(reader, query, asked, currency=self.currency)

        return await self.read(answer)

    async def rebuild(self, asked: RebuildUsage) -> UsageRebuilt:
        """Answer `usage.rebuild`: everything the stream holds once more, then all sums anew."""
        if self._rebuilding:
            raise Conflict("Usage is being rebuilt already.")
        self._rebuilding = True
        try:
            return await self._rebuild(asked)
        finally:
            self._rebuilding = False

    async def _rebuild(self, asked: RebuildUsage) -> UsageRebuilt:
        began, read, added = time.time(), 0, 0
        await self.write(rebuild.begin)
        async for batch in self._stream():
            read += len(batch)
            added += await self.write(rebuild.add, batch)
        discarded = await self.write(rebuild.finish, began if asked.discard_older else None)
        kept = await self.write(rebuild.count)
        await self.tell_recounted()
        log.info("usage_rebuilt", read=read, added=added, discarded=discarded, kept=kept)
        return UsageRebuilt(read=read, added=added, discarded=discarded, kept=kept)

    async def _stream(self) -> AsyncGenerator[list[RequestFinished], None]:
        batch: list[RequestFinished] = []
        async with aclosing(replay(self._bus, subjects.REQUEST_FINISHED, follow=False)) as messages:
            async for message in messages:
                batch.append(message.payload)
                if len(batch) >= _REBUILD_BATCH:
                    yield batch
                    batch = []
        if batch:
            yield batch


def session_began() -> float:
    """Since when the yard is up: services are children of `yard up`, or of a container's first process."""
    parent = psutil.Process(os.getppid()) if psutil.pid_exists(os.getppid()) else psutil.Process()
    return float(parent.create_time())
