"""A supervisor and a downloader in the test's process, against a hub on loopback."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from modelyard.bus.records import BucketCache, BucketStore
from modelyard.bus.tasks import Tasks
from modelyard.host.settings import Settings
from schemas import buckets
from schemas.base import Role
from schemas.instances import EngineOffer, Node
from schemas.placement import NodeDevice
from services.downloader.service import main as downloader
from services.supervisor.service import main as supervisor
from tests.hub import Hub
from tests.support import Yard

GIB = 1024**3


def node(name: str, *memory: tuple[str, int], engines: tuple[str, ...] = ("llama.cpp",)) -> Node:
    """A machine with these devices and engines."""
    devices = tuple(NodeDevice(device=id_, name=id_, memory_bytes=size) for id_, size in memory)
    offers = tuple(EngineOffer(engine=engine) for engine in engines)
    return Node(node=name, version="1", started_at=1.0, engines=offers, devices=devices)


def point_at(monkeypatch: pytest.MonkeyPatch, hub: Hub) -> None:
    """Point the hub's library to this hub, here and in the workers."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    template = "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", hub.url + template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    monkeypatch.setenv("HF_ENDPOINT", hub.url)


@asynccontextmanager
async def hub_yard(yard: Yard, settings: Settings, *nodes: Node) -> AsyncIterator[None]:
    """Both services, and nodes that exist as records only; all are stored before the block begins."""
    async with Tasks() as tasks:
        records = BucketStore(await yard.bus(Role.SUPERVISOR), buckets.NODES)
        for record in nodes:
            await records.put(record.node, record)
        await supervisor(await yard.bus(Role.SUPERVISOR), settings, tasks)
        # The real node joins asynchronously; estimates must not depend on when.
        cache: BucketCache[Node] = await BucketCache.start(await yard.bus(Role.GATEWAY), buckets.NODES, tasks)
        await cache.until(lambda nodes: settings.node in nodes)
        await downloader(await yard.bus(Role.DOWNLOADER), settings, tasks)
        yield
