"""Commands that any downloader receives and the downloader of one node handles."""

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from modelyard.bus.connection import Bus
from modelyard.bus.micro import Commands
from schemas.errors import InvalidJson, NotFound, ServiceUnavailable
from schemas.subject import Command

T = TypeVar("T")
R = TypeVar("R")

NodeOf = Callable[[T], str | Awaitable[str]]
"""Returns the node that a command is about; it may raise a refusal."""


@dataclass
class NodeCommands:
    """Adds commands that are handled here if they are about this node, else forwarded to its downloader."""

    _bus: Bus
    _commands: Commands
    _at_node: Command[bytes, bytes]
    """The subject for forwarded commands."""
    _any_node: bool = True
    """Without it only `_at_node` is subscribed."""

    async def add(
        self,
        command: Command[T, R],
        handler: Callable[[T], Awaitable[R]],
        node_of: NodeOf[T],
        *,
        on_node_absent: Callable[[T], Awaitable[R]] | None = None,
    ) -> None:
        """`on_node_absent` handles commands about a node without a downloader, else they are refused."""

        async def handle_or_forward(payload: T) -> R:
            result = node_of(payload)
            node = await result if inspect.isawaitable(result) else result
            if node == self._bus.node:
                return await handler(payload)
            try:
                return await self.forward(command, payload, node)
            except ServiceUnavailable:
                if on_node_absent is None:
                    raise
                return await on_node_absent(payload)

        async def handle(data: bytes) -> bytes:
            try:
                payload = command.decode(data)
            except msgspec.DecodeError as error:
                raise InvalidJson(f"This is not what {command.template} takes: {error}.") from error
            return command.encode_reply(await handler(payload))

        if self._any_node:
            await self._commands.add(command, handle_or_forward)
        await self._commands.add(self._at_node, handle, node=self._bus.node, verb=_verb(command))

    async def forward(self, command: Command[T, R], payload: T, node: str) -> R:
        """The reply of the downloader on `node`."""
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
