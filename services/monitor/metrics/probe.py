"""Asking the broker how it is: how fast it answers, what waits in its queue, what its streams hold."""

import asyncio
import time

import msgspec
import nats.errors
import nats.js.errors

from modelyard.bus.connection import Bus
from schemas import streams, subjects
from schemas.base import model_name
from services.monitor.metrics.broker import BrokerHealth, KeptInStream

QUEUE_S = 5.0
STREAMS_EVERY = 6
"""Of the looks at the queue."""
_ANSWER_S = 2


class Probe:
    """What was seen last."""

    def __init__(self, bus: Bus) -> None:
        self.health = BrokerHealth()
        self.queue: dict[tuple[str, str], int] = {}
        self._bus = bus
        self._answered_at = time.monotonic()
        bus.on_reconnect(self._on_reconnect)

    def _on_reconnect(self) -> None:
        self.health.reconnects += 1

    async def run(self) -> None:
        """Look until cancelled."""
        looks = 0
        while True:
            try:
                await self._look(with_streams=looks % STREAMS_EVERY == 0)
                looks += 1
            except (TimeoutError, nats.errors.Error, nats.js.errors.Error, msgspec.DecodeError):
                self.health.round_trip_s = time.monotonic() - self._answered_at
                self.queue = {}
            await asyncio.sleep(QUEUE_S)

    async def _look(self, *, with_streams: bool) -> None:
        began = time.perf_counter()
        await self._bus.nc.flush(timeout=_ANSWER_S)
        self.health.round_trip_s = time.perf_counter() - began
        self._answered_at = time.monotonic()
        info = await self._bus.js.stream_info(streams.INFER.name, subjects_filter=subjects.INFER.wildcard)
        self.queue = _by_model_and_lane(info.state.subjects or {})
        if with_streams:
            self.health.streams = {one.name: await self._kept(one.name) for one in streams.ALL}

    async def _kept(self, name: str) -> KeptInStream:
        info = await self._bus.js.stream_info(name)
        limit = info.config.max_bytes
        return KeptInStream(
            messages=info.state.messages,
            stored_bytes=info.state.bytes,
            limit_bytes=limit if limit is not None and limit > 0 else None,
        )


def _by_model_and_lane(counts: dict[str, int]) -> dict[tuple[str, str], int]:
    """The queue has one subject a key; who asks is nobody's business here."""
    found: dict[tuple[str, str], int] = {}
    for subject, count in counts.items():
        tokens = subjects.INFER.parse(subject)
        place = (model_name(tokens["model"]), tokens["lane"])
        found[place] = found.get(place, 0) + count
    return found
