"""The inference path in one process, on a real broker: an engine, a runner's part and the gateway's."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from aiohttp import web

from modelyard.bus.connection import Bus
from modelyard.bus.micro import Commands
from modelyard.bus.records import BucketCache, BucketStore
from modelyard.bus.tasks import Tasks
from schemas import buckets
from schemas.base import Role
from schemas.instances import Instance, InstanceState, Reason
from schemas.models import ModelSpec
from services.gateway.catalog import Catalog
from services.gateway.inference.inference import Inference
from services.gateway.inference.queue import BudgetAdmission
from services.supervisor.runner.queue_consumer import QueueConsumer
from services.supervisor.runner.record import InstanceRecord
from services.supervisor.runner.slot_pool import SlotPool
from services.supervisor.runner.upstream import Upstream
from tests.support import Yard

PATH = "/v1/chat/completions"
SPEC = ModelSpec(name="demo", path="demo.gguf", n_parallel=3)

MALFORMED = {
    # Complete but for its end marker.
    "unended": b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"w"}}]}\n\n'
    b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n',
    # A chunk of an unknown shape.
    "strange": b'data: {"choices":[{"index":0,"delta":{"tool_calls":7}}]}\n\ndata: [DONE]\n\n',
}


class Engine:
    """Streams the requested number of tokens; disconnects on request; counts the requests in flight."""

    def __init__(self) -> None:
        self.busy = 0
        self.max_busy = 0
        self.requested = False

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.busy += 1
        self.max_busy = max(self.max_busy, self.busy)
        try:
            if (end := body.get("user")) in MALFORMED:
                return await self._send_malformed(request, end)
            return await self._stream(request, body["max_tokens"], crashes=self._crashes(body.get("user")))
        finally:
            self.busy -= 1

    def _crashes(self, user: str | None) -> bool:
        first, self.requested = not self.requested, True
        return user == "crash" or (first and user == "crash once")

    async def _stream(self, request: web.Request, tokens: int, *, crashes: bool) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_type = "text/event-stream"
        await response.prepare(request)
        for number in range(tokens):
            if crashes and number == tokens // 2:
                assert request.transport is not None
                request.transport.abort()
                return response
            await response.write(b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"w"}}]}\n\n')
            await asyncio.sleep(0.002)
        usage = b'{"prompt_tokens":1,"completion_tokens":%d}' % tokens
        await response.write(b'data: {"id":"c","choices":[],"usage":' + usage + b"}\n\ndata: [DONE]\n\n")
        return response

    async def _send_malformed(self, request: web.Request, end: str) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(MALFORMED[end])
        if end == "unended":
            assert request.transport is not None
            request.transport.abort()
        return response

    async def slots(self, _request: web.Request) -> web.Response:
        return web.json_response([{"is_processing": True}] * self.busy)


@contextlib.asynccontextmanager
async def engine() -> AsyncIterator[tuple[Engine, int]]:
    running, app = Engine(), web.Application()
    app.router.add_post(PATH, running.chat)
    app.router.add_get("/slots", running.slots)
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield running, runner.addresses[0][1]
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def inference_path(yard: Yard, *ports: int) -> AsyncIterator[tuple[Inference, list[SlotPool]]]:
    """The inference path on a real broker: the gateway's part, and a runner's part for each engine."""
    gateway = await yard.bus(Role.GATEWAY)
    await BucketStore(await yard.bus(Role.SUPERVISOR), buckets.MODELS).put("demo", SPEC)
    async with Tasks() as tasks:
        pools = [await slot_pool_of(await yard.bus(Role.RUNNER), tasks, port) for port in ports]
        catalog = Catalog(
            await BucketCache.start(gateway, buckets.MODELS, tasks),
            await BucketCache.start(gateway, buckets.INSTANCES, tasks),
            await BucketCache.start(gateway, buckets.WAITING, tasks),
        )
        spending = await BucketCache.start(gateway, buckets.SPENDING, tasks)
        inference = Inference(gateway, tasks, catalog, BudgetAdmission(spending))
        await inference.open(await Commands.start(gateway, tasks, "test"))
        try:
            yield inference, pools
        finally:
            for pool in pools:
                await pool.upstream.close()


async def slot_pool_of(bus: Bus, tasks: Tasks, port: int) -> SlotPool:
    """A runner in this process."""
    instance = InstanceRecord(bus, tasks, record(f"i{port}"))
    for state in (InstanceState.LOADING, InstanceState.PROBING, InstanceState.READY):
        await instance.transition(state)
    pool = SlotPool(bus, tasks, instance, Upstream(port), SPEC)
    await pool.open()
    await QueueConsumer(bus, tasks, SPEC.name, pool).open()
    return pool


def record(instance: str) -> Instance:
    return Instance(
        instance=instance,
        model="demo",
        node="testnode",
        engine="test",
        revision=1,
        state=InstanceState.STARTING,
        reason=Reason.REQUESTED,
        changed_at=time.time(),
    )
