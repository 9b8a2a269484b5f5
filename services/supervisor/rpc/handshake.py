"""Both ends of a connection prove that they know the worker's token, which itself never crosses the network.

Each sends random bytes, and answers those of the other with an HMAC over both. So nothing that was overheard
opens another connection, and an instance gives its model to nobody but its worker.
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
    """What a connection is for; a letter each."""

    LIFE = "L"
    """The one connection whose end is the worker's end."""
    DATA = "D"
    """One of the engine's own."""


class Stranger(Exception):
    """The other side does not know the token, or does not speak like one of us."""


async def greet(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, token: str, purpose: Purpose
) -> None:
    """The instance's side. Stranger if the other is not its worker; OSError if it went away."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            ours = secrets.token_bytes(_NONCE_BYTES)
            writer.write(purpose.encode() + ours)
            theirs = await reader.readexactly(_NONCE_BYTES)
            proof = await reader.readexactly(_PROOF_BYTES)
            if not hmac.compare_digest(proof, _proof(token, "worker", purpose, ours, theirs)):
                raise Stranger("What answers there is not the worker.")
            writer.write(_proof(token, "instance", purpose, ours, theirs))
            await writer.drain()
    except (asyncio.IncompleteReadError, TimeoutError) as error:
        raise Stranger("What answers there does not speak like a worker.") from error


async def welcome(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, token: str) -> Purpose:
    """The worker's side: what the connection is for. Stranger if the other is not its instance."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            purpose = Purpose((await reader.readexactly(1)).decode())
            theirs = await reader.readexactly(_NONCE_BYTES)
            ours = secrets.token_bytes(_NONCE_BYTES)
            writer.write(ours + _proof(token, "worker", purpose, theirs, ours))
            proof = await reader.readexactly(_PROOF_BYTES)
    except (asyncio.IncompleteReadError, TimeoutError, ValueError) as error:
        raise Stranger("A stranger connected.") from error
    if not hmac.compare_digest(proof, _proof(token, "instance", purpose, theirs, ours)):
        raise Stranger("Somebody connected who does not know the token.")
    return purpose


def _proof(token: str, side: str, purpose: Purpose, instance_nonce: bytes, worker_nonce: bytes) -> bytes:
    text = side.encode() + b"\n" + purpose.encode() + instance_nonce + worker_nonce
    return hmac.new(token.encode(), text, hashlib.sha256).digest()
