"""The history across restarts: every five minutes it goes into a stream, and a new monitor takes it back."""

import asyncio
import time
from contextlib import aclosing

import msgspec
import nats.errors
import nats.js.errors

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.bus.reads import replay, stored_messages
from schemas import streams, subjects
from schemas.metrics import HistoryChunk
from services.monitor.metrics.devices import device_samples
from services.monitor.metrics.ended import Ended
from services.monitor.metrics.history import DAY_S, History
from services.monitor.metrics.instances import activity_samples
from services.monitor.metrics.requests import Requests
from services.monitor.metrics.rings import LEVELS

log = logs.get(__name__)

CHUNK_S = LEVELS[-1].step_s
_TOLD_LEVELS = LEVELS[:2]
"""The longest steps follow from those before."""
_TIMEOUT_S = 60.0
"""How long a start waits for what was; a broker that is away then costs that history."""
_ERRORS = (TimeoutError, nats.errors.Error, nats.js.errors.Error)


class Past:
    """Keeps the history in the HISTORY stream."""

    def __init__(self, bus: Bus, history: History, node: str, began_at: float) -> None:
        self._bus = bus
        self._history = history
        self._node = node
        self._began_at = began_at
        """What was sampled from then on, we sampled ourselves."""
        self._told_until = 0
        """Unix seconds up to which the stream has it."""

    async def restore(self, ended: Ended, requests: Requests) -> None:
        """Take back the last day: what was thinned, and then the samples since."""
        now = time.time()
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                for level in reversed(_TOLD_LEVELS):
                    await self._restore_chunks(level.step_s, max(now - level.span_s, now - DAY_S))
                since = max(float(self._told_until), now - CHUNK_S)
                there_until = await self._replay_samples(since)
                await self._replay_requests(since, there_until, ended, requests)
        except _ERRORS as error:
            log.warning("history_not_whole", error=str(error) or type(error).__name__)
        self._told_until = self._told_until or int(now // CHUNK_S) * CHUNK_S
        log.info("history_restored", series=len(self._history), took_s=round(time.time() - now, 2))

    async def _restore_chunks(self, step_s: int, since: float) -> None:
        wildcard = subjects.HISTORY.matching(step=str(step_s))
        async with aclosing(
            stored_messages(self._bus, streams.HISTORY, wildcard, since=since, follow=False)
        ) as messages:
            async for msg in messages:
                try:
                    chunk = subjects.HISTORY.decode(msg.data)
                except msgspec.DecodeError as error:
                    log.warning("history_not_understood", error=str(error))
                    continue
                self._history.restore(chunk)
                self._told_until = max(self._told_until, int(chunk.since) + CHUNK_S)

    async def _replay_samples(self, since: float) -> float:
        """Until when the monitor before us was there: it told of its machine once a second."""
        there_until = 0.0
        async with aclosing(replay(self._bus, subjects.DEVICE_METRIC, since=since, follow=False)) as devices:
            async for device in devices:
                self._history.observe(device.stored_at, device_samples(device.payload))
                if device.payload.node == self._node and device.stored_at < self._began_at:
                    there_until = device.stored_at
        async with aclosing(replay(self._bus, subjects.INSTANCE_METRIC, since=since, follow=False)) as active:
            async for activity in active:
                self._history.observe(activity.stored_at, activity_samples(activity.payload))
        return there_until

    async def _replay_requests(
        self, since: float, there_until: float, ended: Ended, requests: Requests
    ) -> None:
        """Counters as they stood at every second at which one changed.

        Where all that ever ended is replayed, they go on. Else they fall, and who scrapes takes that for a
        new beginning and adds all of it: then what the monitor before us counted is not counted again.
        """
        told_at, anew = 0.0, not there_until or not await self._has_requests_before(since)

        def before(at: float) -> None:
            nonlocal told_at, anew
            if at > there_until and not anew:
                self._history.observe(there_until, requests.samples(at))
                requests.begin_anew()
                anew = True
            if at - told_at >= 1.0:
                self._history.observe(at, requests.samples(at))
                told_at = at

        await ended.catch_up(since, before)
        before(time.time())
        self._history.observe(time.time(), requests.samples(time.time()))

    async def _has_requests_before(self, since: float) -> bool:
        wildcard = subjects.REQUEST_FINISHED.wildcard
        async with aclosing(
            stored_messages(self._bus, streams.EVENTS, wildcard, since=0.0, follow=False)
        ) as messages:
            async for msg in messages:
                return bool(msg.metadata.timestamp.timestamp() < since)
        return False

    async def keep(self) -> None:
        """Tell the stream every closed stretch of five minutes, until cancelled."""
        while True:
            # A few seconds late, so that the last step is closed.
            due = self._told_until + CHUNK_S + 2 * LEVELS[0].step_s
            await asyncio.sleep(max(due - time.time(), 1.0))
            until = int((time.time() - LEVELS[0].step_s) // CHUNK_S) * CHUNK_S
            if until <= self._told_until:
                continue
            try:
                await self.tell(max(self._told_until, until - 12 * CHUNK_S), until)
                self._told_until = until
            except _ERRORS as error:
                log.warning("history_not_stored", error=str(error) or type(error).__name__)
            self._history.forget_old(time.time())

    async def tell(self, since: int, until: int) -> None:
        """A stretch that was told already and is told again does no harm."""
        for begin in range(since, until, CHUNK_S):
            for level in _TOLD_LEVELS:
                for part, chunk in enumerate(self._history.chunk(level, begin, begin + CHUNK_S)):
                    await self._store(level.step_s, f"{begin}-{part}", chunk)

    async def _store(self, step_s: int, part: str, chunk: HistoryChunk) -> None:
        data = subjects.HISTORY.encode(chunk)
        self._bus.check(data)
        await self._bus.js.publish(subjects.HISTORY(step=str(step_s), part=part), data)
