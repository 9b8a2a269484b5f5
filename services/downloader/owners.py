"""A command may arrive at any downloader; the one on whose node the thing lies answers it."""

import inspect
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from modelyard.bus.connection import Bus
from modelyard.bus.micro import Commands
from schemas.errors import InvalidJson, NotFound, ServiceUnavailable
from schemas.subject import Command

T = TypeVar("T")
R = TypeVar("R")

NodeOf = Callable[[T], str | Awaitable[str]]
"""Which node a command is about; it may refuse."""


class Owners:
    """Adds commands: answered here if they are about this node, else handed on to its downloader."""

    def __init__(
        self, bus: Bus, commands: Commands, at_node: Command[bytes, bytes], *, anywhere: bool = True
    ) -> None:
        """`at_node`: the subject on which commands are handed on. Without `anywhere` only it is answered."""
        self._bus = bus
        self._commands = commands
        self._at_node = at_node
        self._anywhere = anywhere

    async def add(
        self,
        command: Command[T, R],
        handler: Callable[[T], Awaitable[R]],
        node_of: NodeOf[T],
        *,
        of_absent: Callable[[T], Awaitable[R]] | None = None,
    ) -> None:
        """`of_absent` answers what is about a node whose downloader is not there; else that is refused."""

        async def anywhere(payload: T) -> R:
            found = node_of(payload)
            node = await found if inspect.isawaitable(found) else found
            if node == self._bus.node:
                return await handler(payload)
            try:
                return await self.ask(command, payload, node)
            except ServiceUnavailable:
                if of_absent is None:
                    raise
                return await of_absent(payload)

        async def here(data: bytes) -> bytes:
            try:
                payload = command.decode(data)
            except msgspec.DecodeError as error:
                raise InvalidJson(f"This is not what {command.template} takes: {error}.") from error
            return command.encode_reply(await handler(payload))

        if self._anywhere:
            await self._commands.add(command, anywhere)
        await self._commands.add(self._at_node, here, node=self._bus.node, verb=_verb(command))

    async def ask(self, command: Command[T, R], payload: T, node: str) -> R:
        """The answer of the downloader on `node`."""
        data = command.encode(payload)
        try:
            reply = await self._bus.call(
                self._at_node, data, timeout_s=command.timeout_s, node=node, verb=_verb(command)
            )
        except ServiceUnavailable as error:
            raise ServiceUnavailable(f"Node {node} has no downloader running that could answer.") from error
        except ValueError as error:
            raise NotFound(f"There is no node {node!r}.", param="node") from error
        return command.decode_reply(reply)


def _verb(command: Command[T, R]) -> str:
    return command.template.rpartition(".")[2]
