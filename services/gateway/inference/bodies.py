"""Bodies too large for one message: they lie in a stream of the broker until their request has ended."""

import contextlib

import nats.errors
import nats.js.errors

from modelyard.bus.connection import Bus
from schemas import streams, subjects
from schemas.errors import BodyTooLarge, BrokerUnavailable

MAX_BODY_BYTES = 100 * 1024 * 1024
"""What a request may bring, pictures and all."""
PART_BYTES = 1024 * 1024


async def store_body(bus: Bus, request: str, body: bytes) -> int:
    """Store a body in pieces, and return how many they are."""
    if len(body) > MAX_BODY_BYTES:
        raise BodyTooLarge(f"The body has {len(body)} bytes; at most {MAX_BODY_BYTES} are taken.")
    parts = [body[start : start + PART_BYTES] for start in range(0, len(body), PART_BYTES)]
    try:
        for number, part in enumerate(parts):
            await bus.js.publish(subjects.BODY(request=request, part=str(number)), part)
    except (TimeoutError, nats.errors.Error, nats.js.errors.Error) as error:
        raise BrokerUnavailable("The broker did not take the body; try again in a moment.") from error
    return len(parts)


async def forget_body(bus: Bus, request: str) -> None:
    """The request has ended. What cannot be purged now goes with age."""
    with contextlib.suppress(TimeoutError, nats.errors.Error, nats.js.errors.Error):
        await bus.js.purge_stream(streams.BODIES.name, subject=f"yard.body.{request}.>")
