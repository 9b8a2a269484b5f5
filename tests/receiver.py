"""A receiver of webhooks on loopback with scripted responses."""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from aiohttp import web

TIMEOUT_S = 30.0
CUT = -1
"""As a status: the connection is closed without an answer."""
HANG = -2
"""As a status: no answer."""


class Delivery(msgspec.Struct, frozen=True):
    """One delivery."""

    id: str
    event: dict[str, Any]
    headers: dict[str, str]
    body: bytes

    @property
    def type(self) -> str:
        return str(self.event["type"]).removeprefix("modelyard.")


class Receiver:
    """Its URL, its deliveries, and the statuses of its next responses."""

    def __init__(self) -> None:
        self.url = ""
        self.deliveries: list[Delivery] = []
        """Accepted and refused ones."""
        self.taken: list[Delivery] = []
        self.statuses: list[int] = []
        """Statuses of the next responses; then 204."""
        self.changed = asyncio.Event()

    async def on_post(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        delivery = Delivery(headers["webhook-id"], json.loads(body), headers, body)
        self.deliveries.append(delivery)
        status = self.statuses.pop(0) if self.statuses else 204
        if status in range(200, 300):
            self.taken.append(delivery)
        self.changed.set()
        if status == HANG:
            await asyncio.Event().wait()
        if status == CUT:
            assert request.transport is not None
            request.transport.abort()
        return web.Response(status=max(status, 200), headers={"Location": "/elsewhere", "Retry-After": "1"})

    async def until(self, condition: Callable[["Receiver"], bool]) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while not condition(self):
                self.changed.clear()
                await self.changed.wait()


def is_signed(delivery: Delivery, secret: str) -> bool:
    """The check of a receiver, by the specification."""
    content = (
        f"{delivery.headers['webhook-id']}.{delivery.headers['webhook-timestamp']}.".encode() + delivery.body
    )
    raw = base64.b64decode(secret.removeprefix("whsec_"))
    digest = base64.b64encode(hmac.new(raw, content, hashlib.sha256).digest()).decode()
    return delivery.headers["webhook-signature"] == f"v1,{digest}"


@asynccontextmanager
async def receiver(port: int = 0) -> AsyncIterator[Receiver]:
    """Listens until the block ends."""
    hook = Receiver()
    app = web.Application()
    app.router.add_post("/{path:.*}", hook.on_post)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    hook.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook/s3cret-path"
    try:
        yield hook
    finally:
        await runner.cleanup()
