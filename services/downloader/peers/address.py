"""Where this node is for others: on the interface of the yard, which on one machine is loopback."""

import asyncio
import ipaddress
import socket

from modelyard.bus.connection import Bus
from modelyard.host.settings import Settings

LOOPBACK = "127.0.0.1"


async def own_host(bus: Bus, settings: Settings) -> str:
    """The address to listen on, as things are now."""
    broker = bus.nc.connected_url
    return await asyncio.to_thread(chosen_host, settings, broker.hostname if broker else None)


def chosen_host(settings: Settings, broker: str | None) -> str:
    """As set, else where the own broker listens, else our address on the way to the broker.

    Blocks for as long as a name takes to resolve.
    """
    if settings.peer_host is not None:
        return settings.peer_host
    if not settings.joined and not is_loopback(settings.nats_host):
        return settings.nats_host
    return address_towards(broker or LOOPBACK)


def told_host(own: str, asker: str) -> str | None:
    """The address under which `asker` reaches a listener on `own`; None if it does not."""
    if is_loopback(own):
        return own if is_loopback(asker) or is_every(asker) else None
    return address_towards(asker) if is_every(own) else own


def address_towards(host: str) -> str:
    """Our address on the way to a host; loopback where there is no way."""
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(where)  # nothing is sent: the system only chooses a route
            return str(probe.getsockname()[0])
    except (OSError, UnicodeError):
        return LOOPBACK


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a listener there."""
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback


def is_every(host: str) -> bool:
    """Whether it stands for all addresses of a machine."""
    return ipaddress.ip_address(host.partition("%")[0]).is_unspecified


def url(host: str, port: int, sha256: str) -> str:
    """Where a file is."""
    return f"http://[{host}]:{port}/files/{sha256}" if ":" in host else f"http://{host}:{port}/files/{sha256}"
