"""The instance's end of the way to one worker: a loopback port for the engine, and the life connection."""

import asyncio

from modelyard.bus import logs
from schemas.workers import WorkerStarted
from services.supervisor.rpc import life
from services.supervisor.rpc.handshake import Purpose, Stranger, greet
from services.supervisor.rpc.peers import is_ours
from services.supervisor.rpc.pipe import BUFFER_BYTES, Ends, pipe, shut

log = logs.get(__name__)

CONNECT_S = 5.0


class Unreachable(Exception):
    """There is no way to the worker; the message says why."""


class Tunnel:
    """Open as long as the worker lives and nobody closes it."""

    def __init__(self, at: WorkerStarted, token: str) -> None:
        self._at = at
        self._token = token
        self._pipes: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._life: Ends | None = None
        self.lost: asyncio.Task[str] | None = None
        """Done when the worker is gone; why it is."""

    async def open(self) -> str:
        """Where the engine finds the worker, `host:port`. Unreachable if it cannot be reached."""
        self._life = await self._connect(Purpose.LIFE)
        self.lost = asyncio.create_task(self._live(*self._life))
        self._server = await asyncio.start_server(self._on_engine, "127.0.0.1", 0, limit=BUFFER_BYTES)
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        """Cut everything; the worker ends."""
        if self.lost is not None:
            self.lost.cancel()
        self._cut()
        await asyncio.gather(*self._pipes, return_exceptions=True)
        if self._life is not None:
            await shut(self._life[1])

    async def _live(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        try:
            return await life.beat(reader, writer)
        finally:
            self._cut()

    def _cut(self) -> None:
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
            if is_ours(peer[1], own[1]):
                await pipe((reader, writer), await self._connect(Purpose.DATA))
            else:
                log.warning("not_let_in", peer=str(peer), reason="It belongs to another user.")
        except Unreachable as error:
            log.warning("worker_unreachable", reason=str(error))
        finally:
            await shut(writer)

    async def _connect(self, purpose: Purpose) -> Ends:
        where = f"{self._at.host} port {self._at.port}"
        try:
            async with asyncio.timeout(CONNECT_S):
                ends = await asyncio.open_connection(self._at.host, self._at.port, limit=BUFFER_BYTES)
        except (OSError, TimeoutError) as error:
            reason = getattr(error, "strerror", None) or "it does not answer"
            raise Unreachable(f"it cannot be reached at {where}: {reason}") from error
        try:
            await greet(*ends, self._token, purpose)
        except (Stranger, OSError) as error:
            await shut(ends[1])
            raise Unreachable(f"what answers at {where} is not it") from error
        except asyncio.CancelledError:
            ends[1].close()
            raise
        return ends
