"""Mutual authentication: both ends prove that they know the worker's token, which is never sent.

Each sends a nonce, and answers the other's with an HMAC over both. A recorded handshake opens no other
connection, and an instance sends its model only to its worker.
"""

import asyncio
import hashlib
import hmac
import secrets
from enum import StrEnum

TIMEOUT_S = 5.0
_NONCE_BYTES = 32
_PROOF_BYTES = 32


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
        async with asyncio.timeout(TIMEOUT_S):
            ours = secrets.token_bytes(_NONCE_BYTES)
            writer.write(purpose.encode() + ours)
            theirs = await reader.readexactly(_NONCE_BYTES)
            proof = await reader.readexactly(_PROOF_BYTES)
            if not hmac.compare_digest(proof, _proof(token, "worker", purpose, ours, theirs)):
                raise HandshakeError("The server at this address is not the worker.")
            writer.write(_proof(token, "instance", purpose, ours, theirs))
            await writer.drain()
    except (asyncio.IncompleteReadError, TimeoutError) as error:
        raise HandshakeError("The server at this address does not use the protocol of workers.") from error


async def authenticate_instance(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, token: str
) -> Purpose:
    """The worker's side: the purpose of the connection. HandshakeError if the other is not its instance."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            purpose = Purpose((await reader.readexactly(1)).decode())
            theirs = await reader.readexactly(_NONCE_BYTES)
            ours = secrets.token_bytes(_NONCE_BYTES)
            writer.write(ours + _proof(token, "worker", purpose, theirs, ours))
            proof = await reader.readexactly(_PROOF_BYTES)
    except (asyncio.IncompleteReadError, TimeoutError, ValueError) as error:
        raise HandshakeError("The client does not use the protocol of workers.") from error
    if not hmac.compare_digest(proof, _proof(token, "instance", purpose, theirs, ours)):
        raise HandshakeError("The client does not know the token.")
    return purpose


def _proof(token: str, side: str, purpose: Purpose, instance_nonce: bytes, worker_nonce: bytes) -> bytes:
    text = side.encode() + b"\n" + purpose.encode() + instance_nonce + worker_nonce
    return hmac.new(token.encode(), text, hashlib.sha256).digest()
