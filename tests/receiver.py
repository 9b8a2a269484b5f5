"""A receiver of webhooks on loopback that does as told: takes, refuses, is slow, cuts off, is away."""

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
"""As a status: no answer ever."""


class Got(msgspec.Struct, frozen=True):
    """One delivery."""

    id: str
    event: dict[str, Any]
    headers: dict[str, str]
    body: bytes

    @property
    def type(self) -> str:
        return str(self.event["type"]).removeprefix("modelyard.")


class Receiver:
    """Where it listens, what it got, and what it answers next."""

    def __init__(self) -> None:
        self.url = ""
        self.got: list[Got] = []
        """Taken and refused ones."""
        self.taken: list[Got] = []
        self.answers: list[int] = []
        """Statuses of the next answers; then 204."""
        self.more = asyncio.Event()

    async def on_post(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        got = Got(headers["webhook-id"], json.loads(body), headers, body)
        self.got.append(got)
        status = self.answers.pop(0) if self.answers else 204
        if status in range(200, 300):
            self.taken.append(got)
        self.more.set()
        if status == HANG:
            await asyncio.Event().wait()
        if status == CUT:
            assert request.transport is not None
            request.transport.abort()
        return web.Response(status=max(status, 200), headers={"Location": "/elsewhere", "Retry-After": "1"})

    async def until(self, condition: Callable[["Receiver"], bool]) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while not condition(self):
                self.more.clear()
                await self.more.wait()


def is_signed(got: Got, secret: str) -> bool:
    """As a receiver checks it, by the specification."""
    content = f"{got.headers['webhook-id']}.{got.headers['webhook-timestamp']}.".encode() + got.body
    raw = base64.b64decode(secret.removeprefix("whsec_"))
    digest = base64.b64encode(hmac.new(raw, content, hashlib.sha256).digest()).decode()
    return got.headers["webhook-signature"] == f"v1,{digest}"


@asynccontextmanager
async def receiver(port: int = 0) -> AsyncIterator[Receiver]:
    """Listening until the block ends."""
    told = Receiver()
    app = web.Application()
    app.router.add_post("/{path:.*}", told.on_post)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    told.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook/s3cret-path"
    try:
        yield told
    finally:
        await runner.cleanup()
