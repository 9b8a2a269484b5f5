"""Usage, complete whatever dies: a durable consumer whose records are acknowledged once they are on disk."""

import asyncio
import sqlite3
from pathlib import Path

import nats.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext, api

from modelyard import logging
from modelyard.bus import Bus
from schemas import streams, subjects
from schemas.errors import BadRequest, BrokerUnavailable, InternalError
from schemas.requests import RequestFinished, UsageQuery, UsageReport
from services.monitor.thread import OwnThread
from services.monitor.usage_store import UsageStore

log = logging.get(__name__)

CONSUMER = "monitor-usage"
BATCH = 256
MAX_RECENT = 1000
_FETCH_S = 2.0
"""A restart of the broker loses the pull under way, which then ends only by this."""
_ACK_WAIT_S = 5.0
"""After this the broker gives again what a killed monitor had in its hands; a commit takes milliseconds."""
_AGAIN_S = 1.0
"""When to give again what the disk did not take."""
_GATHER_S = 0.1
"""A fetch brings what is there already, often one: between two, a few may gather for one transaction."""
_RETRY_PAUSE_S = 0.5


class UsageKeeper:
    """Folds finished requests into the store and answers for them."""

    def __init__(self, bus: Bus, store: UsageStore, thread: OwnThread) -> None:
        self._bus = bus
        self._store = store
        self._thread = thread
        self._interrupted = False

    @classmethod
    async def open(cls, bus: Bus, path: Path) -> "UsageKeeper":
        """InternalError with a sentence if the file cannot be used."""
        thread = OwnThread("usage")
        try:
            return cls(bus, await thread.run(UsageStore, path), thread)
        except sqlite3.Error as error:
            thread.end()
            raise InternalError(f"The usage records in {path} cannot be opened: {error}.") from error

    async def report(self, query: UsageQuery) -> UsageReport:
        """Answer `usage.query`."""
        if not 0 <= query.recent <= MAX_RECENT:
            raise BadRequest(f"`recent` must be from 0 to {MAX_RECENT}.", param="recent")
        return await self._thread.run(self._store.report, query)

    async def run(self) -> None:
        """Fold until cancelled, through outages of the broker and of the disk."""
        try:
            while True:
                await self._follow_or_log()
                await asyncio.sleep(_RETRY_PAUSE_S)
        finally:
            self._thread.end(self._store.close)

    async def _follow_or_log(self) -> None:
        try:
            await self._follow()
        except (TimeoutError, nats.errors.Error, BrokerUnavailable) as error:
            if not self._interrupted:
                log.warning("usage_interrupted", reason=str(error) or type(error).__name__)
            self._interrupted = True
        except Exception:
            # A full disk, say. What was not stored was not acknowledged, so it comes again.
            log.exception("usage_not_stored")

    async def _follow(self) -> None:
        """Until the broker is away or something fails; the consumer is made where it is missing."""
        self._bus.check(b"")
        await self._bus.js.add_consumer(streams.EVENTS.name, _consumer())
        pull = await self._bus.js.pull_subscribe_bind(CONSUMER, streams.EVENTS.name)
        try:
            while self._bus.connected:
                if messages := await _fetch(pull):
                    await self._fold(messages)
                    await asyncio.sleep(_GATHER_S)
                if self._interrupted:
                    log.info("usage_goes_on")
                    self._interrupted = False
        finally:
            if not self._bus.nc.is_closed:
                await pull.unsubscribe()

    async def _fold(self, messages: list[Msg]) -> None:
        """Store, then acknowledge: dying in between makes duplicates, which the store ignores."""
        records: list[RequestFinished] = []
        understood: list[Msg] = []
        for msg in messages:
            try:
                records.append(subjects.REQUEST_FINISHED.decode(msg.data))
                understood.append(msg)
            except (ValueError, RecursionError) as error:
                log.warning("usage_not_understood", subject=msg.subject, error=str(error))
                await msg.term()
        if understood:
            await self._store_and_answer(records, understood)

    async def _store_and_answer(self, records: list[RequestFinished], messages: list[Msg]) -> None:
        try:
            await self._thread.run(self._store.add, records)
        except Exception:
            for msg in messages:
                await msg.nak(delay=_AGAIN_S)
            raise
        for msg in messages:
            await msg.ack()


def _consumer() -> api.ConsumerConfig:
    return api.ConsumerConfig(
        name=CONSUMER,
        durable_name=CONSUMER,
        filter_subject=subjects.REQUEST_FINISHED.wildcard,
        ack_policy=api.AckPolicy.EXPLICIT,
        ack_wait=_ACK_WAIT_S,
        max_ack_pending=4 * BATCH,
    )


async def _fetch(pull: JetStreamContext.PullSubscription) -> list[Msg]:
    """What there is, or what comes first; nothing after a while."""
    try:
        return await pull.fetch(BATCH, timeout=_FETCH_S)
    except TimeoutError:
        return []
