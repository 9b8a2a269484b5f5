"""Publishing without waiting: batched, or retried until the broker has stored the message."""

import asyncio
import contextlib
import itertools
import time
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from modelyard.bus import logs
from schemas.base import Record

log = logs.get(__name__)

GATHER_S = 0.004
"""Batching delay: one write for many messages costs hardly more than one for each."""
RETRY_AFTER_S = 2.0
"""Without the broker's word for so long a message is sent again; its `Nats-Msg-Id` makes it one."""
TIMEOUT_S = 30.0


class Message(NamedTuple):
    subject: str
    data: bytes
    headers: dict[str, str]


class _PubAck(Record):
    seq: int = 0


_ack = msgspec.json.Decoder(_PubAck)


@dataclass
class _Pending:
    message: Message
    sent_at: float
    deadline: float


class Outbox:
    """Messages of one connection that are in flight."""

    def __init__(self, nc: Client) -> None:
        self._nc = nc
        self._batch: list[Message] = []
        self._pending: dict[str, _Pending] = {}
        self._numbers = itertools.count()
        self._inbox = ""
        self._empty = asyncio.Event()
        self._empty.set()
        self._sending: asyncio.Task[None] | None = None
        self._sweeping: asyncio.Task[None] | None = None

    def publish_batched(self, message: Message) -> None:
        """Send within GATHER_S. Lost if the broker is away."""
        self._batch.append(message)
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._gather())

    async def publish_with_retry(self, message: Message) -> None:
        """Send now, and again until the broker has stored it or TIMEOUT_S are over."""
        if not self._inbox:
            self._inbox = self._nc.new_inbox()
            await self._nc.subscribe(f"{self._inbox}.*", cb=self._on_ack)
        number, now = str(next(self._numbers)), time.monotonic()
        self._pending[number] = _Pending(message, now, now + TIMEOUT_S)
        self._empty.clear()
        await self._send(number)
        if self._sweeping is None or self._sweeping.done():
            self._sweeping = asyncio.create_task(self._sweep())

    async def wait_for_acks(self) -> None:
        """Return when the broker has stored every message that is retried."""
        await self._empty.wait()

    async def _gather(self) -> None:
        await asyncio.sleep(GATHER_S)
        messages, self._batch = self._batch, []
        with contextlib.suppress(nats.errors.Error):
            for message in messages:
                await self._nc.publish(message.subject, message.data, headers=message.headers)

    async def _send(self, number: str) -> None:
        subject, data, headers = self._pending[number].message
        # While the broker is away nothing is lost: it is sent again later.
        with contextlib.suppress(nats.errors.Error):
            await self._nc.publish(subject, data, reply=f"{self._inbox}.{number}", headers=headers)

    async def _on_ack(self, msg: Msg) -> None:
        with contextlib.suppress(msgspec.DecodeError):
            if _ack.decode(msg.data).seq:
                self._forget(msg.subject.rsplit(".", 1)[1])

    async def _sweep(self) -> None:
        while self._pending:
            await asyncio.sleep(RETRY_AFTER_S / 4)
            now = time.monotonic()
            for number, pending in tuple(self._pending.items()):
                if now > pending.deadline:
                    log.error("event_lost", subject=pending.message.subject)
                    self._forget(number)
                elif now > pending.sent_at + RETRY_AFTER_S and number in self._pending:
                    pending.sent_at = now
                    await self._send(number)

    def _forget(self, number: str) -> None:
        self._pending.pop(number, None)
        if not self._pending:
            self._empty.set()
