"""Fetching a body that was too large for its message."""

import asyncio

import nats.errors
import nats.js.errors

from modelyard.bus.connection import Bus
from schemas import streams, subjects
from schemas.errors import EngineFailed

_AT_ONCE = 8


async def fetch_body(bus: Bus, request: str, parts: int) -> bytes:
    """The pieces in their order, as one; EngineFailed if one is not there any more."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def fetch(number: int) -> bytes:
        async with gate:
            subject = subjects.BODY(request=request, part=str(number))
            msg = await bus.js.get_msg(streams.BODIES.name, subject=subject, direct=True)
            return msg.data or b""

    try:
        return b"".join(await asyncio.gather(*(fetch(number) for number in range(parts))))
    except (TimeoutError, nats.errors.Error, nats.js.errors.Error) as error:
        raise EngineFailed(f"The body of the request could not be fetched: {error}.") from error
