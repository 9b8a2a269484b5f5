"""Messages of a stream by subject: data larger than a message, stored as parts; read and purged."""

import asyncio
import contextlib
from collections.abc import Iterable

import nats.errors

from modelyard.bus.connection import Bus
from schemas.streams import Stream
from schemas.subject import Subject

PART_BYTES = 1024 * 1024
_PARALLEL_READS = 16


async def store_parts(bus: Bus, subject: Subject[bytes], data: bytes, **tokens: str) -> int:
    """Store `data` on `subject`, whose token `part` counts from 0; the number of parts."""
    parts = [data[start : start + PART_BYTES] for start in range(0, len(data), PART_BYTES)]
    for number, part in enumerate(parts):
        await bus.js.publish(subject(part=str(number), **tokens), part)
    return len(parts)


async def read_parts(bus: Bus, stream: Stream, subject: Subject[bytes], parts: int, **tokens: str) -> bytes:
    """What `store_parts` stored."""
    subjects = (subject(part=str(part), **tokens) for part in range(parts))
    return b"".join(await read_messages(bus, stream, subjects))


async def read_messages(bus: Bus, stream: Stream, subjects: Iterable[str]) -> list[bytes]:
    """The last message on every subject, several at a time."""
    slots = asyncio.Semaphore(_PARALLEL_READS)

    async def read(subject: str) -> bytes:
        async with slots:
            msg = await bus.js.get_msg(stream.name, subject=subject, direct=True)
            return msg.data or b""

    return await asyncio.gather(*map(read, subjects))


async def purge(bus: Bus, stream: Stream, subject: str) -> None:
    """Delete the messages on `subject`; what cannot be deleted now expires."""
    with contextlib.suppress(TimeoutError, nats.errors.Error):
        await bus.js.purge_stream(stream.name, subject=subject)
