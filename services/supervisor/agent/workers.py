"""The workers of a node: entered in its book before they start, adopted after a restart, ended with it."""

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from modelyard.bus import logs
from modelyard.bus.tasks import Tasks
from modelyard.host.processes import ProcessGroup, started_at, terminate, wait_until_gone
from modelyard.host.settings import Settings
from modelyard.plugins import minimal_environment
from schemas.base import Record
from schemas.errors import Conflict
from schemas.instances import Reserved
from schemas.placing import NodeDevice
from schemas.workers import StartWorker, Worker, WorkerStarted
from services.supervisor.agent.reservations import Reservations
from services.supervisor.rpc.server import rpc_offer
from services.supervisor.rpc.worker import START_S, WorkerLaunch, WorkerUp

log = logs.get(__name__)

_ENDS_S = 5.0


class WorkerFile(Record):
    """A worker's process, written down for a supervisor that comes after this one."""

    worker: Worker
    pid: int
    created_at: float
    server_pid: int | None = None
    server_started_at: float = 0.0


class Workers:
    """Owns the worker processes of one node."""

    def __init__(self, settings: Settings, tasks: Tasks, reservations: Reservations) -> None:
        self._settings = settings
        self._tasks = tasks
        self._reservations = reservations
        self._living: dict[str, WorkerFile] = {}
        """By worker id."""
        self._clearing = False

    def adopt(self) -> None:
        """Take over those that an earlier supervisor started."""
        for path in self._settings.run.glob("worker-*.json"):
            with contextlib.suppress(OSError, msgspec.DecodeError):
                known = msgspec.json.decode(path.read_bytes(), type=WorkerFile)
                log.info("worker_adopted", worker=known.worker.worker, instance=known.worker.instance)
                self._reservations.adopt(known.worker.worker, _reserved(known.worker))
                self._watch(known, None)

    def now(self) -> tuple[Worker, ...]:
        """Those that are there."""
        return tuple(one.worker for one in self._living.values())

    async def start(self, order: StartWorker, devices: Sequence[NodeDevice]) -> WorkerStarted:
        """Start one; Conflict with the reason if this node cannot, or has no room for it."""
        offered = rpc_offer(self._settings)
        if offered.problem is not None:
            raise Conflict(offered.problem)
        if self._clearing:
            raise Conflict("This node is being cleared and takes no start.")
        worker = Worker(
            worker=order.worker,
            instance=order.instance,
            model=order.model,
            device=order.device,
            memory_bytes=order.memory_bytes,
        )
        self._reservations.take(worker.worker, _reserved(worker), devices)
        up = await self._up(order, worker)
        if up.error is not None:
            raise Conflict(f"The worker did not start: {up.error}.")
        return WorkerStarted(host=offered.host, port=up.port, version=offered.version)

    async def stop_all(self) -> None:
        """End every worker; returns when they are gone."""
        await asyncio.gather(
            *(terminate(one.pid, one.created_at, grace_s=_ENDS_S) for one in self._living.values())
        )

    async def clear(self) -> None:
        """End every worker, and start none after."""
        self._clearing = True
        await self.stop_all()

    async def _up(self, order: StartWorker, worker: Worker) -> WorkerUp:
        try:
            process = self._spawn(order)
        except OSError as error:
            self._reservations.give_back(worker.worker)
            raise Conflict(f"The worker could not be started: {error.strerror}.") from error
        known = WorkerFile(worker=worker, pid=process.pid, created_at=started_at(process.pid) or time.time())
        self._watch(known, process)
        up = await self._report(process)
        if up.server_pid is not None:
            began = started_at(up.server_pid) or known.created_at
            known = msgspec.structs.replace(known, server_pid=up.server_pid, server_started_at=began)
        if worker.worker in self._living:
            self._living[worker.worker] = known
            self._file(worker.worker).write_bytes(msgspec.json.encode(known))
        return up

    def _spawn(self, order: StartWorker) -> subprocess.Popen[bytes]:
        """Detached, as a runner: it ends with its instance, not with us."""
        launch = WorkerLaunch(worker=order.worker, token=order.token, device=order.device)
        with (self._settings.logs / f"worker-{order.worker}.log").open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "services.supervisor.rpc"],
                env={**minimal_environment(), **self._settings.as_environment()},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                start_new_session=True,
            )
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError), process.stdin:
            process.stdin.write(msgspec.json.encode(launch))
        return process

    async def _report(self, process: subprocess.Popen[bytes]) -> WorkerUp:
        assert process.stdout is not None
        with process.stdout as output:
            # What does not answer in time is killed, which ends the reading too.
            late = asyncio.get_running_loop().call_later(START_S + 2, process.kill)
            try:
                line = await asyncio.to_thread(output.readline)
            finally:
                late.cancel()
        try:
            return msgspec.json.decode(line, type=WorkerUp)
        except msgspec.DecodeError:
            return WorkerUp(error=f"it ended before it listened; its log is in {self._settings.logs}")

    def _watch(self, known: WorkerFile, child: subprocess.Popen[bytes] | None) -> None:
        self._living[known.worker.worker] = known
        self._tasks.spawn(self._until_gone(known, child), f"watch worker {known.worker.worker}")

    async def _until_gone(self, known: WorkerFile, child: subprocess.Popen[bytes] | None) -> None:
        key = known.worker.worker
        await wait_until_gone(known.pid, known.created_at)
        if child is not None:
            child.wait()
        last = self._living[key]
        if last.server_pid is not None:
            # Killed with it, it may need a moment to give its memory back.
            await ProcessGroup(last.server_pid, last.server_started_at).kill()
        del self._living[key]
        self._reservations.give_back(key)
        self._file(key).unlink(missing_ok=True)
        log.info("worker_gone", worker=key, instance=known.worker.instance)

    def _file(self, worker: str) -> Path:
        return self._settings.run / f"worker-{worker}.json"


def _reserved(worker: Worker) -> tuple[Reserved, ...]:
    return (Reserved(device=worker.device, predicted_bytes=worker.memory_bytes),)
