"""The guard in front of an RPC server: lets in the one instance that the worker is for, and nobody else."""

import asyncio
import contextlib

from modelyard.bus import logs
from services.supervisor.rpc import life
from services.supervisor.rpc.handshake import Purpose, Stranger, welcome
from services.supervisor.rpc.pipe import BUFFER_BYTES, Ends, pipe, shut

log = logs.get(__name__)

_MOST_UNKNOWN = 16
"""Connections that have proved nothing yet; more are closed at once."""


class Guard:
    """Listens where other nodes reach it, for an RPC server on a loopback port."""

    def __init__(self, token: str, server_port: int) -> None:
        self.instance_came = asyncio.Event()
        self.instance_left = asyncio.Event()
        self._token = token
        self._server_port = server_port
        self._unknown = 0
        self._life: Ends | None = None
        self._server: asyncio.Server | None = None

    async def open(self, host: str) -> int:
        """Listen on any free port of `host`; the port. OSError if that is no address of this machine."""
        self._server = await asyncio.start_server(self._on_connection, host, 0, limit=BUFFER_BYTES)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def close(self, why: str) -> None:
        """Let nobody in any more; the instance, if it is there, is told `why`."""
        if self._server is not None:
            self._server.close()
        if self._life is not None and not self.instance_left.is_set():
            life.last_word(self._life[1], why)

    async def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._unknown >= _MOST_UNKNOWN:
            await shut(writer)
            return
        self._unknown += 1
        try:
            purpose = await welcome(reader, writer, self._token)
        except (Stranger, OSError) as error:
            log.warning("not_let_in", peer=str(writer.get_extra_info("peername")), reason=str(error))
            await shut(writer)
            return
        finally:
            self._unknown -= 1
        await (self._live if purpose is Purpose.LIFE else self._serve)(reader, writer)

    async def _live(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The instance is there as long as this connection is."""
        if self._life is None:
            self._life = reader, writer
            self.instance_came.set()
            await life.answer(reader, writer)
            self.instance_left.set()
        await shut(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._life is not None:
            with contextlib.suppress(OSError):
                server = await asyncio.open_connection("127.0.0.1", self._server_port, limit=BUFFER_BYTES)
                await pipe((reader, writer), server)
        await shut(writer)
