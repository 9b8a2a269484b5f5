"""The address on which this node serves files: an interface of the yard, loopback on a single machine."""

import asyncio
import ipaddress
import socket

from modelyard.bus.connection import Bus
from modelyard.host.settings import Settings

LOOPBACK = "127.0.0.1"


async def listen_host(bus: Bus, settings: Settings) -> str:
    """The address to listen on, determined from the current connection."""
    broker = bus.nc.connected_url
    return await asyncio.to_thread(select_host, settings, broker.hostname if broker else None)


def select_host(settings: Settings, broker: str | None) -> str:
    """The configured host, else the own broker's, else the local address of the route to the broker.

    Blocks while a name is resolved.
    """
    if settings.peer_host is not None:
        return settings.peer_host
    if not settings.joined and not is_loopback(settings.nats_host):
        return settings.nats_host
    return route_address(broker or LOOPBACK)


def advertised_host(listening: str, client: str) -> str | None:
    """The address under which `client` reaches a listener on `listening`; None if it cannot."""
    if is_loopback(listening):
        return listening if is_loopback(client) or is_wildcard(client) else None
    return route_address(client) if is_wildcard(listening) else listening


def route_address(host: str) -> str:
    """The local address of the route to a host; loopback if there is no route."""
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as udp:
            udp.connect(target)  # sends nothing: the system only chooses a route
            return str(udp.getsockname()[0])
    except (OSError, UnicodeError):
        return LOOPBACK


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a listener on this address."""
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback


def is_wildcard(host: str) -> bool:
    """Whether the address stands for all interfaces."""
    return ipaddress.ip_address(host.partition("%")[0]).is_unspecified


def file_url(host: str, port: int, sha256: str) -> str:
    return f"http://[{host}]:{port}/files/{sha256}" if ":" in host else f"http://{host}:{port}/files/{sha256}"
