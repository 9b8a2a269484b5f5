"""All workers of one instance: hired before its engine starts, gone with it."""

import asyncio
import secrets
import time

from modelyard.bus.connection import Bus
from modelyard.host.settings import Settings
from schemas import subjects
from schemas.base import new_id
from schemas.errors import Conflict, YardError
from schemas.placing import WorkerPlace
from schemas.workers import StartWorker, WorkerStarted
from services.supervisor.engines.llama_cpp import find_server, server_version
from services.supervisor.rpc.tunnel import Tunnel, Unreachable

_TOKEN_BYTES = 32
_LEAVES_S = 5.0
_AGAIN_S = 0.25


class NoCrew(Exception):
    """A worker could not be had; the message says which and why."""


class Crew:
    """The workers of one instance, in the engine's order; there may be none."""

    def __init__(self, bus: Bus, settings: Settings, *, instance: str, model: str) -> None:
        self._bus = bus
        self._settings = settings
        self._instance = instance
        self._model = model
        self._tunnels: dict[Tunnel, WorkerPlace] = {}

    async def hire(self, places: tuple[WorkerPlace, ...]) -> tuple[str, ...]:
        """Where the engine finds each, once all are there; NoCrew if one cannot be had, and none is kept."""
        hiring = [asyncio.create_task(self._hire(place)) for place in places]
        try:
            return tuple(await asyncio.gather(*hiring))
        except NoCrew:
            for task in hiring:
                task.cancel()
            await asyncio.gather(*hiring, return_exceptions=True)
            await self.dismiss()
            raise

    async def lost(self) -> str:
        """Wait until a worker is gone; a sentence about it."""
        tasks = {tunnel.lost: place for tunnel, place in self._tunnels.items() if tunnel.lost is not None}
        if not tasks:
            await asyncio.Event().wait()
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        task = done.pop()
        return f"The worker on {tasks[task].node} is gone: {task.result()}."

    async def dismiss(self) -> None:
        """Let all go; they end at once."""
        tunnels, self._tunnels = self._tunnels, {}
        await asyncio.gather(*(tunnel.close() for tunnel in tunnels))

    async def _hire(self, place: WorkerPlace) -> str:
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
            started = await self._ask(order, place.node)
            tunnel = Tunnel(started, token)
            self._tunnels[tunnel] = place
            address = await tunnel.open()
        except YardError as error:
            raise NoCrew(f"There is no worker on {place.node}: {error.message}") from error
        except Unreachable as error:
            raise NoCrew(f"The worker on {place.node} was started, but {error}.") from error
        self._check(place.node, started.version)
        return address

    async def _ask(self, order: StartWorker, node: str) -> WorkerStarted:
        """The worker before this one may need a moment to give its memory back."""
        deadline = time.monotonic() + _LEAVES_S
        while True:
            try:
                return await self._bus.call(subjects.NODE_WORKER, order, node=node)
            except Conflict:
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(_AGAIN_S)

    def _check(self, node: str, theirs: str | None) -> None:
        server = find_server(self._settings)
        ours = server_version(server, server.stat().st_mtime) if server else None
        if ours and theirs and ours != theirs:
            raise NoCrew(
                f"The worker on {node} is of llama.cpp {theirs}, and this node has {ours}; "
                "both need the same one."
            )
