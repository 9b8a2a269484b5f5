"""Probe of the broker: round-trip time, length of the work queue, size of the streams."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
import nats.errors
import nats.js.errors

from modelyard.bus.connection import Bus
from schemas import streams, subjects
from schemas.base import Record, model_name

PROBE_S = 5.0
STREAMS_EVERY = 6
"""Probes of the queue per probe of the streams."""
_TIMEOUT_S = 2


class StreamUsage(Record):
    """The content of a stream; `limit_bytes` is None where there is no limit."""

    messages: int
    stored_bytes: int
    limit_bytes: int | None = None


@dataclass
class BrokerHealth:
    """The result of the last probe."""

    round_trip_s: float | None = None
    """None before the first probe; while the broker does not answer, the time since its last answer."""
    reconnects: int = 0
    streams: Mapping[str, StreamUsage] = field(default_factory=dict)


class BrokerProbe:
    """Probes the broker as one of its clients."""

    def __init__(self, bus: Bus) -> None:
        self.health = BrokerHealth()
        self.queue: dict[tuple[str, str], int] = {}
        """Messages of the work queue, by model and lane."""
        self._bus = bus
        self._answered_at = time.monotonic()
        bus.on_reconnect(self._on_reconnect)

    def _on_reconnect(self) -> None:
        self.health.reconnects += 1

    async def run(self) -> None:
        probes = 0
        while True:
            try:
                await self._probe(with_streams=probes % STREAMS_EVERY == 0)
                probes += 1
            except (TimeoutError, nats.errors.Error, nats.js.errors.Error, msgspec.DecodeError):
                self.health.round_trip_s = time.monotonic() - self._answered_at
                self.queue = {}
            await asyncio.sleep(PROBE_S)

    async def _probe(self, *, with_streams: bool) -> None:
        started = time.perf_counter()
        await self._bus.nc.flush(timeout=_TIMEOUT_S)
        self.health.round_trip_s = time.perf_counter() - started
        self._answered_at = time.monotonic()
        info = await self._bus.js.stream_info(streams.INFER.name, subjects_filter=subjects.INFER.wildcard)
        self.queue = _by_model_and_lane(info.state.subjects or {})
        if with_streams:
            self.health.streams = {
                stream.name: await self._stream_usage(stream.name) for stream in streams.ALL
            }

    async def _stream_usage(self, name: str) -> StreamUsage:
        info = await self._bus.js.stream_info(name)
        limit = info.config.max_bytes
        return StreamUsage(
            messages=info.state.messages,
            stored_bytes=info.state.bytes,
            limit_bytes=limit if limit is not None and limit > 0 else None,
        )


def _by_model_and_lane(counts: dict[str, int]) -> dict[tuple[str, str], int]:
    """Sums over the keys: the queue has a subject per key, and metrics do not show keys."""
    queue: dict[tuple[str, str], int] = {}
    for subject, count in counts.items():
        tokens = subjects.INFER.parse(subject)
        lane = (model_name(tokens["model"]), tokens["lane"])
        queue[lane] = queue.get(lane, 0) + count
    return queue
