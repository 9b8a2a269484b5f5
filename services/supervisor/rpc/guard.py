"""The guard in front of an RPC server: it admits the one instance that the worker is for."""

import asyncio
import contextlib

from modelyard.bus import logs
from services.supervisor.rpc.connections import (
    BUFFER_BYTES,
    Connection,
    answer_heartbeats,
    pipe,
    send_exit_reason,
    shut,
)
from services.supervisor.rpc.handshake import HandshakeError, Purpose, authenticate_instance

log = logs.get(__name__)

_MAX_UNAUTHENTICATED = 16
"""Further connections without a completed handshake are closed at once."""


class Guard:
    """Listens where other nodes reach it, for an RPC server on a loopback port."""

    def __init__(self, token: str, server_port: int) -> None:
        self.instance_connected = asyncio.Event()
        self.instance_gone = asyncio.Event()
        self._token = token
        self._server_port = server_port
        self._unauthenticated = 0
        self._instance: Connection | None = None
        self._server: asyncio.Server | None = None

    async def open(self, host: str) -> int:
        """Listen on a free port of `host`; the port. OSError if that is no address of this machine."""
        self._server = await asyncio.start_server(self._on_connection, host, 0, limit=BUFFER_BYTES)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def close(self, reason: str) -> None:
        """Accept no more connections; a connected instance gets the `reason`."""
        if self._server is not None:
            self._server.close()
        if self._instance is not None and not self.instance_gone.is_set():
            send_exit_reason(self._instance[1], reason)

    async def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._unauthenticated >= _MAX_UNAUTHENTICATED:
            await shut(writer)
            return
        self._unauthenticated += 1
        try:
            purpose = await authenticate_instance(reader, writer, self._token)
        except (HandshakeError, OSError) as error:
            peer = str(writer.get_extra_info("peername"))
            log.warning("connection_refused", peer=peer, reason=str(error))
            await shut(writer)
            return
        finally:
            self._unauthenticated -= 1
        await (self._follow_instance if purpose is Purpose.HEARTBEAT else self._serve)(reader, writer)

    async def _follow_instance(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The instance is alive as long as its first heartbeat connection is."""
        if self._instance is None:
            self._instance = reader, writer
            self.instance_connected.set()
            await answer_heartbeats(reader, writer)
            self.instance_gone.set()
        await shut(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._instance is not None:
            with contextlib.suppress(OSError):
                server = await asyncio.open_connection("127.0.0.1", self._server_port, limit=BUFFER_BYTES)
                await pipe((reader, writer), server)
        await shut(writer)
