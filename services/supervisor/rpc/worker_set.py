"""The workers of one instance: acquired before its engine starts, released with it."""

import asyncio
import secrets
import time

from modelyard.bus.connection import Bus
from modelyard.bus.tasks import first_of
from modelyard.host.settings import Settings
from schemas import subjects
from schemas.base import new_id
from schemas.errors import Conflict, YardError
from schemas.placing import WorkerPlace
from schemas.workers import StartWorker, WorkerStarted
from services.supervisor.engines.llama_cpp import find_server, server_version
from services.supervisor.rpc.tunnel import Tunnel, Unreachable

_TOKEN_BYTES = 32
_CONFLICT_TIMEOUT_S = 5.0
_RETRY_S = 0.25


class WorkersUnavailable(Exception):
    """A worker could not be acquired; the message names it and the reason."""


class WorkerSet:
    """The workers of one instance, in the engine's order; it may be empty."""

    def __init__(self, bus: Bus, settings: Settings, *, instance: str, model: str) -> None:
        self._bus = bus
        self._settings = settings
        self._instance = instance
        self._model = model
        self._tunnels: dict[Tunnel, WorkerPlace] = {}

    async def acquire(self, places: tuple[WorkerPlace, ...]) -> tuple[str, ...]:
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
        return f"The worker on {nodes[lost]} is gone: {lost.result()}."

    async def release(self) -> None:
        """Close all tunnels; the workers exit at once."""
        tunnels, self._tunnels = self._tunnels, {}
        await asyncio.gather(*(tunnel.close() for tunnel in tunnels))

    async def _acquire(self, place: WorkerPlace) -> str:
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

    def _check_version(self, node: str, theirs: str | None) -> None:
        server = find_server(self._settings)
        ours = server_version(server, server.stat().st_mtime) if server else None
        if ours and theirs and ours != theirs:
            raise WorkersUnavailable(
                f"The worker on {node} is of llama.cpp {theirs}, and this node has {ours}; "
                "both need the same one."
            )
