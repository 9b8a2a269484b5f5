"""The metrics history across restarts: archived in a stream every five minutes, restored by a new monitor."""

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
from services.monitor.metrics.event_counters import RequestConsumer, RequestCounters
from services.monitor.metrics.history import DAY_S, MetricsHistory
from services.monitor.metrics.ring_buffers import RESOLUTIONS
from services.monitor.metrics.samples import activity_samples, device_samples

log = logs.get(__name__)

CHUNK_S = RESOLUTIONS[-1].step_s
_ARCHIVED = RESOLUTIONS[:2]
"""The longest steps follow from those before."""
_TIMEOUT_S = 60.0
"""How long a restore may take; the history is incomplete if the broker is away for longer."""
_ERRORS = (TimeoutError, nats.errors.Error, nats.js.errors.Error)


class HistoryArchive:
    """Stores the history in the HISTORY stream."""

    def __init__(self, bus: Bus, history: MetricsHistory, node: str, started_at: float) -> None:
        self._bus = bus
        self._history = history
        self._node = node
        self._started_at = started_at
        """Samples of this node from then on are our own."""
        self._archived_until = 0
        """Unix seconds up to which the stream has the history."""

    async def restore(self, consumer: RequestConsumer, requests: RequestCounters) -> None:
        """Restore the last day from the archive, and what followed from the streams of samples and events."""
        now = time.time()
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                for resolution in reversed(_ARCHIVED):
                    await self._restore_chunks(resolution.step_s, max(now - resolution.span_s, now - DAY_S))
                since = max(float(self._archived_until), now - CHUNK_S)
                last_sampled_at = await self._replay_samples(since)
                await self._replay_requests(since, last_sampled_at, consumer, requests)
        except _ERRORS as error:
            log.warning("history_incomplete", error=str(error) or type(error).__name__)
        self._archived_until = self._archived_until or int(now // CHUNK_S) * CHUNK_S
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
                    log.warning("history_decode_failed", error=str(error))
                    continue
                self._history.restore(chunk)
                self._archived_until = max(self._archived_until, int(chunk.since) + CHUNK_S)

    async def _replay_samples(self, since: float) -> float:
        """Returns when the previous monitor, which did so every second, sampled its node last."""
        last_sampled_at = 0.0
        async with aclosing(replay(self._bus, subjects.DEVICE_METRIC, since=since, follow=False)) as devices:
            async for device in devices:
                self._history.add(device.stored_at, device_samples(device.payload))
                if device.payload.node == self._node and device.stored_at < self._started_at:
                    last_sampled_at = device.stored_at
        async with aclosing(replay(self._bus, subjects.INSTANCE_METRIC, since=since, follow=False)) as active:
            async for activity in active:
                self._history.add(activity.stored_at, activity_samples(activity.payload))
        return last_sampled_at

    async def _replay_requests(
        self, since: float, last_sampled_at: float, consumer: RequestConsumer, requests: RequestCounters
    ) -> None:
        """Replay counters as of every second in which one changed.

        With every finished request replayed, the counters continue. Otherwise they fall, which a scraper
        takes for a reset: so requests that the previous monitor counted are not counted again.
        """
        added_at = 0.0
        reset_done = not last_sampled_at or not await self._has_requests_before(since)

        def on_time(at: float) -> None:
            nonlocal added_at, reset_done
            if at > last_sampled_at and not reset_done:
                self._history.add(last_sampled_at, requests.samples(at))
                requests.reset()
                reset_done = True
            if at - added_at >= 1.0:
                self._history.add(at, requests.samples(at))
                added_at = at

        await consumer.catch_up(since, on_time)
        on_time(time.time())
        self._history.add(time.time(), requests.samples(time.time()))

    async def _has_requests_before(self, since: float) -> bool:
        wildcard = subjects.REQUEST_FINISHED.wildcard
        async with aclosing(
            stored_messages(self._bus, streams.EVENTS, wildcard, since=0.0, follow=False)
        ) as messages:
            async for msg in messages:
                return bool(msg.metadata.timestamp.timestamp() < since)
        return False

    async def run(self) -> None:
        """Archive every closed chunk of five minutes until cancelled."""
        while True:
            # A few seconds late, so that the last step is closed.
            due = self._archived_until + CHUNK_S + 2 * RESOLUTIONS[0].step_s
            await asyncio.sleep(max(due - time.time(), 1.0))
            until = int((time.time() - RESOLUTIONS[0].step_s) // CHUNK_S) * CHUNK_S
            if until <= self._archived_until:
                continue
            try:
                await self.store(max(self._archived_until, until - 12 * CHUNK_S), until)
                self._archived_until = until
            except _ERRORS as error:
                log.warning("history_store_failed", error=str(error) or type(error).__name__)
            self._history.remove_old(time.time())

    async def store(self, since: int, until: int) -> None:
        """Store the chunks of a period; idempotent."""
        for begin in range(since, until, CHUNK_S):
            for resolution in _ARCHIVED:
                for part, chunk in enumerate(self._history.chunks(resolution, begin, begin + CHUNK_S)):
                    await self._publish(resolution.step_s, f"{begin}-{part}", chunk)

    async def _publish(self, step_s: int, part: str, chunk: HistoryChunk) -> None:
        data = subjects.HISTORY.encode(chunk)
        self._bus.check(data)
        await self._bus.js.publish(subjects.HISTORY(step=str(step_s), part=part), data)
