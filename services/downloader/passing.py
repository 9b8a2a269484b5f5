"""Commands about downloads, whoever is asked: each is carried out by the machine that it concerns."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from modelyard.bus import Bus
from modelyard.micro import Commands
from modelyard.state import Store
from schemas import buckets, subjects
from schemas.downloads import Download
from schemas.errors import BadRequest, InvalidJson, NotFound, ServiceUnavailable
from schemas.grammar import check_token
from schemas.subject import Command

T = TypeVar("T")
R = TypeVar("R")


class Passing:
    """Answers commands of this machine, and where `first` those of everybody, which it passes on."""

    def __init__(self, bus: Bus, commands: Commands, node: str, *, first: bool) -> None:
        self._bus = bus
        self._commands = commands
        self._node = node
        self._first = first
        self._store = Store(bus, buckets.DOWNLOADS)

    async def add(self, command: Command[T, R], handler: Callable[[T], Awaitable[R]]) -> None:
        """Serve one command of the contract with this machine's handler."""
        verb = command.template.rpartition(".")[2]

        async def on_passed(data: bytes) -> bytes:
            return command.encode_reply(await handler(_decode(command, data)))

        async def on_asked(payload: T) -> R:
            node = await self._node_of(payload)
            if node == self._node:
                return await handler(payload)
            return await self._pass_on(command, verb, node, payload)

        await self._commands.add(subjects.DOWNLOAD_ORDER, on_passed, node=self._node, verb=verb)
        if self._first:
            await self._commands.add(command, on_asked)

    async def _pass_on(self, command: Command[T, R], verb: str, node: str, payload: T) -> R:
        try:
            data = command.encode(payload)
            reply = await self._bus.call(subjects.DOWNLOAD_ORDER, data, node=node, verb=verb)
        except ServiceUnavailable as error:
            key = getattr(payload, "download", None)
            if command is subjects.DOWNLOAD_FORGET and key is not None:
                return await self._forget(key)
            raise ServiceUnavailable(f"The downloader of {node} is not there now.") from error
        return command.decode_reply(reply)

    async def _forget(self, key: str) -> "R":
        """Of a machine that is gone nobody else would tidy up."""
        download = await self._owned(key)
        await self._store.delete(key)
        return download  # type: ignore[return-value]  # R is Download here

    async def _node_of(self, payload: object) -> str:
        key = getattr(payload, "download", None)
        if key is not None:
            return (await self._owned(key)).node or self._node
        node = getattr(payload, "node", None) or self._node
        try:
            return check_token(node)
        except ValueError as error:
            raise BadRequest(f"{node!r} is not the name of a machine.", param="node") from error

    async def _owned(self, key: str) -> Download:
        try:
            download = await self._store.get(check_token(key))
        except ValueError:
            download = None
        if download is None:
            raise NotFound(f"There is no download {key}.", param="download")
        return download


def _decode(command: Command[T, R], data: bytes) -> T:
    try:
        return command.decode(data)
    except msgspec.DecodeError as error:
        raise InvalidJson(f"This is not what {command.template} takes: {error}.") from error
