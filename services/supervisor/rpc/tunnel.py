"""The instance's end of the tunnel to one worker: a loopback port for the engine, and the heartbeat."""

import asyncio
import os
import sys
from pathlib import Path

from modelyard.bus import logs
from schemas.workers import WorkerStarted
from services.supervisor.rpc.connections import BUFFER_BYTES, Connection, pipe, send_heartbeats, shut
from services.supervisor.rpc.handshake import HandshakeError, Purpose, authenticate_worker

log = logs.get(__name__)

CONNECT_S = 5.0
_TCP_TABLE = Path("/proc/net/tcp")


class Unreachable(Exception):
    """The worker cannot be reached; the message is the reason."""


class Tunnel:
    """Open until the worker is gone or it is closed."""

    def __init__(self, worker: WorkerStarted, token: str) -> None:
        self._worker = worker
        self._token = token
        self._pipes: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._heartbeat: Connection | None = None
        self.lost: asyncio.Task[str] | None = None
        """Done when the worker is gone, with the reason."""

    async def open(self) -> str:
        """The address for the engine, `host:port`. Unreachable if the worker cannot be reached."""
        self._heartbeat = await self._connect(Purpose.HEARTBEAT)
        self.lost = asyncio.create_task(self._follow_worker(*self._heartbeat))
        self._server = await asyncio.start_server(self._on_engine, "127.0.0.1", 0, limit=BUFFER_BYTES)
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        """Close all connections; the worker exits."""
        if self.lost is not None:
            self.lost.cancel()
        self._close_pipes()
        await asyncio.gather(*self._pipes, return_exceptions=True)
        if self._heartbeat is not None:
            await shut(self._heartbeat[1])

    async def _follow_worker(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        try:
            return await send_heartbeats(reader, writer)
        finally:
            self._close_pipes()

    def _close_pipes(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._pipes:
            task.cancel()

    async def _on_engine(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._pipes.add(task)
        task.add_done_callback(self._pipes.discard)
        peer, own = writer.get_extra_info("peername"), writer.get_extra_info("sockname")
        try:
            if is_own_user(peer[1], own[1]):
                await pipe((reader, writer), await self._connect(Purpose.DATA))
            else:
                log.warning("connection_refused", peer=str(peer), reason="It is of another user.")
        except Unreachable as error:
            log.warning("worker_unreachable", reason=str(error))
        finally:
            await shut(writer)

    async def _connect(self, purpose: Purpose) -> Connection:
        where = f"{self._worker.host} port {self._worker.port}"
        try:
            async with asyncio.timeout(CONNECT_S):
                connection = await asyncio.open_connection(
                    self._worker.host, self._worker.port, limit=BUFFER_BYTES
                )
        except (OSError, TimeoutError) as error:
            reason = getattr(error, "strerror", None) or "it does not answer"
            raise Unreachable(f"it cannot be reached at {where}: {reason}") from error
        try:
            await authenticate_worker(*connection, self._token, purpose)
        except (HandshakeError, OSError) as error:
            await shut(connection[1])
            raise Unreachable(f"the server at {where} is not this worker") from error
        except asyncio.CancelledError:
            connection[1].close()
            raise
        return connection


def is_own_user(peer_port: int, own_port: int) -> bool:
    """Whether a process of our user opened a loopback connection; assumed on systems other than Linux."""
    if sys.platform != "linux":
        return True
    owners = socket_owners(_TCP_TABLE.read_text(), peer_port, own_port)
    return bool(owners) and owners <= {os.getuid()}


def socket_owners(table: str, local_port: int, remote_port: int) -> set[int]:
    """The users of the loopback sockets with these two ports, from the kernel's TCP table."""
    addresses = (f"0100007F:{local_port:04X}", f"0100007F:{remote_port:04X}")
    rows = (line.split() for line in table.splitlines()[1:])
    return {int(row[7]) for row in rows if (row[1], row[2]) == addresses}
