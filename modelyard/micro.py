"""Serving commands as NATS micro services: decode, call the handler, reply or reply with the error."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
import nats.micro
from nats.micro.request import Request
from nats.micro.service import Service

import modelyard
from modelyard import logging
from modelyard.bus import Bus
from modelyard.tasks import Tasks
from schemas.errors import InternalError, InvalidJson, YardError
from schemas.roles import Role, role_of_inbox
from schemas.subject import Command

log = logging.get(__name__)
T = TypeVar("T")
R = TypeVar("R")

CommandHandler = Callable[[T], Awaitable[R]]
CallerHandler = Callable[[T, Role], Awaitable[R]]
"""As a CommandHandler, told who asks."""
RawHandler = Callable[[Request], Awaitable[None]]


class Commands:
    """The commands that one service answers, discoverable under `$SRV`."""

    def __init__(self, bus: Bus, service: Service, tasks: Tasks) -> None:
        self._bus = bus
        self._service = service
        self._tasks = tasks

    @classmethod
    async def start(cls, bus: Bus, tasks: Tasks, description: str) -> "Commands":
        """Announce the service under its role's name."""
        service = await nats.micro.add_service(
            bus.nc,
            name=str(bus.role),
            version=modelyard.__version__,
            description=description,
            metadata={"node": bus.node},
        )
        return cls(bus, service, tasks)

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
            reply = await handler(_decode(command, request), role_of_inbox(reply_to(request)))
            data = command.encode_reply(reply)
            self._bus.check(data)
            await request.respond(data)

        await self.add_raw(command, respond, **tokens)

    async def add_raw(self, command: Command[Any, Any], handler: RawHandler, **tokens: str) -> None:
        """As `add`, for a handler that replies by itself, more than once if it likes."""

        async def on_request(request: Request) -> None:
            # A task each: nats-py would otherwise keep the next request waiting behind this one.
            self._tasks.spawn(_guarded(request, handler), f"command {request.subject}")

        subject = command(**tokens)
        name = subject.removeprefix("yard.command.").replace(".", "-")
        await self._service.add_endpoint(name=name, subject=subject, handler=on_request)
        await self._bus.settle()


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
