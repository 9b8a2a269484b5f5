"""Chat over NATS: one request, its answer in pieces, and a cancel when the reader leaves early."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec
from nats.aio.msg import Msg

from modelyard.bus.connection import Bus, raise_error
from modelyard.openai.chunks import DONE, chunk_text
from modelyard.openai.errors import incomplete_answer
from modelyard.openai.sse import EventParser, read_data
from schemas import subjects
from schemas.base import new_id
from schemas.errors import BrokerUnavailable, DeadlineExceeded, ServiceUnavailable
from schemas.requests import REQUEST_HEADER


async def chat(bus: Bus, body: dict[str, Any], *, timeout_s: float) -> AsyncGenerator[str, None]:
    """The text of the answer to `body`, piece by piece."""
    parser, data = EventParser(), b""
    async with aclosing(_answer(bus, msgspec.json.encode(body), timeout_s)) as pieces:
        async for data in read_data(pieces, parser):
            if text := chunk_text(data):
                yield text
    if data != DONE:
        raise incomplete_answer(parser.rest)


async def _answer(bus: Bus, body: bytes, timeout_s: float) -> AsyncGenerator[bytes, None]:
    """The answer's bytes as they come. Closed before the end, the request is cancelled."""
    bus.check(body)
    request, inbox, replies, complete = new_id(), bus.nc.new_inbox(), asyncio.Queue[Msg | None](), False

    async def on_reply(msg: Msg) -> None:
        replies.put_nowait(msg)

    sub = await bus.nc.subscribe(inbox, cb=on_reply)
    remove_hook = bus.on_reconnect(lambda: replies.put_nowait(None))
    try:
        headers = {REQUEST_HEADER: request}
        await bus.nc.publish(subjects.OPENAI(endpoint="chat"), body, reply=inbox, headers=headers)
        while True:
            msg = await _next_reply(replies, timeout_s)
            complete = _is_last(msg)
            raise_error(msg)
            if complete:
                return
            yield msg.data
    finally:
        remove_hook()
        if bus.connected:
            await sub.unsubscribe()
            if not complete:
                await bus.publish(subjects.CANCEL, b"", request=request)


async def _next_reply(replies: asyncio.Queue[Msg | None], timeout_s: float) -> Msg:
    try:
        # Not wait_for: before Python 3.12 it swallows a Ctrl-C that comes together with a piece.
        async with asyncio.timeout(timeout_s):
            msg = await replies.get()
    except TimeoutError:
        raise DeadlineExceeded(f"Nothing more of the answer came in {timeout_s:g} s.") from None
    if msg is None:
        # Pieces sent during the outage are lost, and nothing in the later ones would show it.
        raise BrokerUnavailable("The connection to the broker was lost in the middle of the answer.")
    return msg


def _is_last(msg: Msg) -> bool:
    headers = msg.headers or {}
    if headers.get("Status") == "503":
        raise ServiceUnavailable(f"The {subjects.OPENAI.server} is not there to answer.")
    return not msg.data or "Nats-Service-Error-Code" in headers
