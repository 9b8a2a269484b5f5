"""The node agent: starts runners, adopts those of an earlier supervisor, and records the end of dead ones."""

import asyncio
import contextlib
import signal
import subprocess
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.bus.records import BucketCache, BucketStore
from modelyard.bus.tasks import Tasks
from modelyard.bus.tracing import tracing_environment
from modelyard.host.home import RunnerFile, forget_runner, leave_reason, read_reason, read_runners
from modelyard.host.processes import (
    ProcessGroup,
    is_same,
    send_signal,
    start_detached,
    started_at,
    terminate,
    wait_until_gone,
)
from modelyard.host.settings import Settings
from modelyard.plugins import minimal_environment
from schemas import buckets, subjects
from schemas.errors import BrokerUnavailable, Conflict, NotFound
from schemas.instances import LIVE, NEXT_STATES, Instance, InstanceState, Reason
from schemas.leases import SCHEDULER, Lease
from schemas.placement import NodeDevice
from services.supervisor.node.backoff import failure
from services.supervisor.node.device_memory import Reservations
from services.supervisor.runner.engine_log import RUNNERS_LOG
from services.supervisor.runner.record import DRAIN_S, STOP_S, Launch, first_record

log = logs.get(__name__)

_FIRST_RECORD_S = 15
"""A runner takes over the record within this time, or it never came up."""
_STOPPED_TTL_S = 5
"""How long the record of a stopped instance stays."""


class _Runner(NamedTuple):
    """A process; its start time distinguishes it from later ones with the same pid."""

    model: str
    pid: int
    created_at: float


