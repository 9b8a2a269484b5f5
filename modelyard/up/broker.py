"""The embedded broker: nats-server as a child, configured from the contract."""

import asyncio
import contextlib
import os

from modelyard.broker import configuration, find_server
from modelyard.credentials import ensure_seeds
from modelyard.settings import Settings
from modelyard.up.child import CannotStart, Child

HOST = "127.0.0.1"
_START_PATIENCE_S = 10.0
_POLL_S = 0.01


async def start_broker(settings: Settings, port: int) -> Child:
    """Start nats-server on `port` and return once it accepts connections; CannotStart if it does not."""
    ensure_seeds(settings.credentials)
    config = settings.run / "nats.conf"
    text = configuration(settings.credentials, settings.home / "nats", host=HOST, port=port)
    config.write_text(text)
    child = Child(
        "broker", [str(find_server()), "-c", str(config)], dict(os.environ), settings.logs / "broker.log"
    )
    await child.start()
    await _accepts(child, port)
    return child


async def _accepts(child: Child, port: int) -> None:
    ended = asyncio.ensure_future(child.wait())
    try:
        async with asyncio.timeout(_START_PATIENCE_S):
            while not ended.done():
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection(HOST, port)
                    writer.close()
                    return
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise CannotStart(f"The broker did not come up in {_START_PATIENCE_S:g} s.") from None
    finally:
        ended.cancel()
    raise CannotStart(f"The broker ended at once: {child.last_line()}")
