"""The usage database: the file with its writing and its reading thread, and the `usage` commands."""

import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
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
from services.monitor.price_book import PriceBook
from services.monitor.usage.reader import UsageReader
from services.monitor.usage.report import ResolvedFilter, records_page, resolve_filter, usage_report
from services.monitor.usage.store import UsageIncrement, UsageStore

log = logs.get(__name__)
P = ParamSpec("P")
T = TypeVar("T")

_REBUILD_BATCH = 1000
IncrementListener = Callable[[list[UsageIncrement]], Awaitable[None]]
"""Awaited with new usage after it is on disk."""


class UsageDatabase:
    """The file and its two threads: one writes, one reads, so that no query delays a write."""

    def __init__(
        self,
        bus: Bus,
        store: UsageStore,
        reader: UsageReader,
        threads: tuple[ThreadPoolExecutor, ThreadPoolExecutor],
        currency: str,
        resolve_name: Callable[[str], str],
    ) -> None:
        self.path = store.path
        self.tz = store.tz
        self.currency = currency
        self.new = store.new
        self.resolve_name = resolve_name
        """The name of a model, for its name or an alias."""
        self._bus = bus
        self._store = store
        self._reader = reader
        self._write_thread, self._read_thread = threads
        self._on_increment: list[IncrementListener] = []
        self._on_recount: list[Callable[[], Awaitable[None]]] = []
        self._session_start = session_start()
        self._rebuilding = False

    @classmethod
    async def open(
        cls,
        bus: Bus,
        path: Path,
        tz: ZoneInfo,
        price_book: Callable[[], PriceBook],
        currency: str,
        resolve_name: Callable[[str], str] = str,
    ) -> "UsageDatabase":
        """InternalError with a sentence if the file cannot be used."""
        loop = asyncio.get_running_loop()
        writing, reading = ThreadPoolExecutor(1, "usage"), ThreadPoolExecutor(1, "usage queries")
        try:
            store = await loop.run_in_executor(writing, UsageStore, path, tz, price_book)
            reader = await loop.run_in_executor(reading, UsageReader, path, tz)
        except sqlite3.Error as error:
            writing.shutdown(wait=False)
            reading.shutdown(wait=False)
            raise InternalError(
                f"The usage records in {path} cannot be opened: {error}. "
                "Move the file away: a new one is made from the events in the stream."
            ) from error
        return cls(bus, store, reader, (writing, reading), currency, resolve_name)

    def close(self) -> None:
        """Close the file once accepted calls are done; does not wait for them."""
        self._read_thread.submit(self._reader.close)
        self._read_thread.shutdown(wait=False)
        self._write_thread.submit(self._store.close)
        self._write_thread.shutdown(wait=False)

    def on_increment(self, listener: IncrementListener) -> None:
        self._on_increment.append(listener)

    def on_recount(self, listener: Callable[[], Awaitable[None]]) -> None:
        self._on_recount.append(listener)

    async def notify_recount(self) -> None:
        for listener in self._on_recount:
            await listener()

    async def write(self, call: Callable[Concatenate[UsageStore, P], T], *args: P.args, **_: P.kwargs) -> T:
        """Run `call` with the store, in its thread; it is completed even if the caller is cancelled."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._write_thread, call, self._store, *args)

    async def read(self, call: Callable[Concatenate[UsageReader, P], T], *args: P.args, **_: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._read_thread, call, self._reader, *args)

    async def store(self, records: list[RequestFinished]) -> None:
        await self.notify_increments(await self.write(lambda store: store.add(records)))

    async def notify_increments(self, increments: list[UsageIncrement]) -> None:
        for listener in self._on_increment if increments else ():
            await listener(increments)

    def resolve(self, query: UsageFilter) -> ResolvedFilter:
        """The filter as of now; BadRequest if its bounds contradict each other."""
        if query.model:
            query = msgspec.structs.replace(query, model=self.resolve_name(query.model))
        return resolve_filter(query, time.time(), self.tz, self._session_start)

    async def report(self, query: UsageQuery) -> UsageReport:
        resolved = self.resolve(query)

        def answer(reader: UsageReader) -> UsageReport:
            return usage_report(reader, query, resolved, now=time.time(), currency=self.currency)

        return await self.read(answer)

    async def records(self, query: RecordsQuery) -> RecordsPage:
        resolved = self.resolve(query)

        def answer(reader: UsageReader) -> RecordsPage:
            return records_page(reader, query, resolved, currency=self.currency)

        return await self.read(answer)

    async def rebuild(self, command: RebuildUsage) -> UsageRebuilt:
        """Answer `usage.rebuild`: add what is missing from the stream, then recompute all sums.

        Stored records keep their cost. A rebuild that dies can be repeated.
        """
        if self._rebuilding:
            raise Conflict("Usage is being rebuilt already.")
        self._rebuilding = True
        try:
            return await self._rebuild(command)
        finally:
            self._rebuilding = False

    async def _rebuild(self, command: RebuildUsage) -> UsageRebuilt:
        started_at, read, added = time.time(), 0, 0
        await self.write(UsageStore.begin_rebuild)
        async for batch in self._stored_records():
            read += len(batch)
            added += await self.write(UsageStore.rebuild_records, batch)
        discarded = await self.write(UsageStore.finish_rebuild, started_at if command.discard_older else None)
        count = await self.write(UsageStore.count)
        await self.notify_recount()
        log.info("usage_rebuilt", read=read, added=added, discarded=discarded, kept=count)
        return UsageRebuilt(read=read, added=added, discarded=discarded, kept=count)

    async def _stored_records(self) -> AsyncGenerator[list[RequestFinished], None]:
        batch: list[RequestFinished] = []
        async with aclosing(replay(self._bus, subjects.REQUEST_FINISHED, follow=False)) as messages:
            async for message in messages:
                batch.append(message.payload)
                if len(batch) >= _REBUILD_BATCH:
                    yield batch
                    batch = []
        if batch:
            yield batch


def session_start() -> float:
    """When the yard started: services are children of `yard up` or of a container's first process."""
    parent = psutil.Process(os.getppid()) if psutil.pid_exists(os.getppid()) else psutil.Process()
    return float(parent.create_time())
