"""A yard that others may join tells the local network so."""

import contextlib
from collections.abc import AsyncIterator

from rich.console import Console

from modelyard import credentials, lan
from modelyard.settings import Settings
from modelyard.up.inviting import is_loopback, reachable


@contextlib.asynccontextmanager
async def announcing(settings: Settings, console: Console, *, broker: bool) -> AsyncIterator[None]:
    """Announce the broker of this yard inside the block; without one, or on loopback, do nothing."""
    if not broker or is_loopback(settings.nats_host):
        yield
        return
    if not lan.available():
        console.print("  Not announced on the network: that needs modelyard[lan].", markup=False)
        yield
        return
    async with contextlib.AsyncExitStack() as stack:
        yard = credentials.yard_id(settings.credentials)
        try:
            await stack.enter_async_context(
                lan.announced(settings.node, yard, reachable(settings.nats_host), settings.nats_port)
            )
        except OSError as error:
            console.print(f"  Not announced on the network: {error.strerror}.", markup=False)
        yield
