"""Connections between an instance and its worker: authentication, heartbeat, and pipes for the engine.

Both ends prove that they know the worker's token, which is never sent: each sends a nonce, and answers the
other's with an HMAC over both. A recorded handshake opens no other connection.
Every heartbeat of the instance is answered. Without one for a while, or when the connection ends, the other
side counts as lost. A worker that exits sends the reason as its last line.
"""

import asyncio
import contextlib
import hashlib
import hmac
import secrets
import socket
from enum import StrEnum

from modelyard.bus.tasks import first_of

HANDSHAKE_TIMEOUT_S = 5.0
_NONCE_BYTES = 32
_PROOF_BYTES = 32
HEARTBEAT_S = 2.0
HEARTBEAT_TIMEOUT_S = 8.0
"""A machine that loses power closes no connection."""
BUFFER_BYTES = 1024 * 1024
"""The read-ahead of a connection."""
_BEAT = b"\n"
_READ_BYTES = 256 * 1024
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Purpose(StrEnum):
    """The use of a connection; one letter each."""

    HEARTBEAT = "L"
    """The one connection whose end is the worker's end."""
    DATA = "D"
    """A connection of the engine."""


class HandshakeError(Exception):
    """The other side does not know the token, or does not use this protocol."""


async def authenticate_worker(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, token: str, purpose: Purpose
) -> None:
    """The instance's side. HandshakeError if the other is not its worker; OSError if it disconnected."""
    try:
        async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
            own = secrets.token_bytes(_NONCE_BYTES)
            writer.write(purpose.encode() + own)
            other = await reader.readexactly(_NONCE_BYTES)
            proof = await reader.readexactly(_PROOF_BYTES)
            if not hmac.compare_digest(proof, _proof(token, "worker", purpose, own, other)):
                raise HandshakeError("The server at this address is not the worker.")
            writer.write(_proof(token, "instance", purpose, own, other))
            await writer.drain()
    except (asyncio.IncompleteReadError, TimeoutError) as error:
        raise HandshakeError("The server at this address does not use the protocol of workers.") from error


async def authenticate_instance(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, token: str
) -> Purpose:
    """The worker's side: the purpose of the connection. HandshakeError if the other is not its instance."""
    try:
        async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
            purpose = Purpose((await reader.readexactly(1)).decode())
            other = await reader.readexactly(_NONCE_BYTES)
            own = secrets.token_bytes(_NONCE_BYTES)
            writer.write(own + _proof(token, "worker", purpose, other, own))
            proof = await reader.readexactly(_PROOF_BYTES)
    except (asyncio.IncompleteReadError, TimeoutError, ValueError) as error:
        raise HandshakeError("The client does not use the protocol of workers.") from error
    if not hmac.compare_digest(proof, _proof(token, "instance", purpose, other, own)):
        raise HandshakeError("The client does not know the token.")
    return purpose


def _proof(token: str, side: str, purpose: Purpose, instance_nonce: bytes, worker_nonce: bytes) -> bytes:
    text = side.encode() + b"\n" + purpose.encode() + instance_nonce + worker_nonce
    return hmac.new(token.encode(), text, hashlib.sha256).digest()


async def send_heartbeats(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
    """The instance's side, until the worker has ended; the reason, as far as the worker sent it."""
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
    return "it was killed, or its machine is unreachable"


async def answer_heartbeats(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The worker's side, until its instance has ended."""
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
        with contextlib.suppress(OSError):
            # Small messages are sent at once: each token takes several round trips.
            writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    copying = [asyncio.create_task(_copy(left[0], right[1])), asyncio.create_task(_copy(right[0], left[1]))]
    try:
        # The end of one direction ends both: llama.cpp never half-closes a connection.
        await first_of(*copying)
    finally:
        # Closed before the first await: a cancellation in between must not leave a side open.
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


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_READ_BYTES):
            writer.write(data)
            await writer.drain()
