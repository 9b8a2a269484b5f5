"""Loopback ports for engines that cannot take a free one by themselves."""

import asyncio
import secrets
import socket

_FIRST, _COUNT = 20_000, 12_000
"""Below the ports that systems give to outgoing connections, so none of those comes in between."""
_TRIES = 100


class NoFreePort(Exception):
    """Every port that was tried is taken."""


def free_port() -> int:
    """A port that nobody has now, chosen at random: two runners that look at once get different ones."""
    for _ in range(_TRIES):
        port = _FIRST + secrets.randbelow(_COUNT)
        if not is_taken(port):
            return port
    raise NoFreePort(f"Of {_TRIES} ports from {_FIRST} on, not one was free.")


def is_taken(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # Servers set this too: a port whose last user just left is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
        return False


async def accepts(port: int) -> bool:
    """Whether a connection to it can be opened."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
