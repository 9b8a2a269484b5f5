"""Loopback ports for servers that cannot choose a free one."""

import asyncio
import secrets
import socket

_FIRST, _COUNT = 20_000, 12_000
"""Below the range of outgoing connections, which therefore take none of these ports."""
_ATTEMPTS = 100


class NoFreePort(Exception):
    """All attempts hit a port in use."""


def free_port() -> int:
    """A free port, chosen at random, so that two runners that start at once get different ones."""
    for _ in range(_ATTEMPTS):
        port = _FIRST + secrets.randbelow(_COUNT)
        if not is_taken(port):
            return port
    raise NoFreePort(f"Of {_ATTEMPTS} ports from {_FIRST} on, not one was free.")


def is_taken(port: int) -> bool:
    """Whether a program listens on the port."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # Servers set this too: a port that was just closed is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
        return False


async def accepts(port: int) -> bool:
    """Whether a connection to the port can be opened."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