class NodeAgent:
    """Owns the runners of one node, and the records of instances whose runner has exited."""

    def __init__(
        self,
        bus: Bus,
        tasks: Tasks,
        settings: Settings,
        instances: BucketCache[Instance],
        reservations: Reservations,
    ) -> None:
        self._bus = bus
        self._tasks = tasks
        self._settings = settings
        self._instances = instances
        self._store = BucketStore(bus, buckets.INSTANCES)
        self._runners: dict[str, _Runner] = {}
        """By instance id."""
        self._stopping: set[str] = set()
        self._clearing = False
        self._epoch = 0
        self._reservations = reservations

    def adopt(self) -> None:
        """Watch every runner of this node, now and whenever one shows up."""
        self._instances.listen(self._on_instance)
        for key, instance in tuple(self._instances.values.items()):
            self._on_instance(key, instance)
        for key, runner in read_runners(self._settings).items():
            if key not in self._runners and not is_same(runner.pid, runner.started_at):
                # It died while no supervisor watched, and its record expired.
                self._tasks.spawn(self._kill_engine(key, runner), f"end engine of {key}")

    def _on_instance(self, key: str, instance: Instance | None) -> None:
        if instance is None or instance.node != self._settings.node:
            return
        if instance.state not in LIVE:
            # Its engine has exited; the runner itself needs next to nothing.
            self._reservations.release(key)
        if key in self._runners:
            return
        if instance.pid is not None and instance.pid_started_at is not None and instance.state in LIVE:
            log.info("runner_adopted", instance=key, model=instance.model, pid=instance.pid)
            self._reservations.adopt(key, instance.reserved)
            self._watch(key, instance, instance.pid, instance.pid_started_at, None)

    def running(self) -> tuple[str, ...]:
        return tuple(self._runners)

    def check_epoch(self, epoch: int) -> None:
        """Conflict for an order of a scheduler that has lost the lease to another."""
        if epoch < self._epoch:
            raise Conflict("Another scheduler decides by now.")
        self._epoch = epoch

    def on_lease(self, key: str, lease: Lease | None) -> None:
        """From now on orders of earlier holders are refused."""
        if key == SCHEDULER and lease is not None:
            self._epoch = max(self._epoch, lease.epoch)

    async def start(self, launch: Launch, devices: Sequence[NodeDevice]) -> None:
        """Start a runner; Conflict if there is no memory for it, or while the node is being cleared."""
        if self._clearing:
            raise Conflict("This node is being cleared and takes no start.")
        name = launch.spec.name
        own = (key for key, runner in self._runners.items() if runner.model == name)
        if len(set(own) - self._stopping) >= launch.spec.replicas.max:
            # A record may have expired while the broker was away; only the processes are certain.
            raise Conflict(f"{name} runs on this node already.")
        self._reservations.reserve(launch.instance, launch.reserved, devices)
        try:
            await self._start(launch)
        except BaseException:
            self._reservations.release(launch.instance)
            raise

    async def _start(self, launch: Launch) -> None:
        record = first_record(launch, self._settings.node)
        await self._store.put(launch.instance, record, ttl_s=_FIRST_RECORD_S)
        await self._delete_own_failures(launch.spec.name)
        await self._publish(record)
        try:
            process = self._spawn(launch)
        except OSError as error:
            self._reservations.release(launch.instance)
            await self._record_failed(record, f"The runner could not be started: {error.strerror}.")
            return
        created_at = started_at(process.pid) or time.time()
        self._watch(launch.instance, record, process.pid, created_at, process)

    def _spawn(self, launch: Launch) -> subprocess.Popen[bytes]:
        environment = {**minimal_environment(), **tracing_environment(), **self._settings.as_environment()}
        log_path = self._settings.logs / RUNNERS_LOG
        return start_detached("services.supervisor.runner", launch, environment, log_path)

    def _watch(
        self, key: str, record: Instance, pid: int, created_at: float, child: subprocess.Popen[bytes] | None
    ) -> None:
        runner = self._runners[key] = _Runner(record.model, pid, created_at)
        self._tasks.spawn(self._wait_and_record_end(key, record, runner, child), f"watch {key}")

    async def _wait_and_record_end(
        self, key: str, record: Instance, runner: _Runner, child: subprocess.Popen[bytes] | None
    ) -> None:
        await wait_until_gone(runner.pid, runner.created_at)
        if child is not None:
            child.wait()
        reason = read_reason(self._settings, key) or Reason.REQUESTED
        await self._kill_engine(key, read_runners(self._settings).get(key))
        last = await self._last_record(key) or self._instances.values.get(key, record)
        was_stopping = key in self._stopping
        del self._runners[key]
        self._reservations.release(key)
        self._stopping.discard(key)
        if last.state is InstanceState.STOPPED:
            await self._store.put(key, last, ttl_s=_STOPPED_TTL_S)
        elif was_stopping and InstanceState.STOPPED in NEXT_STATES[last.state]:
            # It was stopped before it handled signals, or killed while it stopped: that is no failure.
            await self._record_end(last, InstanceState.STOPPED, reason, ttl_s=_STOPPED_TTL_S)
        elif last.state is not InstanceState.FAILED:
            await self._record_failed(last)

    async def _kill_engine(self, key: str, runner: RunnerFile | None) -> None:
        """End what a killed runner left: the kernel ends the engine's first process, but not its children.

        Returns when all of its memory is free.
        """
        if runner is not None and runner.engine_pid is not None and runner.engine_started_at is not None:
            await ProcessGroup(runner.engine_pid, runner.engine_started_at, key).kill()
        forget_runner(self._settings, key)

    async def _last_record(self, key: str) -> Instance | None:
        """As the broker has it: the cache may be a moment behind the runner's end."""
        with contextlib.suppress(BrokerUnavailable):
            return await self._store.get(key)
        return None

    async def _record_failed(self, last: Instance, error: str | None = None) -> None:
        how = "was killed or crashed" if last.ever_ready else "ended before the model was ready"
        log_path = self._settings.logs / RUNNERS_LOG
        reason = error or last.error or f"The runner {how}; its log is in {log_path}."
        failed = failure(last, reason, time.time())
        await self._record_end(last, InstanceState.FAILED, Reason.CRASHED, **failed._asdict())

    async def _record_end(
        self, last: Instance, state: InstanceState, reason: Reason, *, ttl_s: int | None = None, **fields: Any
    ) -> None:
        fields |= {"state": state, "reason": reason, "changed_at": time.time(), "busy": 0}
        record = msgspec.structs.replace(last, **fields)
        await self._store.put(last.instance, record, ttl_s=ttl_s)
        await self._publish(record)

    async def stop(self, key: str, reason: Reason) -> None:
        """Drain and stop one instance; NotFound if it does not run here. Returns once it is signalled."""
        if key not in self._runners:
            raise NotFound(f"No instance {key} runs on this node.")
        if key not in self._stopping:
            leave_reason(self._settings, key, reason)
        self._terminate(key)
        self._tasks.spawn(self._kill_after(key, DRAIN_S + 3 * STOP_S), f"stop {key}")

    async def clear(self, drain_s: float) -> int:
        """Stop every instance, after `drain_s` without draining; how many, once all have exited."""
        self._clearing = True
        keys = list(self._runners)
        for key in keys:
            leave_reason(self._settings, key, Reason.DRAINED)
            self._terminate(key)
        await self._wait_until_gone(keys, drain_s)
        for key in keys:
            self._terminate(key)
        await self._wait_until_gone(keys, 2 * STOP_S)
        await asyncio.gather(*(self._kill_after(key, 0.0) for key in keys))
        return len(keys)

    async def _wait_until_gone(self, keys: list[str], timeout_s: float) -> None:
        runners = [self._runners[key] for key in keys if key in self._runners]
        gone = asyncio.gather(*(wait_until_gone(runner.pid, runner.created_at) for runner in runners))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(gone, timeout_s)

    async def _kill_after(self, key: str, timeout_s: float) -> None:
        if (runner := self._runners.get(key)) is None:
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(wait_until_gone(runner.pid, runner.created_at), timeout_s)
            return
        log.warning("runner_stop_timed_out", instance=key, pid=runner.pid)
        await terminate(runner.pid, runner.created_at, grace_s=0.5)

    def _terminate(self, key: str) -> None:
        """SIGTERM: the first means drain, the second now."""
        runner = self._runners.get(key)
        if runner is not None and send_signal(runner.pid, runner.created_at, signal.SIGTERM):
            self._stopping.add(key)

    async def _delete_own_failures(self, model: str) -> None:
        """A new start supersedes the failures before it; those of other nodes are deleted there."""
        for key, instance in tuple(self._instances.values.items()):
            is_own = instance.node == self._settings.node and instance.model == model
            if is_own and instance.state is InstanceState.FAILED:
                await self._store.delete(key)

    async def _publish(self, record: Instance) -> None:
        event = self._bus.emit(
            subjects.INSTANCE_CHANGED, record, instance=record.instance, state=record.state
        )
        self._tasks.spawn(event, f"event {record.state}")
