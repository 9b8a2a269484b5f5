"""Connections between an instance and its worker: the heartbeat, and pipes for the data of the engine.

Every heartbeat of the instance is answered. Without one for a while, or when the connection ends, the other
side counts as gone. A worker that exits sends the reason as its last line.
"""

import asyncio
import contextlib
import socket

from modelyard.bus.tasks import first_of

HEARTBEAT_S = 2.0
HEARTBEAT_TIMEOUT_S = 8.0
"""A machine that loses power closes no connection."""
BUFFER_BYTES = 1024 * 1024
"""The read-ahead of a connection."""
_BEAT = b"\n"
_READ_BYTES = 256 * 1024

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def send_heartbeats(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
    """The instance's side, until the worker is gone; the reason, as far as the worker sent it."""
    sending = asyncio.create_task(_send_beats(writer))
    try:
        while line := await asyncio.wait_for(reader.readline(), HEARTBEAT_TIMEOUT_S):
            if line != _BEAT:
                return line.decode(errors="replace").strip()
    except TimeoutError:
        return f"it has not answered for {HEARTBEAT_TIMEOUT_S:.0f} s"
    except (OSError, ValueError):
        # A process that is killed with unread data leaves a reset instead of an end.
        pass
    finally:
        sending.cancel()
    return "it was killed, or its machine is gone"


async def answer_heartbeats(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The worker's side, until its instance is gone."""
    with contextlib.suppress(OSError, TimeoutError):
        while await asyncio.wait_for(reader.read(64), HEARTBEAT_TIMEOUT_S):
            writer.write(_BEAT)
            await writer.drain()


def send_exit_reason(writer: asyncio.StreamWriter, reason: str) -> None:
    """The last line of a worker that exits."""
    with contextlib.suppress(OSError):
        writer.write(reason.replace("\n", " ").encode() + b"\n")


async def _send_beats(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while True:
            writer.write(_BEAT)
            await writer.drain()
            await asyncio.sleep(HEARTBEAT_S)


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
