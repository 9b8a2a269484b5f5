"""The typed bus over nats-py: publish, emit, subscribe and call by the subjects of the contract."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import JetStreamContext

from modelyard.bus import audit, logs
from modelyard.bus.outbox import Message, Outbox
from modelyard.host import credentials
from modelyard.host.settings import Settings
from schemas.audit import Actor
from schemas.base import Role, inbox_prefix, new_id
from schemas.errors import (
    BodyTooLarge,
    BrokerUnavailable,
    DeadlineExceeded,
    ErrorBody,
    InternalError,
    ServiceUnavailable,
    from_body,
)
from schemas.subject import Command, Subject

log = logs.get(__name__)
T = TypeVar("T")
R = TypeVar("R")

NatsError = nats.errors.Error
"""The base class of nats-py's exceptions."""
HEADER_ALLOWANCE_BYTES = 4096
"""Headers count towards max_payload, and one byte too many closes the connection for good."""
ACK_TIMEOUT_S = 2.0
FLUSH_TIMEOUT_S = 2
RETRY_PAUSE_S = 0.25

Handler = Callable[[dict[str, str], T], Awaitable[None]]
"""Takes the subject's tokens and the payload. Runs one at a time a subscription: never wait long in it."""


class Bus:
    """One connection to the broker in one role."""

    def __init__(self, role: Role, source: str) -> None:
        self.role = role
        self.node = source.split("/")[2]
        self.source = source
        """CloudEvents `source` of what this process emits."""
        self._actor = audit.own_actor(role, self.node)
        self.closed = asyncio.Event()
        """Set when the connection is closed for good; the process should exit and be restarted."""
        self._closing = False
        self._last_error = ""
        self._reconnect_hooks: set[Callable[[], None]] = set()
        self.nc = Client()
        self._outbox = Outbox(self.nc)
        self.js: JetStreamContext

    @classmethod
    async def connect(cls, settings: Settings, role: Role, *, url: str, timeout_s: float = 10.0) -> "Bus":
        """Log in as `role`; BrokerUnavailable with a sentence if that does not work in time."""
        bus = cls(role, f"/modelyard/{settings.node}/{role}")
        try:
            seed = credentials.read_seed(settings.credentials, role)
        except OSError as error:
            raise BrokerUnavailable(
                f"No credentials for {role} in {settings.credentials}; is YARD_HOME right, "
                f"and was `yard up` started there once?"
            ) from error
        try:
            await asyncio.wait_for(bus._connect(url, seed), timeout_s)
        except (OSError, TimeoutError, nats.errors.Error) as error:
            raise BrokerUnavailable(
                f"The broker at {url} does not answer or does not let {role} in."
            ) from error
        return bus

    async def _connect(self, url: str, seed: str) -> None:
        await self.nc.connect(
            url,
            nkeys_seed_str=seed,
            name=self.source,
            inbox_prefix=inbox_prefix(self.role).encode(),
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.25,  # type: ignore[arg-type]  # seconds; a fraction is fine
            # A silently cut connection is detected within 15 s and re-established; the broker, on which
            # others depend, detects it within 9 s. A broker that stalls for less keeps all its clients.
            ping_interval=5,
            max_outstanding_pings=2,
            flush_timeout=5,
            drain_timeout=3,
            error_cb=self._on_error,
            reconnected_cb=self._on_reconnect,
            disconnected_cb=self._on_disconnect,
            closed_cb=self._on_closed,
        )
        self.js = self.nc.jetstream(timeout=ACK_TIMEOUT_S)

    async def _on_error(self, error: Exception) -> None:
        # It is awaited inside the read loop: an exception from here would silence the connection.
        message = str(error) or type(error).__name__
        if message != self._last_error:
            # Four tries a second to reconnect would fill a log with one sentence.
            log.warning("broker_error", error=message)
        self._last_error = message

    async def _on_disconnect(self) -> None:
        if not self._closing:
            log.warning("broker_disconnected")

    async def _on_reconnect(self) -> None:
        log.info("broker_reconnected")
        self._last_error = ""
        for hook in tuple(self._reconnect_hooks):
            hook()

    async def _on_closed(self) -> None:
        self.closed.set()

    def on_reconnect(self, hook: Callable[[], None]) -> Callable[[], None]:
        """Call `hook` after every reconnect; the returned function takes it away again."""
        self._reconnect_hooks.add(hook)
        return lambda: self._reconnect_hooks.discard(hook)

    @property
    def connected(self) -> bool:
        return self.nc.is_connected

    @property
    def max_body_bytes(self) -> int:
        """The largest payload that the broker accepts beside our headers."""
        return self.nc.max_payload - HEADER_ALLOWANCE_BYTES

    def check(self, data: bytes) -> None:
        """BrokerUnavailable or BodyTooLarge rather than a message that is lost or closes the connection."""
        if not self.connected:
            raise BrokerUnavailable("The broker cannot be reached now; try again in a moment.")
        if len(data) > self.max_body_bytes:
            raise BodyTooLarge(f"The message has {len(data)} bytes; at most {self.max_body_bytes} are taken.")

    async def publish(self, subject: Subject[T], payload: T, **tokens: str) -> None:
        """Send and forget."""
        data = subject.encode(payload)
        self.check(data)
        await self.nc.publish(subject(**tokens), data)

    async def emit(
        self,
        event: Subject[T],
        payload: T,
        *,
        event_id: str | None = None,
        timeout_s: float = 30.0,
        **tokens: str,
    ) -> None:
        """Store an event; tried again for `timeout_s`, and stored once however often it is tried.

        `event_id`: where two sides may report the same fact, the id that makes it one event.
        """
        subject, data, headers = self._event(event, payload, tokens, event_id)
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                self.check(data)
                await self.js.publish(subject, data, headers=dict(headers), timeout=ACK_TIMEOUT_S)
                return
            except (TimeoutError, nats.errors.Error, BrokerUnavailable) as error:
                if time.monotonic() > deadline:
                    raise BrokerUnavailable(f"{subject} could not be stored.") from error
            await asyncio.sleep(RETRY_PAUSE_S)

    async def emit_nowait(self, event: Subject[T], payload: T, **tokens: str) -> None:
        """Send an event without waiting for its storage: for the hot path, where losing one costs little."""
        message = self._event(event, payload, tokens)
        self.check(message.data)
        await self.nc.publish(message.subject, message.data, headers=message.headers)

    def publish_batched(self, event: Subject[T], payload: T, **tokens: str) -> None:
        """Send an event a moment later, with others in one write; it is lost where the broker is away."""
        self._outbox.publish_batched(self._event(event, payload, tokens))

    async def publish_with_retry(
        self, event: Subject[T], payload: T, *, event_id: str | None = None, **tokens: str
    ) -> None:
        """Publish an event now, and again until it is stored; `wait_for_acks` waits for all of them."""
        await self._outbox.publish_with_retry(self._event(event, payload, tokens, event_id))

    async def wait_for_acks(self) -> None:
        """Return when every event given to `publish_with_retry` is stored, or given up and logged."""
        await self._outbox.wait_for_acks()

    def _event(
        self, event: Subject[T], payload: T, tokens: dict[str, str], event_id: str | None = None
    ) -> Message:
        subject, event_id = event(**tokens), event_id or new_id()
        headers = {
            "Nats-Msg-Id": event_id,
            "ce-specversion": "1.0",
            "ce-id": event_id,
            "ce-type": event.event_type(subject),
            "ce-source": self.source,
            "ce-time": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            "content-type": "application/json",
        }
        return Message(subject, event.encode(payload), headers)

    async def subscribe(
        self, subject: Subject[T], handler: Handler[T], *, queue: str = "", **tokens: str
    ) -> Subscription:
        """Hand every message to `handler`; an undecodable one or a failing handler is logged, never fatal."""

        async def on_message(msg: Msg) -> None:
            try:
                await handler(subject.parse(msg.subject), subject.decode(msg.data))
            except asyncio.CancelledError:
                # Let out of a callback it would end the subscription silently, unless it is our own end.
                if self.nc.is_closed:
                    raise
                log.warning("handler_cancelled", subject=msg.subject)
            except Exception:
                log.exception("handler_failed", subject=msg.subject)

        subscription = await self.nc.subscribe(subject.matching(**tokens), queue=queue, cb=on_message)
        await self.flush_subscriptions()
        return subscription

    async def flush_subscriptions(self) -> None:
        """Wait until the broker has processed all that was sent, so that every subscription is active."""
        try:
            # nats-py writes a PING past what waits to be sent: only the second comes after all of it.
            await self.nc.flush(timeout=FLUSH_TIMEOUT_S)
            await self.nc.flush(timeout=FLUSH_TIMEOUT_S)
        except (TimeoutError, nats.errors.Error) as error:
            # After a reconnect nats-py subscribes again.
            log.warning("broker_slow", error=str(error) or type(error).__name__)

    async def call(
        self,
        command: Command[T, R],
        payload: T,
        *,
        timeout_s: float | None = None,
        by: Actor | None = None,
        **tokens: str,
    ) -> R:
        """Send a request and wait for the reply; an error of the server is raised here unchanged.

        `timeout_s`: other than the command's own. `by`: for whom, where it is not for ourselves.
        """
        timeout_s = timeout_s or command.timeout_s
        data = command.encode(payload)
        self.check(data)
        subject = command(**tokens)
        try:
            headers = audit.actor_headers(by or self._actor) if command.changes else None
            msg = await self.nc.request(subject, data, timeout=timeout_s, headers=headers)
        except nats.errors.NoRespondersError as error:
            raise ServiceUnavailable(f"The {command.server} is not there to answer {subject}.") from error
        except (TimeoutError, nats.errors.Error) as error:
            raise DeadlineExceeded(
                f"The {command.server} did not answer {subject} in {timeout_s:g} s."
            ) from error
        raise_error(msg)
        return command.decode_reply(msg.data)

    async def close(self) -> None:
        """Drain, then disconnect."""
        self._closing = True
        if not self.nc.is_closed:
            try:
                await asyncio.wait_for(self.nc.drain(), 5)
            except (TimeoutError, nats.errors.Error):
                await self.nc.close()


def raise_error(msg: Msg) -> None:
    """Raise the error that a reply carries, if it is one."""
    headers: dict[str, Any] = msg.headers or {}
    if "Nats-Service-Error-Code" not in headers:
        return
    try:
        body = msgspec.json.decode(msg.data, type=ErrorBody)
    except msgspec.DecodeError:
        raise InternalError(
            headers.get("Nats-Service-Error", "The service failed without a reason.")
        ) from None
    raise from_body(body)
