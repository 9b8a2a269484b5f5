"""What a node says of itself as long as it is there."""

import asyncio
import time
from pathlib import Path

import msgspec

import modelyard
from modelyard import logging
from modelyard.bus import Bus
from modelyard.settings import Settings
from modelyard.state import Store
from schemas import buckets
from schemas.errors import BrokerUnavailable
from schemas.instances import Node
from services.supervisor.agent.agent import NodeAgent
from services.supervisor.agent.devices import Devices
from services.supervisor.agent.workers import Workers
from services.supervisor.engines import offers
from services.supervisor.rpc.program import offer

log = logging.get(__name__)

TTL_S = 6
RENEW_S = 2.0


class Presence:
    """The record of this node. Whether it is cordoned outlives its supervisor."""

    def __init__(
        self, bus: Bus, settings: Settings, devices: Devices, agent: NodeAgent, workers: Workers
    ) -> None:
        self._settings = settings
        self._devices = devices
        self._agent = agent
        self._workers = workers
        self._store = Store(bus, buckets.NODES)
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

    async def keep(self) -> None:
        """Renew the record until cancelled."""
        while True:
            self._changed.clear()
            try:
                await self._store.put(self._settings.node, self._now(), ttl_s=TTL_S)
            except BrokerUnavailable as error:
                log.warning("presence_not_written", error=error.message)
            try:
                await asyncio.wait_for(self._changed.wait(), RENEW_S)
            except TimeoutError:
                continue

    def _now(self) -> Node:
        return msgspec.structs.replace(
            self._node,
            engines=offers(self._settings),
            devices=self._devices.now(self._agent.reserved()),
            cordoned=self.cordoned,
            rpc=offer(self._settings),
            workers=self._workers.now(),
        )

    @property
    def _mark(self) -> Path:
        return self._settings.home / "cordoned"
