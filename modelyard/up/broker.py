"""The broker of `yard up`: nats-server as a child process, configured from the contract."""

import asyncio
import contextlib
import os

from modelyard.host.broker import configuration, find_server
from modelyard.host.credentials import ensure_seeds
from modelyard.host.home import broker_config
from modelyard.host.settings import Settings
from modelyard.up.child import Child, StartupError

_START_TIMEOUT_S = 10.0
_POLL_S = 0.01


async def start_broker(settings: Settings, port: int) -> Child:
    """Start nats-server on `port` and return once it accepts connections; StartupError if it does not."""
    ensure_seeds(settings.credentials)
    config = broker_config(settings)
    config.write_text(
        configuration(
            settings.credentials,
            settings.home / "nats",
            host=settings.nats_host,
            port=port,
            pid_file=settings.run / "nats.pid",
        ),
        encoding="utf-8",
    )
    child = Child(
        "broker", [str(find_server()), "-c", str(config)], dict(os.environ), settings.logs / "broker.log"
    )
    await child.start()
    await _wait_until_listening(child, own_host(settings.nats_host), port)
    return child


def own_host(host: str) -> str:
    """The address by which this machine reaches a listener on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound


async def _wait_until_listening(child: Child, host: str, port: int) -> None:
    ended = asyncio.ensure_future(child.wait())
    try:
        async with asyncio.timeout(_START_TIMEOUT_S):
            while not ended.done():
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection(host, port)
                    writer.close()
                    return
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise StartupError(f"The broker did not come up in {_START_TIMEOUT_S:g} s.") from None
    finally:
        ended.cancel()
    raise StartupError(f"The broker exited at once: {child.last_line()}")
