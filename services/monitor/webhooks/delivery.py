"""One hook's deliveries: a durable consumer of its own, so that whoever dies, and whoever does not answer,
costs no event and holds up no other hook."""

import asyncio
import contextlib
from datetime import UTC, datetime

import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext, api

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.bus.tasks import cancel
from schemas import streams
from schemas.errors import BrokerUnavailable
from schemas.webhooks import Webhook
from services.monitor.webhooks.backoff import MAX_ATTEMPTS, pause_s
from services.monitor.webhooks.health import Health
from services.monitor.webhooks.occurrence import Occurrence, filters, is_wanted, occurrence_of
from services.monitor.webhooks.sender import NotDelivered, Sender

log = logs.get(__name__)

AT_ONCE = 4
ACK_WAIT_S = 6.0
"""After this the broker gives again what a killed monitor had in its hands."""
_BEAT_S = 2.0
"""How often it is told that an attempt is still under way."""
MAX_WAITING = 256
"""So many may wait for another attempt before newer events wait in the stream."""
_FETCH_S = 2.0
_CANNOT_CHANGE = 10012
_RETRY_PAUSE_S = 0.5


def consumer_name(hook: str) -> str:
    """Of the durable consumer that remembers where a hook is."""
    return f"webhook-{hook}"


class Delivery:
    """From the stream to one receiver."""

    def __init__(self, bus: Bus, hook: Webhook, sender: Sender, health: Health) -> None:
        self._bus = bus
        self._hook = hook
        self._sender = sender
        self._health = health
        self._at_work: set[asyncio.Task[None]] = set()
        self._interrupted = False

    async def run(self) -> None:
        """Deliver until cancelled."""
        try:
            while True:
                await self._follow_or_log()
                await asyncio.sleep(_RETRY_PAUSE_S)
        finally:
            await cancel(*self._at_work)

    async def _follow_or_log(self) -> None:
        try:
            await self._follow()
        except (TimeoutError, nats.errors.Error, BrokerUnavailable) as error:
            if not self._interrupted:
                reason = str(error) or type(error).__name__
                log.warning("webhook_interrupted", webhook=self._hook.name, reason=reason)
            self._interrupted = True

    async def _follow(self) -> None:
        """Until the broker is away; the consumer is made where it is missing."""
        self._bus.check(b"")
        await self._make_consumer()
        pull = await self._bus.js.pull_subscribe_bind(consumer_name(self._hook.name), streams.EVENTS.name)
        self._interrupted = False
        try:
            while self._bus.connected:
                await self._room()
                for msg in await _fetch(pull, AT_ONCE - len(self._at_work)):
                    self._begin(msg)
        finally:
            if not self._bus.nc.is_closed:
                await pull.unsubscribe()

    async def _make_consumer(self) -> None:
        """Or have it as this hook says now."""
        config = _consumer(self._hook)
        try:
            await self._bus.js.add_consumer(streams.EVENTS.name, config)
        except nats.js.errors.APIError as error:
            if error.err_code != _CANNOT_CHANGE:
                raise
            # One of a hook that had this name before, whose end the broker did not hear of.
            await self._bus.js.delete_consumer(streams.EVENTS.name, consumer_name(self._hook.name))
            await self._bus.js.add_consumer(streams.EVENTS.name, config)

    async def _room(self) -> None:
        while len(self._at_work) >= AT_ONCE:
            await asyncio.wait(self._at_work, return_when=asyncio.FIRST_COMPLETED)

    def _begin(self, msg: Msg) -> None:
        task = asyncio.create_task(self._deliver_or_log(msg), name=f"webhook {self._hook.name}")
        self._at_work.add(task)
        task.add_done_callback(self._at_work.discard)

    async def _deliver_or_log(self, msg: Msg) -> None:
        try:
            await self._deliver(msg)
        except (TimeoutError, nats.errors.Error, BrokerUnavailable) as error:
            # It was not acknowledged, so it comes again.
            log.debug("webhook_not_acknowledged", webhook=self._hook.name, reason=str(error))
        except Exception:
            log.exception("webhook_failed", webhook=self._hook.name)

    async def _deliver(self, msg: Msg) -> None:
        try:
            occurrence = occurrence_of(msg.subject, msg.headers or {}, msg.data)
        except (ValueError, RecursionError) as error:
            log.warning("event_not_understood", subject=msg.subject, error=str(error))
            await msg.term()
            return
        if occurrence is None or not is_wanted(occurrence, self._hook.wanted):
            await msg.ack()
            return
        await self._try(msg, occurrence)

    async def _try(self, msg: Msg, occurrence: Occurrence) -> None:
        name, attempt = self._hook.name, msg.metadata.num_delivered or 1
        beating = asyncio.create_task(_beat(msg))
        try:
            await self._sender.send(occurrence)
        except NotDelivered as error:
            self._health.failed(name, str(error))
            if attempt < MAX_ATTEMPTS:
                await msg.nak(delay=pause_s(attempt, error.retry_after_s))
            else:
                await self._health.give_up(name, occurrence, attempt, str(error))
                await msg.term()
        else:
            await msg.ack()
            self._health.went_well(name)
        finally:
            await cancel(beating)


async def _beat(msg: Msg) -> None:
    while True:
        await asyncio.sleep(_BEAT_S)
        with contextlib.suppress(nats.errors.Error):
            await msg.in_progress()


def _consumer(hook: Webhook) -> api.ConsumerConfig:
    return api.ConsumerConfig(
        name=consumer_name(hook.name),
        durable_name=consumer_name(hook.name),
        filter_subjects=filters(hook.wanted),
        # Nothing of before the hook was made, and, should the consumer be lost, nothing less than since then.
        deliver_policy=api.DeliverPolicy.BY_START_TIME,
        opt_start_time=datetime.fromtimestamp(hook.created_at, UTC),
        ack_policy=api.AckPolicy.EXPLICIT,
        ack_wait=ACK_WAIT_S,
        max_ack_pending=MAX_WAITING,
    )


async def _fetch(pull: JetStreamContext.PullSubscription, count: int) -> list[Msg]:
    try:
        return await pull.fetch(count, timeout=_FETCH_S)
    except TimeoutError:
        return []
