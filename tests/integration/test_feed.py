"""The messages that open pages get over `/ws`."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import ClientWebSocketResponse, web
from aiohttp.test_utils import TestClient, TestServer

from modelyard.bus.records import BucketCache
from modelyard.bus.tasks import Tasks
from schemas import buckets
from schemas.base import Role
from services.gateway.access import ApiKeys
from services.gateway.feed import PROTOCOL, Feed
from tests.integration.monitor_service import TIMEOUT_S
from tests.support import Yard


@asynccontextmanager
async def page(yard: Yard) -> AsyncIterator[ClientWebSocketResponse]:
    """A page that has just been opened."""
    async with Tasks() as tasks:
        bus = await yard.bus(Role.GATEWAY)
        names = (buckets.MODELS, buckets.INSTANCES)
        caches: dict[str, BucketCache[Any]] = {
            bucket.name: await BucketCache.start(bus, bucket, tasks) for bucket in names
        }
        feed = Feed(bus, tasks, ApiKeys.read(yard.settings.credentials), caches)
        await feed.open()
        app = web.Application()
        app.router.add_get("/ws", feed.on_connect)
        async with (
            TestClient(TestServer(app)) as client,
            client.ws_connect("/ws", protocols=(PROTOCOL,)) as ws,
        ):
            assert (await ws.receive_json(timeout=TIMEOUT_S))["type"] == "snapshot"
            yield ws


async def test_a_page_gets_a_message_when_the_broker_disconnects_and_reconnects(yard: Yard) -> None:
    async with page(yard) as ws, asyncio.timeout(TIMEOUT_S):
        assert yard.broker.pid is not None
        os.kill(yard.broker.pid, signal.SIGKILL)
        await yard.broker.wait()
        assert await ws.receive_json() == {"type": "broker", "data": {"connected": False}}
        await yard.broker.start()
        while (message := await ws.receive_json())["type"] != "broker":
            pass
        assert message["data"] == {"connected": True}
