"""The record of this node, renewed as long as its supervisor runs."""

import asyncio
import contextlib
import time
from pathlib import Path
from typing import NamedTuple

import msgspec

import modelyard
from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.bus.records import BucketStore
from modelyard.host.settings import Settings
from schemas import buckets, subjects
from schemas.errors import YardError
from schemas.instances import Node, NodeLeft
from services.supervisor.engines.selection import engine_offers
from services.supervisor.node.agent import NodeAgent
from services.supervisor.node.device_memory import NodeDevices
from services.supervisor.node.workers import NodeWorkers
from services.supervisor.rpc.server import rpc_offer

log = logs.get(__name__)

TTL_S = 6
RENEW_S = 2.0
_LEAVE_TIMEOUT_S = 2.0
"""How long the last event may take: the machine is being switched off."""


class LocalNode(NamedTuple):
    agent: NodeAgent
    workers: NodeWorkers
    devices: NodeDevices

    def live(self) -> set[str]:
        """The ids of the instances and workers whose processes live."""
        return {*self.agent.running(), *(worker.worker for worker in self.workers.now())}


class NodePresence:
    """Writes the record. Whether the node is cordoned outlives its supervisor."""

    def __init__(self, bus: Bus, settings: Settings, local: LocalNode) -> None:
        self._bus = bus
        self._settings = settings
        self._local = local
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
        return self._mark.exists()

    def cordon(self, cordoned: bool) -> None:
        if cordoned:
            self._mark.touch()
        else:
            self._mark.unlink(missing_ok=True)
        self._changed.set()

    async def leave(self) -> None:
        """Publish that this node leaves on purpose; its record is not renewed any more."""
        self._left, node = True, self._settings.node
        left = NodeLeft(node=node, at=time.time())
        try:
            await self._departures.put(node, left)
            await self._store.delete(node)
            await self._bus.emit(subjects.NODE_LEFT, left, node=node, timeout_s=_LEAVE_TIMEOUT_S)
        except YardError as error:
            log.warning("departure_not_published", error=error.message)

    async def renew(self) -> None:
        """Renew the record until cancelled, or until the node leaves."""
        has_returned = False
        while not self._left:
            self._changed.clear()
            try:
                await self._store.put(self._settings.node, self._record(), ttl_s=TTL_S)
                has_returned = has_returned or await self._clear_departure()
            except YardError as error:
                log.warning("presence_not_renewed", error=error.message)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), RENEW_S)

    async def _clear_departure(self) -> bool:
        if await self._departures.get(self._settings.node) is not None:
            await self._departures.delete(self._settings.node)
        return True

    def _record(self) -> Node:
        return msgspec.structs.replace(
            self._node,
            engines=engine_offers(self._settings),
            devices=self._local.devices.now(),
            cordoned=self.cordoned,
            rpc=rpc_offer(self._settings),
            workers=self._local.workers.now(),
        )

    @property
    def _mark(self) -> Path:
        return self._settings.home / "cordoned"
