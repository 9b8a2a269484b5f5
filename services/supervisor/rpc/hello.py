"""The first words of llama.cpp's RPC protocol: a server shows that it is there, and what it speaks."""

import asyncio
import contextlib

_HELLO = 14
"""The command's number, the same in every version."""
_CAPS_BYTES = 24
_POLL_S = 0.02


class NoRpcServer(Exception):
    """Whatever listens there is none that we know."""


async def hello(port: int) -> str:
    """The protocol's version of the server on this loopback port; waits until it listens."""
    while True:
        with contextlib.suppress(ConnectionRefusedError):
            return await _ask(port)
        await asyncio.sleep(_POLL_S)


async def _ask(port: int) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(bytes([_HELLO]) + _CAPS_BYTES.to_bytes(8, "little") + bytes(_CAPS_BYTES))
        size = int.from_bytes(await reader.readexactly(8), "little")
        if not 3 <= size <= 4096:
            raise NoRpcServer("It does not answer as llama.cpp's RPC server does.")
        major, minor, patch, *_ = await reader.readexactly(size)
        return f"{major}.{minor}.{patch}"
    except asyncio.IncompleteReadError as error:
        raise NoRpcServer("It does not answer as llama.cpp's RPC server of this time does.") from error
    finally:
        writer.close()
