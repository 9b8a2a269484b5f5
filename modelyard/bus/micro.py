"""Commands as a NATS micro service: decode, call the handler, reply with its result or with its error.

`nats.micro` hides the reply subject of a request, which is what proves the role of its sender; so requests
are received here, and described under `$SRV` in the shapes of `nats.micro`.
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.micro.request import ERROR_CODE_HEADER, ERROR_HEADER
from nats.micro.service import (
    EndpointInfo,
    EndpointStats,
    ServiceInfo,
    ServicePing,
    ServiceStats,
    ServiceVerb,
    control_subject,
)

import modelyard
from modelyard.bus import audit, logs
from modelyard.bus.connection import Bus
from modelyard.bus.tasks import Tasks
from schemas import subjects
from schemas.audit import NO_TARGET, Audited, AuditedChange, AuditOutcome
from schemas.base import Role, new_id, role_of_inbox
from schemas.errors import ErrorDetail, InternalError, InvalidJson, YardError
from schemas.subject import Command

log = logs.get(__name__)
T = TypeVar("T")
R = TypeVar("R")

_AUDIT_TIMEOUT_S = 2.0
_MAX_TARGET = 200
_QUEUE = "q"
"""The queue group that NATS services share, so that one of several answers."""
_SRV = "$SRV"


class Request:
    """A command as it arrived. `reply`: the sender's inbox, which only its role can subscribe to."""

    def __init__(self, nc: Client, msg: Msg) -> None:
        self.subject = msg.subject
        self.data = msg.data
        self.headers: dict[str, str] = msg.headers or {}
        self.reply = msg.reply
        self._nc = nc

    @property
    def sender(self) -> Role:
        return role_of_inbox(self.reply)

    async def respond(self, data: bytes = b"", headers: dict[str, str] | None = None) -> None:
        await self._nc.publish(self.reply, data, headers=headers)

    async def respond_error(self, error: YardError) -> None:
        """The one shape of an error, with the headers that NATS services use for it."""
        headers = {ERROR_HEADER: error.message.replace("\n", " "), ERROR_CODE_HEADER: error.code}
        await self.respond(error.encode(), headers)


CommandHandler = Callable[[T], Awaitable[R]]
CallerHandler = Callable[[T, Role], Awaitable[R]]
"""A CommandHandler that also takes the role of the sender."""
RawHandler = Callable[[Request], Awaitable[None]]


@dataclass
class _Endpoint:
    name: str
    subject: str
    subscription: Subscription
    requests: int = 0
    errors: int = 0
    last_error: str | None = None
    busy_s: float = 0.0


@dataclass
class Commands:
    """The commands that one service answers, discoverable under `$SRV` once announced."""

    bus: Bus
    tasks: Tasks
    description: str
    _id: str = field(default_factory=new_id)
    _started: datetime = field(default_factory=lambda: datetime.now(UTC))
    _endpoints: list[_Endpoint] = field(default_factory=list)
    _discovery: list[Subscription] = field(default_factory=list)

    @classmethod
    def open(cls, bus: Bus, tasks: Tasks, description: str) -> "Commands":
        """Ready to take commands; not discoverable before `announce`."""
        return cls(bus, tasks, description)

    @classmethod
    async def start(cls, bus: Bus, tasks: Tasks, description: str) -> "Commands":
        """Announced at once, for services that add commands over time."""
        commands = cls.open(bus, tasks, description)
        await commands.announce()
        return commands

    async def announce(self) -> None:
        """Answer discovery under the role's name: `yard up` takes that for readiness."""
        answers = {ServiceVerb.PING: self._ping, ServiceVerb.INFO: self._info, ServiceVerb.STATS: self._stats}
        name = str(self.bus.role)
        for verb, answer in answers.items():
            on_message = _replying(self.bus.nc, answer)
            for named, identified in ((None, None), (name, None), (name, self._id)):
                subject = control_subject(verb, name=named, id=identified, prefix=_SRV)
                self._discovery.append(await self.bus.nc.subscribe(subject, cb=on_message))
        await self.bus.flush_subscriptions()

    async def stop(self) -> None:
        """Stop receiving; running handlers continue until their tasks end."""
        for subscription in (*self._discovery, *(endpoint.subscription for endpoint in self._endpoints)):
            await subscription.unsubscribe()
        self._discovery.clear()
        self._endpoints.clear()

    async def add(self, command: Command[T, R], handler: CommandHandler[T, R], **tokens: str) -> None:
        """Answer `command` with what `handler` returns, or with the error it raises."""

        async def without_caller(payload: T, _caller: Role) -> R:
            return await handler(payload)

        await self.add_with_caller(command, without_caller, **tokens)

    async def add_with_caller(
        self, command: Command[T, R], handler: CallerHandler[T, R], **tokens: str
    ) -> None:
        """As `add`, for a handler that takes the sender's role."""

        async def respond(request: Request) -> None:
            data = command.encode_reply(await self._handle(command, handler, request))
            self.bus.check(data)
            await request.respond(data)

        await self.add_raw(command, respond, **tokens)

    async def add_raw(self, command: Command[Any, Any], handler: RawHandler, **tokens: str) -> None:
        """As `add`, for a handler that sends its replies itself."""
        subject = command(**tokens)

        async def on_message(msg: Msg) -> None:
            # A task each: a subscription's callbacks run one after another.
            request = Request(self.bus.nc, msg)
            self.tasks.spawn(_guarded(endpoint, request, handler), f"command {request.subject}")

        name = subject.removeprefix("yard.command.").replace(".", "-")
        endpoint = _Endpoint(name, subject, await self.bus.nc.subscribe(subject, queue=_QUEUE, cb=on_message))
        self._endpoints.append(endpoint)
        await self.bus.flush_subscriptions()

    async def _handle(self, command: Command[T, R], handler: CallerHandler[T, R], request: Request) -> R:
        """The handler's reply. A change, or its refusal, is on record before anyone is informed of it."""
        changes, payload = audit.begin(), None
        try:
            payload = _decode(command, request)
            reply = await handler(payload, request.sender)
        except Exception as error:
            await self._record(command, _audited(command, request, payload, changes, error))
            raise
        if not getattr(payload, "dry_run", False):
            await self._record(command, _audited(command, request, payload, changes))
        return reply

    async def _record(self, command: Command[Any, Any], audited: Audited) -> None:
        if command.changes is None:
            return
        name = audited.command.replace(".", "-")
        try:
            await self.bus.emit(
                subjects.AUDITED, audited, timeout_s=_AUDIT_TIMEOUT_S, command=name, outcome=audited.outcome
            )
        except YardError as error:
            log.warning("audit_failed", command=audited.command, target=audited.target, error=error.message)

    def _identity(self) -> dict[str, Any]:
        node, version = {"node": self.bus.node}, modelyard.__version__
        return {"id": self._id, "name": str(self.bus.role), "version": version, "metadata": node}

    def _ping(self) -> dict[str, Any]:
        return ServicePing(**self._identity()).to_dict()

    def _info(self) -> dict[str, Any]:
        endpoints = [
            EndpointInfo(name=endpoint.name, subject=endpoint.subject, queue_group=_QUEUE, metadata={})
            for endpoint in self._endpoints
        ]
        return ServiceInfo(**self._identity(), description=self.description, endpoints=endpoints).to_dict()

    def _stats(self) -> dict[str, Any]:
        endpoints = [_endpoint_stats(endpoint) for endpoint in self._endpoints]
        return ServiceStats(**self._identity(), started=self._started, endpoints=endpoints).to_dict()


