"""Ordered consumers: a stream's messages from a point on, none missed and none twice."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from nats.aio.msg import Msg
from nats.js import api

from modelyard.bus.connection import Bus

HEARTBEAT_S = 5.0
SILENCE_S = 12.5
"""Two heartbeats are missing, and the third is late."""
_ACK_WAIT_S = 22 * 3600.0


class ConsumerLost(Exception):
    """The consumer is gone, or a message of it was missed; another one has to take its place."""


class OrderedConsumer:
    """A push consumer without acks.

    nats-py has one, too. It polls four times a second whether the broker's flow control is due an answer; a
    service follows a dozen buckets and more, and at rest that was a third of its processor time.
    """

    def __init__(self, bus: Bus, received: asyncio.Queue[Msg], pending: int) -> None:
        self.pending = pending
        """How many messages the stream had for it when it was created."""
        self._bus = bus
        self._received = received
        """Not bounded here: the broker's flow control does that."""
        self._delivered = 0

    async def next(self) -> Msg:
        """The next message; ConsumerLost where one was missed or the broker is silent."""
        while True:
            msg = await self._receive()
            if msg.headers and "Status" in msg.headers:
                await self._on_status(msg, msg.headers)
                continue
            self._delivered += 1
            if msg.metadata.sequence.consumer != self._delivered:
                raise ConsumerLost("a message was missed")
            return msg

    async def _receive(self) -> Msg:
        if not self._received.empty():
            return self._received.get_nowait()
        try:
            async with asyncio.timeout(SILENCE_S):
                return await self._received.get()
        except TimeoutError:
            raise ConsumerLost(f"no heartbeat for {SILENCE_S:g} s") from None

    async def _on_status(self, msg: Msg, headers: dict[str, str]) -> None:
        if headers["Status"] != "100":
            raise ConsumerLost(headers.get("Description", headers["Status"]))
        # All messages before it are handled, so flow control is answered right away.
        if reply := msg.reply or headers.get("Nats-Consumer-Stalled"):
            await self._bus.nc.publish(reply)
        elif int(headers.get("Nats-Last-Consumer", self._delivered)) != self._delivered:
            raise ConsumerLost("a message was missed")


@asynccontextmanager
async def ordered_consumer(
    bus: Bus, stream: str, filter_subject: str, config: api.ConsumerConfig
) -> AsyncIterator[OrderedConsumer]:
    """A consumer of `stream` that lives as long as the block; `config` says where it begins."""
    inbox, received = bus.nc.new_inbox(), asyncio.Queue[Msg]()
    subscription = await bus.nc.subscribe(inbox, cb=received.put)
    try:
        info = await bus.js.add_consumer(
            stream,
            config.evolve(
                filter_subject=filter_subject,
                deliver_subject=inbox,
                ack_policy=api.AckPolicy.NONE,
                ack_wait=_ACK_WAIT_S,
                max_deliver=1,
                mem_storage=True,
                num_replicas=1,
                flow_control=True,
                idle_heartbeat=HEARTBEAT_S,
            ),
        )
        delivered = info.delivered.consumer_seq if info.delivered else 0
        yield OrderedConsumer(bus, received, (info.num_pending or 0) + delivered)
    finally:
        if bus.connected:
            await subscription.unsubscribe()
