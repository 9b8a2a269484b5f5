"""The workers of one instance, and the instance's end of the tunnel to each."""

import asyncio
import os
import secrets
import sys
import time
from pathlib import Path

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.bus.tasks import first_of
from modelyard.host.settings import Settings
from schemas import subjects
from schemas.base import new_id
from schemas.errors import Conflict, YardError
from schemas.instances import StartWorker, WorkerStarted
from schemas.placement import WorkerPlacement
from services.supervisor.engines.llama_cpp import find_server, server_version
from services.supervisor.rpc.connections import (
    BUFFER_BYTES,
    Connection,
    HandshakeError,
    Purpose,
    authenticate_worker,
    pipe,
    send_heartbeats,
    shut,
)

log = logs.get(__name__)

CONNECT_S = 5.0
_TCP_TABLE = Path("/proc/net/tcp")
_TOKEN_BYTES = 32
_CONFLICT_TIMEOUT_S = 5.0
_RETRY_S = 0.25


class Unreachable(Exception):
    """The worker cannot be reached; the message is the reason."""


class Tunnel:
    """Open until the worker has ended or it is closed."""

    def __init__(self, worker: WorkerStarted, token: str) -> None:
        self._worker = worker
        self._token = token
        self._pipes: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._heartbeat: Connection | None = None
        self.lost: asyncio.Task[str] | None = None
        """Done when the worker has ended, with the reason."""

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
        host, port = self._worker.host, self._worker.port
        where = f"{host} port {port}"
        try:
            async with asyncio.timeout(CONNECT_S):
                connection = await asyncio.open_connection(host, port, limit=BUFFER_BYTES)
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


class WorkersUnavailable(Exception):
    """A worker could not be acquired; the message names it and the reason."""


class WorkerSet:
    """The workers of one instance, in the engine's order; it may be empty."""

    def __init__(self, bus: Bus, settings: Settings, *, instance: str, model: str) -> None:
        self._bus = bus
        self._settings = settings
        self._instance = instance
        self._model = model
        self._tunnels: dict[Tunnel, WorkerPlacement] = {}

    async def acquire(self, places: tuple[WorkerPlacement, ...]) -> tuple[str, ...]:
        """The addresses of all workers for the engine; WorkersUnavailable, with none held, if one fails."""
        acquiring = [asyncio.create_task(self._acquire(place)) for place in places]
        try:
            return tuple(await asyncio.gather(*acquiring))
        except WorkersUnavailable:
            for task in acquiring:
                task.cancel()
            await asyncio.gather(*acquiring, return_exceptions=True)
            await self.release()
            raise

    async def wait_lost(self) -> str:
        """Wait until a worker is lost; a sentence about it."""
        nodes = {
            tunnel.lost: place.node for tunnel, place in self._tunnels.items() if tunnel.lost is not None
        }
        if not nodes:
            await asyncio.Event().wait()
        await first_of(*nodes)
        lost = next(task for task in nodes if task.done())
        return f"The worker on {nodes[lost]} is lost: {lost.result()}."

    async def release(self) -> None:
        """Close all tunnels; the workers exit at once."""
        tunnels, self._tunnels = self._tunnels, {}
        await asyncio.gather(*(tunnel.close() for tunnel in tunnels))

    async def _acquire(self, place: WorkerPlacement) -> str:
        token = secrets.token_hex(_TOKEN_BYTES)
        order = StartWorker(
            worker=new_id(),
            instance=self._instance,
            model=self._model,
            device=place.device,
            memory_bytes=place.memory_bytes,
            token=token,
        )
        try:
            started = await self._start(order, place.node)
            tunnel = Tunnel(started, token)
            self._tunnels[tunnel] = place
            address = await tunnel.open()
        except YardError as error:
            raise WorkersUnavailable(f"There is no worker on {place.node}: {error.message}") from error
        except Unreachable as error:
            raise WorkersUnavailable(f"The worker on {place.node} was started, but {error}.") from error
        self._check_version(place.node, started.version)
        return address

    async def _start(self, order: StartWorker, node: str) -> WorkerStarted:
        """Retry conflicts for a moment: the previous worker may still hold its memory."""
        deadline = time.monotonic() + _CONFLICT_TIMEOUT_S
        while True:
            try:
                return await self._bus.call(subjects.NODE_WORKER, order, node=node)
            except Conflict:
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(_RETRY_S)

    def _check_version(self, node: str, other: str | None) -> None:
        server = find_server(self._settings)
        own = server_version(server, server.stat().st_mtime) if server else None
        if own and other and own != other:
            raise WorkersUnavailable(
                f"The worker on {node} is of llama.cpp {other}, and this node has {own}; "
                "both need the same one."
            )
