"""What an engine prints, on the wire in batches."""

import asyncio

import msgspec

from modelyard.bus.connection import Bus
from schemas.errors import BrokerUnavailable
from schemas.instances import Instance
from schemas.logs import LogBatch, LogLine
from schemas.subjects import INSTANCE_LOG
from services.supervisor.runner.engine_process import EngineProcess

EVERY_S = 0.2
MAX_LINES = 500
"""More in one batch than this are left to the file: a flood must not fill the broker."""
_FRAME_BYTES = 512
"""What a batch has beside its lines."""


async def publish_lines(bus: Bus, engine: EngineProcess, instance: Instance) -> None:
    """Publish what comes until cancelled."""
    while True:
        await asyncio.sleep(EVERY_S)
        await flush_lines(bus, engine, instance)


async def flush_lines(bus: Bus, engine: EngineProcess, instance: Instance) -> None:
    """Publish what has not been published yet; while the broker is away it waits, up to a batch."""
    lines, engine.pending_lines[:] = engine.pending_lines[-MAX_LINES:], []
    if not lines:
        return
    try:
        batch = LogBatch(model=instance.model, lines=fitting(lines, bus.max_body_bytes))
        await bus.publish(INSTANCE_LOG, batch, node=instance.node, instance=instance.instance)
    except BrokerUnavailable:
        engine.pending_lines[:0] = lines


def fitting(lines: list[LogLine], most_bytes: int) -> tuple[LogLine, ...]:
    """The last of them that fit one message; brokers of other people may take little."""
    while lines and len(msgspec.json.encode(lines)) > most_bytes - _FRAME_BYTES:
        lines = lines[len(lines) // 2 + 1 :]
    return tuple(lines)
