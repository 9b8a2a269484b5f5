"""Joins two connections: bytes pass both ways until one side ends."""

import asyncio
import contextlib
import socket

from modelyard.bus.tasks import first_of

_READ_BYTES = 256 * 1024
BUFFER_BYTES = 1024 * 1024
"""The read-ahead of a connection."""

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def pipe(left: Connection, right: Connection) -> None:
    """Copy both ways until either side ends; both are closed then."""
    for _, writer in (left, right):
        _set_no_delay(writer)
    copying = [asyncio.create_task(_copy(left[0], right[1])), asyncio.create_task(_copy(right[0], left[1]))]
    try:
        # The end of one direction ends both: llama.cpp never half-closes a connection.
        await first_of(*copying)
    finally:
        # Closed before the first await: a cancellation meanwhile must not leave a side open.
        for task, (_, writer) in zip(copying, (left, right), strict=True):
            task.cancel()
            writer.close()
        await asyncio.gather(*copying, return_exceptions=True)
        for _, writer in (left, right):
            await shut(writer)


async def shut(writer: asyncio.StreamWriter) -> None:
    """Close in any state."""
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def _set_no_delay(writer: asyncio.StreamWriter) -> None:
    """Small messages are sent at once: each token takes several round trips."""
    connection = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_READ_BYTES):
            writer.write(data)
            await writer.drain()