def _replying(nc: Client, answer: Callable[[], dict[str, Any]]) -> Callable[[Msg], Awaitable[None]]:
    async def on_message(msg: Msg) -> None:
        await nc.publish(msg.reply, msgspec.json.encode(answer()))

    return on_message


def _endpoint_stats(endpoint: _Endpoint) -> EndpointStats:
    average_s = endpoint.busy_s / endpoint.requests if endpoint.requests else 0.0
    return EndpointStats(
        name=endpoint.name,
        subject=endpoint.subject,
        queue_group=_QUEUE,
        num_requests=endpoint.requests,
        num_errors=endpoint.errors,
        last_error=endpoint.last_error,
        processing_time=int(endpoint.busy_s * 1e9),
        average_processing_time=int(average_s * 1e9),
    )


async def _guarded(endpoint: _Endpoint, request: Request, handler: RawHandler) -> None:
    began = time.perf_counter()
    endpoint.requests += 1
    try:
        await handler(request)
    except Exception as failure:
        error = failure
        if not isinstance(error, YardError):
            log.exception("command_failed", subject=request.subject)
            error = InternalError("Something went wrong inside; the log of the service has it.")
        endpoint.errors += 1
        endpoint.last_error = error.code
        await request.respond_error(error)
    finally:
        endpoint.busy_s += time.perf_counter() - began


def _decode(command: Command[T, R], request: Request) -> T:
    try:
        return command.decode(request.data)
    except msgspec.DecodeError as error:
        raise InvalidJson(f"This is not what {request.subject} takes: {error}.") from error


def _audited(
    command: Command[Any, Any],
    request: Request,
    payload: object,
    changes: list[AuditedChange],
    error: Exception | None = None,
) -> Audited:
    if error is not None and not isinstance(error, YardError):
        error = InternalError("Something went wrong inside.")
    return Audited(
        command=command.name,
        target=_target(command, request, payload),
        by=audit.verified_actor(request.sender, request.headers),
        at=time.time(),
        outcome=AuditOutcome.DONE if error is None else AuditOutcome.REFUSED,
        error=None if error is None else _without_user(error),
        changes=tuple(changes[: audit.MAX_CHANGES]),
        more=max(0, len(changes) - audit.MAX_CHANGES),
    )


def _target(command: Command[Any, Any], request: Request, payload: object) -> str:
    """The value of the token or field that names the changed thing."""
    named_by = command.changes or ""
    if named_by in command.tokens:
        return command.parse(request.subject)[named_by]
    named = getattr(payload, named_by, None)
    return audit.without_user(named[:_MAX_TARGET]) if isinstance(named, str) and named else NO_TARGET


def _without_user(error: YardError) -> ErrorDetail:
    detail = error.body().error
    return msgspec.structs.replace(detail, message=audit.without_user(detail.message))
