"""The RPC workers of a node: they hold parts of models whose instances run elsewhere."""

import asyncio
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from modelyard.bus import logs
from modelyard.bus.tasks import Tasks
from modelyard.host.home import read_record
from modelyard.host.processes import ProcessGroup, start_detached, started_at, terminate, wait_until_gone
from modelyard.host.settings import Settings
from modelyard.plugins import minimal_environment
from schemas.base import Record
from schemas.errors import Conflict
from schemas.instances import Reserved, StartWorker, Worker, WorkerStarted
from schemas.placement import NodeDevice
from services.supervisor.node.device_memory import Reservations
from services.supervisor.rpc.server import rpc_offer
from services.supervisor.rpc.worker import START_S, WorkerLaunch, WorkerUp

log = logs.get(__name__)

_STOP_S = 5.0


class WorkerFile(Record):
    """A worker's processes, stored for the next supervisor of this node."""

    worker: Worker
    pid: int
    created_at: float
    server_pid: int | None = None
    server_started_at: float = 0.0


class NodeWorkers:
    """Owns the worker processes of one node.

    Memory is reserved before one starts, and released when its processes have exited.
    """

    def __init__(self, settings: Settings, tasks: Tasks, reservations: Reservations) -> None:
        self._settings = settings
        self._tasks = tasks
        self._reservations = reservations
        self._workers: dict[str, WorkerFile] = {}
        """By worker id."""
        self._clearing = False

    def adopt(self) -> None:
        """Watch the workers that an earlier supervisor started."""
        for path in self._settings.run.glob("worker-*.json"):
            if (file := read_record(path, WorkerFile)) is not None:
                log.info("worker_adopted", worker=file.worker.worker, instance=file.worker.instance)
                self._reservations.adopt(file.worker.worker, _reserved(file.worker))
                self._watch(file, None)

    def now(self) -> tuple[Worker, ...]:
        return tuple(file.worker for file in self._workers.values())

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
        self._reservations.reserve(worker.worker, _reserved(worker), devices)
        up = await self._launch(order, worker)
        if up.error is not None:
            raise Conflict(f"The worker did not start: {up.error}.")
        return WorkerStarted(host=offered.host, port=up.port, version=offered.version)

    async def stop_all(self) -> None:
        """End every worker; returns when they have exited."""
        files = self._workers.values()
        await asyncio.gather(*(terminate(file.pid, file.created_at, grace_s=_STOP_S) for file in files))

    async def clear(self) -> None:
        """End every worker, and refuse starts from now on."""
        self._clearing = True
        await self.stop_all()

    async def _launch(self, order: StartWorker, worker: Worker) -> WorkerUp:
        try:
            process = self._spawn(order)
        except OSError as error:
            self._reservations.release(worker.worker)
            raise Conflict(f"The worker could not be started: {error.strerror}.") from error
        file = WorkerFile(worker=worker, pid=process.pid, created_at=started_at(process.pid) or time.time())
        self._watch(file, process)
        up = await self._read_report(process)
        if up.server_pid is not None:
            began = started_at(up.server_pid) or file.created_at
            file = msgspec.structs.replace(file, server_pid=up.server_pid, server_started_at=began)
        if worker.worker in self._workers:
            self._workers[worker.worker] = file
            self._path(worker.worker).write_bytes(msgspec.json.encode(file))
        return up

    def _spawn(self, order: StartWorker) -> subprocess.Popen[bytes]:
        """Detached: it ends with its instance, not with this supervisor."""
        launch = WorkerLaunch(worker=order.worker, token=order.token, device=order.device)
        environment = {**minimal_environment(), **self._settings.as_environment()}
        log_path = self._settings.logs / f"worker-{order.worker}.log"
        return start_detached("services.supervisor.rpc", launch, environment, log_path, reports=True)

    async def _read_report(self, process: subprocess.Popen[bytes]) -> WorkerUp:
        assert process.stdout is not None
        with process.stdout as output:
            # A process that does not answer in time is killed, which ends the read too.
            late = asyncio.get_running_loop().call_later(START_S + 2, process.kill)
            try:
                line = await asyncio.to_thread(output.readline)
            finally:
                late.cancel()
        try:
            return msgspec.json.decode(line, type=WorkerUp)
        except msgspec.DecodeError:
            return WorkerUp(error=f"it ended before it listened; its log is in {self._settings.logs}")

    def _watch(self, file: WorkerFile, child: subprocess.Popen[bytes] | None) -> None:
        self._workers[file.worker.worker] = file
        self._tasks.spawn(self._wait_and_release(file, child), f"watch worker {file.worker.worker}")

    async def _wait_and_release(self, file: WorkerFile, child: subprocess.Popen[bytes] | None) -> None:
        key = file.worker.worker
        await wait_until_gone(file.pid, file.created_at)
        if child is not None:
            child.wait()
        last = self._workers[key]
        if last.server_pid is not None:
            # Killed with it, it may need a moment to release its memory.
            await ProcessGroup(last.server_pid, last.server_started_at).kill()
        del self._workers[key]
        self._reservations.release(key)
        self._path(key).unlink(missing_ok=True)
        log.info("worker_exited", worker=key, instance=file.worker.instance)

    def _path(self, worker: str) -> Path:
        return self._settings.run / f"worker-{worker}.json"


def _reserved(worker: Worker) -> tuple[Reserved, ...]:
    return (Reserved(device=worker.device, predicted_bytes=worker.memory_bytes),)
