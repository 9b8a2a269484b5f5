"""Serving commands as NATS micro services: decode, call the handler, reply or reply with the error."""

import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from nats.micro.request import Request
from nats.micro.service import Service, ServiceConfig

import modelyard
from modelyard.bus import audit, logs
from modelyard.bus.connection import Bus
from modelyard.bus.tasks import Tasks
from schemas import subjects
from schemas.audit import NO_TARGET, Audited, AuditedChange, AuditOutcome
from schemas.base import Role, role_of_inbox
from schemas.errors import ErrorDetail, InternalError, InvalidJson, YardError
from schemas.subject import Command

log = logs.get(__name__)
T = TypeVar("T")
R = TypeVar("R")

CommandHandler = Callable[[T], Awaitable[R]]
CallerHandler = Callable[[T, Role], Awaitable[R]]
"""As a CommandHandler, told who asks."""
RawHandler = Callable[[Request], Awaitable[None]]
_AUDIT_TIMEOUT_S = 2.0
_MAX_TARGET = 200


class Commands:
    """The commands that one service answers, discoverable under `$SRV`."""

    def __init__(self, bus: Bus, service: Service, tasks: Tasks) -> None:
        self._bus = bus
        self._service = service
        self._tasks = tasks

    @classmethod
    def open(cls, bus: Bus, tasks: Tasks, description: str) -> "Commands":
        """Answer what is added, and say nothing of it before `announce`."""
        config = ServiceConfig(
            name=str(bus.role),
            version=modelyard.__version__,
            description=description,
            metadata={"node": bus.node},
        )
        return cls(bus, Service(bus.nc, config), tasks)

    @classmethod
    async def start(cls, bus: Bus, tasks: Tasks, description: str) -> "Commands":
        """Announced at once, for who adds commands as they come."""
        commands = cls.open(bus, tasks, description)
        await commands.announce()
        return commands

    async def announce(self) -> None:
        """Show the service under its role's name: `yard up` takes that for "ready"."""
        await self._service.start()
        await self._bus.flush_subscriptions()

    async def stop(self) -> None:
        """Answer nothing any more."""
        await self._service.stop()

    async def add(self, command: Command[T, R], handler: CommandHandler[T, R], **tokens: str) -> None:
        """Answer `command` with what `handler` returns, or with the error it raises."""

        async def ignoring_caller(payload: T, _caller: Role) -> R:
            return await handler(payload)

        await self.add_with_caller(command, ignoring_caller, **tokens)

    async def add_with_caller(
        self, command: Command[T, R], handler: CallerHandler[T, R], **tokens: str
    ) -> None:
        """As `add`, for a handler that wants to know the role that asks."""

        async def respond(request: Request) -> None:
            data = command.encode_reply(await self._answered(command, handler, request))
            self._bus.check(data)
            await request.respond(data)

        await self.add_raw(command, respond, **tokens)

    async def _answered(self, command: Command[T, R], handler: CallerHandler[T, R], request: Request) -> R:
        """What the handler says. Before anybody hears of a change, or of its refusal, it is on record."""
        changes, payload = audit.begin(), None
        try:
            payload = _decode(command, request)
            reply = await handler(payload, role_of_inbox(reply_to(request)))
        except Exception as error:
            await self._tell(command, _audited(command, request, payload, changes, error))
            raise
        if not getattr(payload, "dry_run", False):
            await self._tell(command, _audited(command, request, payload, changes))
        return reply

    async def _tell(self, command: Command[Any, Any], told: Audited) -> None:
        if command.changes is None:
            return
        name = told.command.replace(".", "-")
        try:
            await self._bus.emit(
                subjects.AUDITED, told, timeout_s=_AUDIT_TIMEOUT_S, command=name, outcome=told.outcome
            )
        except YardError as error:
            log.warning("not_audited", command=told.command, target=told.target, error=error.message)

    async def add_raw(self, command: Command[Any, Any], handler: RawHandler, **tokens: str) -> None:
        """As `add`, for a handler that replies by itself, more than once if it likes."""

        async def on_request(request: Request) -> None:
            # A task each: nats-py would otherwise keep the next request waiting behind this one.
            self._tasks.spawn(_guarded(request, handler), f"command {request.subject}")

        subject = command(**tokens)
        name = subject.removeprefix("yard.command.").replace(".", "-")
        await self._service.add_endpoint(name=name, subject=subject, handler=on_request)
        await self._bus.flush_subscriptions()


async def _guarded(request: Request, handler: RawHandler) -> None:
    try:
        await handler(request)
    except YardError as error:
        await respond_error(request, error)
    except Exception:
        log.exception("command_failed", subject=request.subject)
        await respond_error(
            request, InternalError("Something went wrong inside; the log of the service has it.")
        )


async def respond_error(request: Request, error: YardError) -> None:
    """The one shape of an error, beside the headers that NATS services use for it."""
    await request.respond_error(error.code, error.message.replace("\n", " "), data=error.encode())


def reply_to(request: Request) -> str:
    """The inbox of who asks."""
    return request._msg.reply


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
        by=audit.verified_actor(role_of_inbox(reply_to(request)), request.headers),
        at=time.time(),
        outcome=AuditOutcome.DONE if error is None else AuditOutcome.REFUSED,
        error=None if error is None else _said(error),
        changes=tuple(changes[: audit.MAX_CHANGES]),
        more=max(0, len(changes) - audit.MAX_CHANGES),
    )


def _target(command: Command[Any, Any], request: Request, payload: object) -> str:
    """What the token or the field that names it says."""
    field = command.changes or ""
    if field in command.tokens:
        return command.parse(request.subject)[field]
    named = getattr(payload, field, None)
    return audit.without_user(named[:_MAX_TARGET]) if isinstance(named, str) and named else NO_TARGET


def _said(error: YardError) -> ErrorDetail:
    detail = error.body().error
    return msgspec.structs.replace(detail, message=audit.without_user(detail.message))
