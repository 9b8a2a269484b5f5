"""A command of the library may arrive at any downloader; the one on whose node the thing lies answers it."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from modelyard.bus import Bus
from modelyard.micro import Commands
from schemas import subjects
from schemas.errors import InvalidJson, NotFound, ServiceUnavailable
from schemas.subject import Command

T = TypeVar("T")
R = TypeVar("R")


class Owners:
    """Adds commands: answered here if they are about this node, else handed on to its downloader."""

    def __init__(self, bus: Bus, commands: Commands) -> None:
        self._bus = bus
        self._commands = commands

    async def add(
        self, command: Command[T, R], handler: Callable[[T], Awaitable[R]], node_of: Callable[[T], str]
    ) -> None:
        """`node_of`: which node a command is about; it may refuse."""
        verb = command.template.rpartition(".")[2]

        async def anywhere(payload: T) -> R:
            node = node_of(payload)
            return await (handler(payload) if node == self._bus.node else self.ask(command, payload, node))

        async def here(data: bytes) -> bytes:
            try:
                payload = command.decode(data)
            except msgspec.DecodeError as error:
                raise InvalidJson(f"This is not what {command.template} takes: {error}.") from error
            return command.encode_reply(await handler(payload))

        await self._commands.add(command, anywhere)
        await self._commands.add(subjects.LIBRARY_AT_NODE, here, node=self._bus.node, verb=verb)

    async def ask(self, command: Command[T, R], payload: T, node: str) -> R:
        """The answer of the downloader on `node`."""
        verb = command.template.rpartition(".")[2]
        data = command.encode(payload)
        try:
            reply = await self._bus.call(
                subjects.LIBRARY_AT_NODE, data, timeout_s=command.timeout_s, node=node, verb=verb
            )
        except ServiceUnavailable as error:
            raise ServiceUnavailable(f"Node {node} has no downloader running that could answer.") from error
        except ValueError as error:
            raise NotFound(f"There is no node {node!r}.", param="node") from error
        return command.decode_reply(reply)
