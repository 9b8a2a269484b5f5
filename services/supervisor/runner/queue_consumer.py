"""Consumes the queues of one model: requests are pulled only for free slots, and in turns."""

import asyncio
import collections
import contextlib
import time

import nats.errors
from nats.aio.msg import Msg

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.bus.tasks import Tasks
from schemas import streams, subjects
from schemas.base import model_key
from schemas.requests import ANYONE, RequestQueued
from services.supervisor.runner.queues import Pulls, QueueName, QueueState, next_queue, queue_of
from services.supervisor.runner.slot_pool import SlotPool

log = logs.get(__name__)

PULL_S = 5.0
"""How long a pull on the only queue stays open."""
POLL_S = 5.0
"""The stream is polled, since `queued` events can be lost."""
RETRY_S = 0.005
RETRIES = 4
"""A `queued` event may arrive before its request: an empty queue is pulled again."""


class QueueConsumer:
    """Fills the slots of one engine from the queues of its model."""

    def __init__(self, bus: Bus, tasks: Tasks, model: str, pool: SlotPool) -> None:
        self._bus = bus
        self._tasks = tasks
        self._model_key = model_key(model)
        self._pool = pool
        self._pulls = Pulls(bus, self._model_key)
        self._queues: dict[QueueName, QueueState] = {}
        self._retries: collections.Counter[QueueName] = collections.Counter()
        self._draining = False
        self._poll_now = asyncio.Event()

    async def open(self) -> None:
        """Start to take requests."""
        await self._bus.nc.subscribe(f"{self._pulls.inbox}.*", cb=self._on_message)
        await self._bus.subscribe(subjects.REQUEST_QUEUED, self._on_queued, model=self._model_key)
        self._bus.on_reconnect(self._on_reconnect)
        self._pool.on_free = self.fill
        self._tasks.spawn(self._poll_stream(), "queue consumer")

    @property
    def busy(self) -> int:
        return self._pool.busy

    async def drain(self) -> None:
        """Take no new requests, and return when those in flight have ended."""
        self._draining = True
        await self._pool.wait_idle()

    async def fill(self) -> None:
        """Pull as many requests as there are free slots."""
        if self._draining:
            return
        try:
            if len(self._queues) == 1:
                await self._pull_and_wait(*self._queues)
            else:
                await self._pull_in_turns()
        except (TimeoutError, nats.errors.Error) as error:
            log.warning("pull_failed", error=str(error))
            self._pulls.forget()

    async def _pull_and_wait(self, only: QueueName) -> None:
        """A single queue: a pull stays open for every free slot."""
        batch = self._pool.free - self._pulls.credits(waiting=True)
        if batch > 0:
            await self._pulls.open(only, batch, PULL_S)

    async def _pull_in_turns(self) -> None:
        """Several queues: a pull without waiting for every free slot, in turns.

        An open pull from the time of a single queue does not count: it may deliver nothing for seconds. If it
        does, `_on_message` returns a request that has no slot.
        """
        for _ in range(self._pool.free - self._pulls.credits(waiting=False)):
            queue = next_queue(self._queues.values(), self._pool.running, self._pool.slots)
            if queue is None:
                return
            queue.served_at = time.monotonic()
            await self._pulls.open(queue.name, 1, 0.0)

    async def _poll_stream(self) -> None:
        """Read the filled queues from the stream itself: events can be lost, and pulls end."""
        while not self._draining:
            self._poll_now.clear()
            with contextlib.suppress(TimeoutError, nats.errors.Error):
                queues = subjects.INFER.matching(model=self._model_key)
                info = await self._bus.js.stream_info(streams.INFER.name, subjects_filter=queues)
                for subject in info.state.subjects or {}:
                    self._queue(queue_of(subject)).filled = True
                for queue in tuple(self._queues.values()):
                    self._set_waiting(queue, await self._pulls.pending(queue.name))
            await self.fill()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._poll_now.wait(), POLL_S)

    def _on_reconnect(self) -> None:
        self._pulls.forget()
        self._poll_now.set()

    def _queue(self, name: QueueName) -> QueueState:
        return self._queues.setdefault(name, QueueState(name))

    async def _on_queued(self, _tokens: dict[str, str], request: RequestQueued) -> None:
        name = QueueName(request.lane, request.key or ANYONE)
        known = name in self._queues
        queue = self._queue(name)
        if not self._pool.free:
            self._set_waiting(queue, queue.waiting + 1)
        if known and len(self._queues) == 1:
            return
        queue.filled = True
        self._retries[name] = RETRIES
        await self.fill()

    async def _on_message(self, msg: Msg) -> None:
        # A request arrives under its own subject, the status of a pull under the inbox.
        if msg.subject.startswith(self._pulls.inbox):
            if (name := self._pulls.close(msg)) is not None:
                await self._on_empty(self._queue(name))
            return
        name = self._pulls.use_credit(msg)
        queue = self._queue(name)
        queue.served_at = time.monotonic()
        self._set_waiting(queue, msg.metadata.num_pending)
        queue.filled = queue.waiting > 0
        if self._draining or not self._pool.free:
            await msg.nak()
            return
        self._pool.take(name, msg)
        if len(self._queues) > 1:
            await self.fill()

    async def _on_empty(self, queue: QueueState) -> None:
        queue.filled = False
        self._set_waiting(queue, 0)
        if len(self._queues) > 1 and self._retries[queue.name] > 0:
            self._retries[queue.name] -= 1
            self._tasks.spawn(self._retry(queue), "retry pull")
        else:
            await self.fill()

    async def _retry(self, queue: QueueState) -> None:
        await asyncio.sleep(RETRY_S)
        queue.filled = True
        await self.fill()

    def _set_waiting(self, queue: QueueState, waiting: int) -> None:
        queue.waiting = waiting
        self._pool.record.set_waiting(sum(known.waiting for known in self._queues.values()))
