"""Delivery of one webhook's events, by a durable consumer of its own, and the health of all webhooks.

A restart loses no event, and a slow receiver delays no other webhook. Health is counted in memory and
published in the bucket `webhook_states`.
"""

import asyncio
import contextlib
import time
from datetime import UTC, datetime

import msgspec
import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext, api

from modelyard.backoff import with_jitter
from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.bus.records import BucketStore
from modelyard.bus.tasks import cancel
from schemas import streams
from schemas.errors import BrokerUnavailable, YardError
from schemas.webhooks import DeadLetter, Webhook, WebhookState
from services.monitor.event_consumer import EventConsumer, fetch
from services.monitor.webhooks.events import WebhookEvent, decode_event, filter_subjects, matches
from services.monitor.webhooks.senders import DeliveryFailed, WebhookSender

log = logs.get(__name__)

CONCURRENCY = 4
ACK_WAIT_S = 6.0
"""When the broker redelivers what a killed monitor had in flight."""
_IN_PROGRESS_S = 2.0
MAX_WAITING = 256
"""Events that may wait for another attempt before newer ones wait in the stream."""
_CONSUMER_CONFIG_CONFLICT = 10012
BACKOFF_S = (1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 14400.0, 28800.0)
"""Pauses before the second attempt, the third, …: about 16 hours in all."""
MAX_ATTEMPTS = len(BACKOFF_S) + 1
_JITTER = 0.2
_MAX_RETRY_AFTER_S = 3600.0
WRITE_S = 1.0
MAX_DEAD = 20
_replace = msgspec.structs.replace


def backoff_s(attempt: int, retry_after_s: float | None = None, spread: float | None = None) -> float:
    """The pause after the failed `attempt` (1, 2, …); the receiver's Retry-After wins, within limits.

    `spread`: 0 to 1, the jitter; None: random.
    """
    if retry_after_s is not None:
        return min(max(retry_after_s, BACKOFF_S[0]), _MAX_RETRY_AFTER_S)
    planned = BACKOFF_S[min(max(attempt, 1), len(BACKOFF_S)) - 1]
    return with_jitter(planned, _JITTER, spread)


def consumer_name(webhook: str) -> str:
    return f"webhook-{webhook}"


class WebhookHealth:
    """Writes changed states once a second, undelivered events at once."""

    def __init__(self, store: BucketStore[WebhookState], states: dict[str, WebhookState]) -> None:
        self._store = store
        self._states = states
        self._dirty: set[str] = set()

    def state(self, name: str) -> WebhookState:
        """The state of a webhook; an empty one before its first delivery."""
        return self._states.get(name) or WebhookState(name=name)

    def record_success(self, name: str) -> None:
        state = self.state(name)
        if state.failing_since is not None:
            log.info("webhook_recovered", webhook=name)
        delivered = state.delivered + 1
        self._set(
            _replace(state, delivered=delivered, delivered_at=time.time(), failing_since=None, error=None)
        )

    def record_failure(self, name: str, error: str) -> None:
        state = self.state(name)
        if state.failing_since is None:
            log.warning("webhook_failed", webhook=name, error=error)
        self._set(_replace(state, failing_since=state.failing_since or time.time(), error=error))

    async def record_undelivered(self, name: str, event: WebhookEvent, attempts: int, error: str) -> None:
        """The last attempt for an event failed; stored before this returns."""
        dead = DeadLetter(id=event.id, event=event.kind, at=time.time(), attempts=attempts, error=error)
        state = self.state(name)
        log.error("webhook_undelivered", webhook=name, event_id=event.id, attempts=attempts, error=error)
        self._set(_replace(state, dead=(dead, *state.dead)[:MAX_DEAD]))
        await self._write(name)

    async def delete(self, name: str) -> None:
        self._dirty.discard(name)
        if self._states.pop(name, None) is not None:
            await self._store.delete(name)

    async def run(self) -> None:
        while True:
            await asyncio.sleep(WRITE_S)
            for name in tuple(self._dirty):
                try:
                    await self._write(name)
                except YardError as error:
                    log.debug("webhook_state_unwritten", webhook=name, reason=error.message)

    def _set(self, state: WebhookState) -> None:
        self._states[state.name] = state
        self._dirty.add(state.name)

    async def _write(self, name: str) -> None:
        state = self._states.get(name)
        self._dirty.discard(name)
        if state is not None:
            try:
                await self._store.put(name, state)
            except YardError:
                self._dirty.add(name)
                raise


