"""What a node says of itself as long as it is there."""

import asyncio
import time
from pathlib import Path

import msgspec

import modelyard
from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.bus.records import BucketStore
from modelyard.host.settings import Settings
from schemas import buckets, subjects
from schemas.errors import YardError
from schemas.instances import Node, NodeLeft
from services.supervisor.agent.agent import NodeAgent
from services.supervisor.agent.devices import Devices
from services.supervisor.agent.workers import Workers
from services.supervisor.engines.selection import engine_offers
from services.supervisor.rpc.server import rpc_offer

log = logs.get(__name__)

TTL_S = 6
RENEW_S = 2.0
_FAREWELL_S = 2.0
"""How long the last word may take: whoever switches a machine off waits for it."""


class Presence:
    """The record of this node. Whether it is cordoned outlives its supervisor."""

    def __init__(
        self, bus: Bus, settings: Settings, devices: Devices, agent: NodeAgent, workers: Workers
    ) -> None:
        self._settings = settings
        self._devices = devices
        self._agent = agent
        self._workers = workers
        self._bus = bus
        self._store = BucketStore(bus, buckets.NODES)
        self._departures = BucketStore(bus, buckets.DEPARTURES)
        self._left = False
        self._changed = asyncio.Event()
        self._node = Node(
            node=settings.node,
            version=modelyard.__version__,
            started_at=time.time(),
            stores=tuple(settings.all_stores),
        )

    @property
    def cordoned(self) -> bool:
        """Whether this node takes no new start."""
        return self._mark.exists()

    def cordon(self, cordoned: bool) -> None:
        """Take no new starts, or take them again."""
        if cordoned:
            self._mark.touch()
        else:
            self._mark.unlink(missing_ok=True)
        self._changed.set()

    async def leave(self) -> None:
        """Say that this node goes on purpose; from then on it does not say any more that it is there."""
        self._left, node = True, self._settings.node
        left = NodeLeft(node=node, at=time.time())
        try:
            await self._departures.put(node, left)
            await self._store.delete(node)
            await self._bus.emit(subjects.NODE_LEFT, left, node=node, timeout_s=_FAREWELL_S)
        except YardError as error:
            log.warning("farewell_not_heard", error=error.message)

    async def keep(self) -> None:
        """Renew the record until cancelled, or until the node leaves."""
        is_back = False
        while not self._left:
            self._changed.clear()
            try:
                await self._store.put(self._settings.node, self._now(), ttl_s=TTL_S)
                is_back = is_back or await self._is_back()
            except YardError as error:
                log.warning("presence_not_written", error=error.message)
            try:
                await asyncio.wait_for(self._changed.wait(), RENEW_S)
            except TimeoutError:
                continue

    async def _is_back(self) -> bool:
        if await self._departures.get(self._settings.node) is not None:
            await self._departures.delete(self._settings.node)
        return True

    def _now(self) -> Node:
        return msgspec.structs.replace(
            self._node,
            engines=engine_offers(self._settings),
            devices=self._devices.now(self._agent.reserved()),
            cordoned=self.cordoned,
            rpc=rpc_offer(self._settings),
            workers=self._workers.now(),
        )

    @property
    def _mark(self) -> Path:
        return self._settings.home / "cordoned"
