"""Taking work: requests are asked of the broker only for slots that are free, and in turns."""

import asyncio
import collections
import contextlib
import time

import nats.errors
import nats.js.errors
from nats.aio.msg import Msg

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.bus.tasks import Tasks
from schemas import streams, subjects
from schemas.base import model_key
from schemas.requests import ANYONE, RequestQueued
from services.supervisor.runner.desk import Desk
from services.supervisor.runner.fair import Queue, QueueName, whose_turn
from services.supervisor.runner.pulls import Pulls, queue_of

log = logs.get(__name__)

PULL_S = 5.0
"""How long a pull on the only queue there is stays open."""
LOOK_S = 5.0
"""Even without a word that something waits: words can be lost."""
NOT_THERE_YET_S = 0.005
"""The word of a request may be faster than the request: pause before looking once more."""
LOOKS_AFTER_WORD = 4


class Intake:
    """Fills the slots of one engine from the queues of its model."""

    def __init__(self, bus: Bus, tasks: Tasks, model: str, desk: Desk) -> None:
        self._bus = bus
        self._tasks = tasks
        self._model = model_key(model)
        self._desk = desk
        self._pulls = Pulls(bus, model, self._on_request, self._on_empty)
        self._queues: dict[QueueName, Queue] = {}
        self._looks_left: collections.Counter[QueueName] = collections.Counter()
        self._draining = False
        self._look_now = asyncio.Event()

    async def open(self) -> None:
        """Begin to take work."""
        await self._pulls.start()
        await self._bus.subscribe(subjects.REQUEST_QUEUED, self._on_word, model=self._model)
        self._bus.on_reconnect(self._on_reconnect)
        self._desk.on_free = self.fill
        self._tasks.spawn(self._keep_looking(), "intake")

    @property
    def busy(self) -> int:
        return self._desk.busy

    async def drain(self) -> None:
        """Take no new work, and return when what runs has ended."""
        self._draining = True
        await self._desk.idle()

    async def fill(self) -> None:
        """Ask for as many requests as there are free slots."""
        if self._draining:
            return
        try:
            if len(self._queues) == 1:
                await self._wait_at(*self._queues)
            else:
                await self._look_around()
        except (TimeoutError, nats.errors.Error, nats.js.errors.Error) as error:
            log.warning("pull_failed", error=str(error))
            self._pulls.forget()

    async def _wait_at(self, only: QueueName) -> None:
        """There is but one queue: a pull stays open for every free slot."""
        wanted = self._desk.free - self._pulls.credits(waiting=True)
        if wanted > 0:
            await self._pulls.open(only, wanted, PULL_S)

    async def _look_around(self) -> None:
        """Several queues: one short look for every free slot, in turns.

        A pull that still waits from the time of the only queue does not count: it may bring nothing for
        seconds. If it does, `_on_request` gives back what there is no slot for.
        """
        for _ in range(self._desk.free - self._pulls.credits(waiting=False)):
            queue = whose_turn(self._queues.values(), self._desk.running, self._desk.slots)
            if queue is None:
                return
            queue.served_at = time.monotonic()
            await self._pulls.open(queue.name, 1, 0.0)

    async def _keep_looking(self) -> None:
        """Words can be lost, pulls end: look at the stream itself now and then."""
        while not self._draining:
            self._look_now.clear()
            with contextlib.suppress(TimeoutError, nats.errors.Error, nats.js.errors.Error):
                info = await self._bus.js.stream_info(
                    streams.INFER.name, subjects_filter=subjects.INFER.matching(model=self._model)
                )
                for subject in info.state.subjects or {}:
                    self._queue(queue_of(subject)).filled = True
                for queue in tuple(self._queues.values()):
                    self._note(queue, await self._pulls.pending(queue.name))
            await self.fill()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._look_now.wait(), LOOK_S)

    def _on_reconnect(self) -> None:
        self._pulls.forget()
        self._look_now.set()

    def _queue(self, name: QueueName) -> Queue:
        return self._queues.setdefault(name, Queue(name))

    async def _on_word(self, _tokens: dict[str, str], request: RequestQueued) -> None:
        """Somebody queued a request for our model, perhaps in a queue we did not know."""
        name = QueueName(request.lane, request.key or ANYONE)
        known = name in self._queues
        queue = self._queue(name)
        if not self._desk.free:
            self._note(queue, queue.waiting + 1)
        if known and len(self._queues) == 1:
            return
        queue.filled = True
        self._looks_left[name] = LOOKS_AFTER_WORD
        await self.fill()

    async def _on_request(self, name: QueueName, msg: Msg) -> None:
        queue = self._queue(name)
        queue.served_at = time.monotonic()
        self._note(queue, msg.metadata.num_pending)
        queue.filled = queue.waiting > 0
        if self._draining or not self._desk.free:
            await msg.nak()
            return
        self._desk.take(name, msg)
        if len(self._queues) > 1:
            await self.fill()

    def _note(self, queue: Queue, waiting: int) -> None:
        queue.waiting = waiting
        self._desk.life.set_waiting(sum(one.waiting for one in self._queues.values()))

    async def _on_empty(self, name: QueueName) -> None:
        queue = self._queue(name)
        queue.filled = False
        self._note(queue, 0)
        if len(self._queues) > 1 and self._looks_left[name] > 0:
            self._looks_left[name] -= 1
            self._tasks.spawn(self._look_again(queue), "look again")
        else:
            await self.fill()

    async def _look_again(self, queue: Queue) -> None:
        await asyncio.sleep(NOT_THERE_YET_S)
        queue.filled = True
        await self.fill()