class WebhookDelivery(EventConsumer):
    """From the stream to one receiver."""

    def __init__(self, bus: Bus, webhook: Webhook, sender: WebhookSender, health: WebhookHealth) -> None:
        super().__init__(bus, _consumer_config(webhook))
        self._webhook = webhook
        self._sender = sender
        self._health = health
        self._in_flight: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        try:
            await super().run()
        finally:
            await cancel(*self._in_flight)

    async def _consume_batch(self, pull: JetStreamContext.PullSubscription) -> None:
        while len(self._in_flight) >= CONCURRENCY:
            await asyncio.wait(self._in_flight, return_when=asyncio.FIRST_COMPLETED)
        for msg in await fetch(pull, CONCURRENCY - len(self._in_flight)):
            self._start(msg)

    async def _ensure_consumer(self) -> None:
        try:
            await super()._ensure_consumer()
        except nats.js.errors.APIError as error:
            if error.err_code != _CONSUMER_CONFIG_CONFLICT:
                raise
            # Left by a former webhook of this name whose deletion did not reach the broker.
            await self.bus.js.delete_consumer(streams.EVENTS.name, consumer_name(self._webhook.name))
            await super()._ensure_consumer()

    def _start(self, msg: Msg) -> None:
        task = asyncio.create_task(self._deliver_or_log(msg), name=f"webhook {self._webhook.name}")
        self._in_flight.add(task)
        task.add_done_callback(self._in_flight.discard)

    async def _deliver_or_log(self, msg: Msg) -> None:
        try:
            await self._deliver(msg)
        except (TimeoutError, nats.errors.Error, BrokerUnavailable) as error:
            # Not acknowledged: it is redelivered.
            log.debug("webhook_ack_failed", webhook=self._webhook.name, reason=str(error))
        except Exception:
            log.exception("webhook_delivery_failed", webhook=self._webhook.name)

    async def _deliver(self, msg: Msg) -> None:
        try:
            event = decode_event(msg.subject, msg.headers or {}, msg.data)
        except (ValueError, RecursionError) as error:
            log.warning("event_decode_failed", subject=msg.subject, error=str(error))
            await msg.term()
            return
        if event is None or not matches(event, self._webhook.wanted):
            await msg.ack()
            return
        await self._attempt(msg, event)

    async def _attempt(self, msg: Msg, event: WebhookEvent) -> None:
        name, attempt = self._webhook.name, msg.metadata.num_delivered or 1
        heartbeat = asyncio.create_task(_report_progress(msg))
        try:
            await self._sender.send(event)
        except DeliveryFailed as error:
            self._health.record_failure(name, str(error))
            if attempt < MAX_ATTEMPTS:
                await msg.nak(delay=backoff_s(attempt, error.retry_after_s))
            else:
                await self._health.record_undelivered(name, event, attempt, str(error))
                await msg.term()
        else:
            await msg.ack()
            self._health.record_success(name)
        finally:
            await cancel(heartbeat)


async def _report_progress(msg: Msg) -> None:
    while True:
        await asyncio.sleep(_IN_PROGRESS_S)
        with contextlib.suppress(nats.errors.Error):
            await msg.in_progress()


def _consumer_config(webhook: Webhook) -> api.ConsumerConfig:
    return api.ConsumerConfig(
        name=consumer_name(webhook.name),
        durable_name=consumer_name(webhook.name),
        filter_subjects=filter_subjects(webhook.wanted),
        # No event from before the webhook was created; a lost consumer starts from there again.
        deliver_policy=api.DeliverPolicy.BY_START_TIME,
        opt_start_time=datetime.fromtimestamp(webhook.created_at, UTC),
        ack_policy=api.AckPolicy.EXPLICIT,
        ack_wait=ACK_WAIT_S,
        max_ack_pending=MAX_WAITING,
    )
