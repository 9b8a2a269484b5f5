"""Yards on the local network, announced and discovered by mDNS (`_modelyard._tcp`). Needs the extra `lan`."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

import modelyard
from schemas.base import Record

if TYPE_CHECKING:
    from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

SERVICE = "_modelyard._tcp.local."
BROWSE_S = 1.5
"""How long to wait for responses; active hosts respond within half a second."""
_RESOLVE_MS = 1000


class DiscoveredYard(Record):
    node: str
    """Its first machine."""
    yard: str
    version: str
    nats_url: str


def available() -> bool:
    """Whether the extra is installed."""
    try:
        import zeroconf  # noqa: F401
    except ImportError:
        return False
    return True


@contextlib.asynccontextmanager
async def announced(node: str, yard: str, hosts: Sequence[str], port: int) -> AsyncIterator[None]:
    """Announce this yard inside the block. TXT contains its version and name, no secret."""
    from zeroconf.asyncio import AsyncServiceInfo

    # A label of DNS has 63 bytes at most; the whole name stands in TXT.
    label = f"{node[:48]}-{yard}"
    info = AsyncServiceInfo(
        SERVICE,
        f"{label}.{SERVICE}",
        addresses=[_packed(host) for host in hosts],
        port=port,
        properties={"version": modelyard.__version__, "node": node, "yard": yard},
        server=f"{label}.local.",
    )
    mdns = _open(hosts)
    try:
        await (await mdns.async_register_service(info, allow_name_change=True))
        yield
        await mdns.async_unregister_all_services()
    finally:
        await mdns.async_close()


async def browse(timeout_s: float = BROWSE_S) -> list[DiscoveredYard]:
    """All yards that respond; none without the extra or a network."""
    if not available():
        return []
    from zeroconf.asyncio import AsyncServiceBrowser

    names: set[str] = set()
    try:
        mdns = _open(())
    except OSError:
        return []
    try:
        browser = AsyncServiceBrowser(mdns.zeroconf, SERVICE, handlers=[lambda name, **_: names.add(name)])
        await asyncio.sleep(timeout_s)
        resolved = [await _resolved(mdns, name) for name in sorted(names)]
        await browser.async_cancel()
    finally:
        await mdns.async_close()
    return [yard for yard in resolved if yard is not None]


async def _resolved(mdns: "AsyncZeroconf", name: str) -> DiscoveredYard | None:
    info: AsyncServiceInfo | None = await mdns.async_get_service_info(SERVICE, name, timeout=_RESOLVE_MS)
    if info is None or info.port is None or not (hosts := info.parsed_addresses()):
        return None
    properties = {key: value or "" for key, value in info.decoded_properties.items()}
    host = f"[{hosts[0]}]" if ":" in hosts[0] else hosts[0]
    return DiscoveredYard(
        node=properties.get("node", ""),
        yard=properties.get("yard", ""),
        version=properties.get("version", ""),
        nats_url=f"nats://{host}:{info.port}",
    )


def _open(hosts: Sequence[str]) -> "AsyncZeroconf":
    from zeroconf import InterfaceChoice, IPVersion
    from zeroconf.asyncio import AsyncZeroconf

    version: IPVersion = IPVersion.All if any(":" in host for host in hosts) else IPVersion.V4Only
    return AsyncZeroconf(interfaces=list(hosts) or InterfaceChoice.All, ip_version=version)


def _packed(host: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
