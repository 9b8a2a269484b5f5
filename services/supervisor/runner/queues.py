"""The queues of a model: which is served next, and pull requests without a task or subscription for each."""

import itertools
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec
from nats.aio.msg import Msg
from nats.js import api

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from schemas import streams, subjects
from schemas.requests import Lane

log = logs.get(__name__)

ACK_WAIT_S = 6.0
"""The broker redelivers a request whose runner has sent no ack for so long."""
EXPIRY_MARGIN_S = 1.0
"""How much longer than the broker the runner waits for the end of a pull."""
CONSUMER_IDLE_S = 3600.0
"""The broker deletes a consumer without pulls for so long; it is created again when needed."""


@dataclass(frozen=True, order=True)
class QueueName:
    """One queue of a model: the requests of one key in one lane."""

    lane: Lane
    key: str


@dataclass
class QueueState:
    """A queue as the runner has last seen it."""

    name: QueueName
    filled: bool = False
    """Whether it may have requests."""
    waiting: int = 0
    """The number of requests: exact whenever one is taken, an estimate between."""
    served_at: float = 0.0
    """Monotonic seconds of the last request taken from it."""


def max_batch_slots(slots: int) -> int:
    """The slots that the lane `batch` may use: one stays free for interactive requests."""
    return max(1, slots - 1)


def next_queue(
    queues: Iterable[QueueState], running: Mapping[QueueName, int], slots: int
) -> QueueState | None:
    """The queue to serve: `interactive` first, then the fewest running, then the least recently served."""
    running_batch = sum(count for name, count in running.items() if name.lane is Lane.BATCH)
    lanes = {Lane.INTERACTIVE} if running_batch >= max_batch_slots(slots) else set(Lane)
    return min(
        (queue for queue in queues if queue.filled and queue.name.lane in lanes),
        key=lambda queue: (
            queue.name.lane is Lane.BATCH,
            running.get(queue.name, 0),
            queue.served_at,
            queue.name.key,
        ),
        default=None,
    )


@dataclass
class Pull:
    queue: QueueName
    credits: int
    """Requests that it may still deliver."""
    wait_s: float
    expires_at: float
    """Monotonic seconds after which the broker has certainly dropped it."""


class Pulls:
    """The open pulls of one runner. Their messages arrive at `inbox`."""

    def __init__(self, bus: Bus, model_key: str) -> None:
        self.inbox = bus.nc.new_inbox()
        self._bus = bus
        self._model_key = model_key
        self._numbers = itertools.count()
        self._open: dict[str, Pull] = {}
        self._consumers: set[QueueName] = set()

    def forget(self) -> None:
        """After a reconnect: the broker has dropped all pulls, and maybe the consumers."""
        self._open.clear()
        self._consumers.clear()

    def credits(self, *, waiting: bool) -> int:
        """Requests that may still arrive: of pulls that wait for new ones, or of those that do not."""
        self._drop_expired()
        return sum(pull.credits for pull in self._open.values() if bool(pull.wait_s) is waiting)

    async def open(self, queue: QueueName, batch: int, wait_s: float) -> None:
        """Request up to `batch` messages; without `wait_s` only those that are in the queue now."""
        number = str(next(self._numbers))
        self._open[number] = Pull(queue, batch, wait_s, time.monotonic() + wait_s + EXPIRY_MARGIN_S)
        options = {"expires": int(wait_s * 1e9)} if wait_s else {"no_wait": True}
        try:
            await self._ensure_consumer(queue)
            await self._bus.nc.publish(
                f"$JS.API.CONSUMER.MSG.NEXT.{streams.INFER.name}.{self._consumer(queue)}",
                msgspec.json.encode({"batch": batch, **options}),
                reply=f"{self.inbox}.{number}",
            )
        except BaseException:
            self._open.pop(number, None)
            raise

    async def pending(self, queue: QueueName) -> int:
        """The number of requests in a queue; no event reports those that leave it otherwise."""
        if queue not in self._consumers:
            return 0
        info = await self._bus.js.consumer_info(streams.INFER.name, self._consumer(queue))
        return info.num_pending or 0

    def use_credit(self, msg: Msg) -> QueueName:
        """Count a delivered request; the queue that it comes from."""
        queue = queue_of(msg.subject)
        number = next((number for number, pull in self._open.items() if pull.queue == queue), None)
        if number is not None:
            self._open[number].credits -= 1
            if not self._open[number].credits:
                del self._open[number]
        return queue

    def close(self, msg: Msg) -> QueueName | None:
        """Handle a status message; the queue whose pull has ended, if one has."""
        status = (msg.headers or {}).get("Status")
        if status == "100":
            return None
        pull = self._open.pop(msg.subject.rsplit(".", 1)[1], None)
        if status not in ("404", "408"):
            log.warning("pull_ended", status=status, reason=(msg.headers or {}).get("Description"))
            self._consumers.clear()
        return pull.queue if pull is not None else None

    def _drop_expired(self) -> None:
        now = time.monotonic()
        for number, pull in tuple(self._open.items()):
            if pull.expires_at < now:
                del self._open[number]

    def _consumer(self, queue: QueueName) -> str:
        return f"runner-{self._model_key}-{queue.lane}-{queue.key}"

    async def _ensure_consumer(self, queue: QueueName) -> None:
        if queue in self._consumers:
            return
        name = self._consumer(queue)
        config = api.ConsumerConfig(
            name=name,
            durable_name=name,
            filter_subject=subjects.INFER(model=self._model_key, lane=queue.lane, key=queue.key),
            ack_policy=api.AckPolicy.EXPLICIT,
            ack_wait=ACK_WAIT_S,
            max_ack_pending=1000,
            inactive_threshold=CONSUMER_IDLE_S,
        )
        await self._bus.js.add_consumer(streams.INFER.name, config)
        self._consumers.add(queue)


def queue_of(subject: str) -> QueueName:
    tokens = subjects.INFER.parse(subject)
    return QueueName(Lane(tokens["lane"]), tokens["key"])
