"""Two connections made one: bytes pass both ways until one side ends."""

import asyncio
import contextlib
import socket

_READ_BYTES = 256 * 1024
BUFFER_BYTES = 1024 * 1024
"""What a connection reads ahead."""

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def pipe(one: Ends, other: Ends) -> None:
    """Pass on what comes until either side ends; both are closed then."""
    for _, writer in (one, other):
        without_delay(writer)
    ways = [asyncio.create_task(_pass(one[0], other[1])), asyncio.create_task(_pass(other[0], one[1]))]
    try:
        # The end of one direction is the end: llama.cpp never closes half a connection.
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        # Closed before anything is waited for: who cancels us meanwhile must not leave a side open.
        for way, (_, writer) in zip(ways, (one, other), strict=True):
            way.cancel()
            writer.close()
        await asyncio.gather(*ways, return_exceptions=True)
        for _, writer in (one, other):
            await shut(writer)


def without_delay(writer: asyncio.StreamWriter) -> None:
    """Small messages at once: a token crosses several times."""
    connection = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


async def shut(writer: asyncio.StreamWriter) -> None:
    """Close, whatever state it is in."""
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_READ_BYTES):
            writer.write(data)
            await writer.drain()
