"""The announcement of a yard on the local network, for machines that join."""

import contextlib
from collections.abc import AsyncIterator

from modelyard.host import credentials, lan
from modelyard.host.settings import Settings
from modelyard.up.inviter import is_loopback, reachable
from modelyard.up.terminal import Terminal


@contextlib.asynccontextmanager
async def announced(settings: Settings, terminal: Terminal, *, broker: bool) -> AsyncIterator[None]:
    """Announce the broker of this yard inside the block; without one, or on loopback, do nothing."""
    if not broker or is_loopback(settings.nats_host):
        yield
        return
    if not lan.available():
        terminal.print_line("  Not announced on the network: that needs modelyard[lan].")
        yield
        return
    async with contextlib.AsyncExitStack() as stack:
        yard = credentials.yard_id(settings.credentials)
        try:
            await stack.enter_async_context(
                lan.announced(settings.node, yard, reachable(settings.nats_host), settings.nats_port)
            )
        except OSError as error:
            terminal.print_line(f"  Not announced on the network: {error.strerror or error}.")
        yield
