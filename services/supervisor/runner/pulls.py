"""Pull requests on the work queue, without a task or a subscription each."""

import itertools
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec
from nats.aio.msg import Msg
from nats.js import api

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from schemas import streams, subjects
from schemas.base import model_key
from schemas.requests import Lane
from services.supervisor.runner.fair import QueueName

log = logs.get(__name__)

ACK_WAIT_S = 6.0
"""A request whose runner said nothing for so long is given to another."""
GRACE_S = 1.0
"""How much longer than the broker we wait for the end of a pull."""
CONSUMER_IDLE_S = 3600.0
"""A queue that nobody asked for so long is forgotten by the broker; it is made again when needed."""


@dataclass
class Pull:
    """One open pull."""

    queue: QueueName
    credits: int
    """How many requests it may still bring."""
    wait_s: float
    over_at: float
    """Monotonic seconds after which the broker has surely forgotten it."""


class Pulls:
    """The open pulls of one runner. `take` gets every request, `over` hears that a pull found nothing."""

    def __init__(
        self,
        bus: Bus,
        model: str,
        take: Callable[[QueueName, Msg], Awaitable[None]],
        over: Callable[[QueueName], Awaitable[None]],
    ) -> None:
        self._bus = bus
        self._model = model_key(model)
        self._take = take
        self._over = over
        self._inbox = bus.nc.new_inbox()
        self._numbers = itertools.count()
        self._open: dict[str, Pull] = {}
        self._known: set[QueueName] = set()

    async def start(self) -> None:
        """Listen for what pulls bring."""
        await self._bus.nc.subscribe(f"{self._inbox}.*", cb=self._on_message)
        self._bus.on_reconnect(self.forget)

    def forget(self) -> None:
        """A broker that was away knows nothing of open pulls, and perhaps of consumers."""
        self._open.clear()
        self._known.clear()

    def credits(self, *, waiting: bool) -> int:
        """How many requests may still come: from pulls that wait for some, or from those that only look."""
        self._drop_old()
        return sum(pull.credits for pull in self._open.values() if bool(pull.wait_s) is waiting)

    async def open(self, queue: QueueName, wanted: int, wait_s: float) -> None:
        """Ask for up to `wanted` requests; without `wait_s` only for those that wait already."""
        number = str(next(self._numbers))
        self._open[number] = Pull(queue, wanted, wait_s, time.monotonic() + wait_s + GRACE_S)
        how = {"expires": int(wait_s * 1e9)} if wait_s else {"no_wait": True}
        try:
            await self._ensure(queue)
            await self._bus.nc.publish(
                f"$JS.API.CONSUMER.MSG.NEXT.{streams.INFER.name}.{self._consumer(queue)}",
                msgspec.json.encode({"batch": wanted, **how}),
                reply=f"{self._inbox}.{number}",
            )
        except BaseException:
            self._open.pop(number, None)
            raise

    async def pending(self, queue: QueueName) -> int:
        """How many wait in a queue; those that leave it unasked are not told of."""
        if queue not in self._known:
            return 0
        info = await self._bus.js.consumer_info(streams.INFER.name, self._consumer(queue))
        return info.num_pending or 0

    def _drop_old(self) -> None:
        now = time.monotonic()
        for number, pull in tuple(self._open.items()):
            if pull.over_at < now:
                del self._open[number]

    def _consumer(self, queue: QueueName) -> str:
        return f"runner-{self._model}-{queue.lane}-{queue.key}"

    async def _ensure(self, queue: QueueName) -> None:
        if queue in self._known:
            return
        name = self._consumer(queue)
        config = api.ConsumerConfig(
            name=name,
            durable_name=name,
            filter_subject=subjects.INFER(model=self._model, lane=queue.lane, key=queue.key),
            ack_policy=api.AckPolicy.EXPLICIT,
            ack_wait=ACK_WAIT_S,
            max_ack_pending=1000,
            inactive_threshold=CONSUMER_IDLE_S,
        )
        await self._bus.js.add_consumer(streams.INFER.name, config)
        self._known.add(queue)

    async def _on_message(self, msg: Msg) -> None:
        # A request comes under its own subject, the end of a pull under the pull's.
        if msg.subject.startswith(self._inbox):
            await self._on_status(msg.subject.rsplit(".", 1)[1], msg.headers or {})
            return
        queue = queue_of(msg.subject)
        number = next((number for number, pull in self._open.items() if pull.queue == queue), None)
        if number is not None:
            self._open[number].credits -= 1
            if not self._open[number].credits:
                del self._open[number]
        await self._take(queue, msg)

    async def _on_status(self, number: str, headers: dict[str, str]) -> None:
        if headers.get("Status") == "100":
            return
        pull = self._open.pop(number, None)
        if headers.get("Status") not in ("404", "408"):
            log.warning("pull_ended", status=headers.get("Status"), reason=headers.get("Description"))
            self._known.clear()
        if pull is not None:
            await self._over(pull.queue)


def queue_of(subject: str) -> QueueName:
    """The queue that a request's subject names."""
    tokens = subjects.INFER.parse(subject)
    return QueueName(Lane(tokens["lane"]), tokens["key"])
