"""The lifecycle of one instance: engine started, ready, serving, drained, stopped."""

import asyncio
import contextlib
import os
import signal
import time

import msgspec
import structlog

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.bus.tasks import Tasks, first_of
from modelyard.host.home import RunnerFile, forget_runner, read_reason, write_runner
from modelyard.host.processes import started_at
from modelyard.host.settings import Settings
from modelyard.plugins import EngineProblem
from schemas.base import Role
from schemas.errors import YardError
from schemas.instances import Instance, InstanceState, Reason
from services.supervisor.node.backoff import failure
from services.supervisor.rpc.worker_set import WorkerSet, WorkersUnavailable
from services.supervisor.runner.engine_log import flush_lines, publish_lines
from services.supervisor.runner.engine_process import EngineProcess
from services.supervisor.runner.liveness import measure, wait_until_hung
from services.supervisor.runner.metrics import InstanceMetricsPublisher
from services.supervisor.runner.queue_consumer import QueueConsumer
from services.supervisor.runner.record import DRAIN_S, STOP_S, InstanceRecord, Launch, first_record
from services.supervisor.runner.slot_pool import SlotPool
from services.supervisor.runner.start import EngineStart, EngineStartFailed, PortTaken, StartCancelled
from services.supervisor.runner.upstream import Upstream

log = logs.get(__name__)

LAST_EVENTS_S = 5.0
"""How long the last events may take to be stored."""
MEASURE_S = 10.0
BROKER_LOST_EXIT_S = 120.0
"""A runner exits after so long without a broker: no request can reach it, and no supervisor may be left."""
WORKER_LOST_S = 1.0
"""How long after the engine's exit the loss of a worker may be noticed."""
_S = InstanceState


class EngineExited(Exception):
    """A ready engine exited without a stop, or was ended because it hung."""

    def __init__(self, message: str, reason: Reason) -> None:
        super().__init__(message)
        self.reason = reason


class Runner:
    """One instance, from its launch to its last record."""

    def __init__(self, bus: Bus, tasks: Tasks, launch: Launch, settings: Settings) -> None:
        self._bus = bus
        self._tasks = tasks
        self._launch = launch
        self._spec = launch.placement.applied_to(launch.spec)
        self._settings = settings
        self._stop, self._stop_now = asyncio.Event(), asyncio.Event()
        self._record = InstanceRecord(bus, tasks, own_record(launch, settings))
        self._drain_cut_short = False
        """Whether the runner ended an engine with requests in flight."""
        self._workers = WorkerSet(bus, settings, instance=launch.instance, model=launch.spec.name)
        self._started_process: EngineProcess | None = None
        self._started_upstream: Upstream | None = None

    def on_term(self) -> None:
        """First SIGTERM: drain. Second: stop now."""
        (self._stop_now if self._stop.is_set() else self._stop).set()

    async def run(self) -> None:
        """Run until the engine has exited; the last state is written before this returns."""
        renewing = self._tasks.spawn(self._record.renew(), "renew record")
        try:
            await self._serve(await self._start())
        except StartCancelled:
            await self._finish(renewing)
        except (EngineProblem, WorkersUnavailable) as error:
            await self._fail(renewing, Reason.UNHEALTHY, str(error))
        except EngineStartFailed as error:
            await self._fail(renewing, error.reason, await self._worker_loss() or str(error))
        except EngineExited as error:
            await self._fail(renewing, error.reason, str(error))
        else:
            await self._finish(renewing)
        await self._record.wait_for_events(LAST_EVENTS_S)

    @property
    def _process(self) -> EngineProcess:
        assert self._started_process is not None
        return self._started_process

    async def _start(self) -> QueueConsumer:
        placement = self._launch.placement
        if placement.workers:
            placement = msgspec.structs.replace(placement, rpc=await self._acquire_workers())
        start = EngineStart(self._spec, placement, self._settings, self._record, self._stop)
        try:
            upstream, load_s = await self._start_engine(start)
        except PortTaken as error:
            log.warning("port_was_taken", error=str(error))
            await self._stop_engine()
            upstream, load_s = await self._start_engine(start)
        pool = SlotPool(self._bus, self._tasks, self._record, upstream, self._spec)
        consumer = QueueConsumer(self._bus, self._tasks, self._spec.name, pool)
        await pool.open()
        await consumer.open()
        self._tasks.spawn(self._measure(), "measure memory")
        self._tasks.spawn(InstanceMetricsPublisher(self._bus, pool, upstream).run(), "metrics")
        await self._record.transition(_S.READY, load_s=load_s, slots=pool.slots, ready_at=time.time())
        return consumer

    async def _acquire_workers(self) -> tuple[str, ...]:
        """The addresses of the workers; StartCancelled if a stop is requested before all are ready."""
        acquiring = asyncio.create_task(self._workers.acquire(self._launch.placement.workers))
        try:
            await first_of(acquiring, self._stop.wait())
            if not acquiring.done():
                raise StartCancelled
            return acquiring.result()
        finally:
            acquiring.cancel()

    async def _start_engine(self, start: EngineStart) -> tuple[Upstream, float]:
        self._started_process = process = await start.start_process(self._on_started)
        self._started_upstream = upstream = await start.wait_until_listening(process)
        return upstream, await start.wait_until_ready(process, upstream)

    def _on_started(self, process: EngineProcess) -> None:
        write_runner(self._settings, self._launch.instance, own_file(process))
        self._tasks.spawn(process.follow(), "engine output")
        publishing = publish_lines(self._bus, process.pending_lines, self._record.instance)
        self._tasks.spawn(publishing, "engine log")

    async def _serve(self, consumer: QueueConsumer) -> None:
        """Serve until a stop, then drain; EngineExited if the engine or a worker ends before."""
        assert self._started_upstream is not None
        process = self._process
        _, _, hung, worker_lost, _ = await first_of(
            process.leader_exited.wait(),
            self._stop.wait(),
            wait_until_hung(process, self._started_upstream, self._settings.hang_s),
            self._workers.wait_lost(),
            self._broker_lost(),
        )
        if worker_lost and not process.leader_exited.is_set():
            # An idle engine would notice only at its next request.
            await self._kill_engine(consumer)
            await process.leader_exited.wait()
        if hung and not process.leader_exited.is_set() and not self._stop.is_set():
            await self._kill_hung_engine(consumer)
        if not process.leader_exited.is_set():
            await self._record.transition(_S.DRAINING, self._stop_reason())
            await self._drain(consumer)
        if process.leader_exited.is_set() and not self._drain_cut_short:
            await self._end_answers(consumer)
            await process.exited.wait()
            worker_loss = await self._worker_loss()
            reason = Reason.CRASHED if worker_loss else process.exit_reason()
            raise EngineExited(worker_loss or process.exit_summary(), reason)

    async def _worker_loss(self) -> str | None:
        """The loss of a worker, if it is why the engine exited: the engine itself cannot report it."""
        if self._launch.placement.workers:
            with contextlib.suppress(TimeoutError):
                return await asyncio.wait_for(self._workers.wait_lost(), WORKER_LOST_S)
        return None

    async def _kill_hung_engine(self, consumer: QueueConsumer) -> None:
        """Raises EngineExited. Its requests in flight are retried, as after any other exit."""
        log.error("engine_hung", silent_s=self._settings.hang_s, busy=consumer.busy)
        lines = self._process.last_lines()
        await self._kill_engine(consumer)
        silent = f"The engine gave no sign of life for {self._settings.hang_s:.0f} s and was ended"
        raise EngineExited(f"{silent}; its last output: {lines}", Reason.UNHEALTHY)

    async def _kill_engine(self, consumer: QueueConsumer) -> None:
        # The drain begins first: a retry must not come back to the same engine.
        ending = asyncio.create_task(self._end_answers(consumer))
        await asyncio.sleep(0)
        await self._process.stop(0.0)
        await ending

    async def _measure(self) -> None:
        while (engine_pid := self._record.instance.engine_pid) is not None:
            instance = self._record.instance
            self._record.set_reserved(await measure(self._bus, instance.node, engine_pid, instance.reserved))
            await asyncio.sleep(MEASURE_S)

    def _stop_reason(self) -> Reason:
        return read_reason(self._settings, self._launch.instance) or Reason.REQUESTED

    async def _drain(self, consumer: QueueConsumer) -> None:
        drained, _, exited = await first_of(
            consumer.drain(), self._stop_now.wait(), self._process.leader_exited.wait(), timeout_s=DRAIN_S
        )
        if not drained and not exited:
            log.warning("drain_cut_short", busy=consumer.busy)
            self._drain_cut_short = True
            await self._process.stop(STOP_S)
            await self._end_answers(consumer)

    async def _end_answers(self, consumer: QueueConsumer) -> None:
        """Take no new requests. Those of an exited engine are handed back or fail, which takes a moment."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                await consumer.drain()

    async def _broker_lost(self) -> None:
        while time.monotonic() - self._record.renewed_at < BROKER_LOST_EXIT_S:
            await asyncio.sleep(BROKER_LOST_EXIT_S / 20)
        log.error("broker_lost", seconds=BROKER_LOST_EXIT_S)

    async def _finish(self, renewing: asyncio.Task[None]) -> None:
        await self._record.transition(_S.STOPPING, self._stop_reason())
        await self._clean_up(renewing)
        await self._record.transition(_S.STOPPED, busy=0)

    async def _fail(self, renewing: asyncio.Task[None], reason: Reason, error: str) -> None:
        await self._clean_up(renewing)
        failed = failure(self._record.instance, error, time.time())
        await self._record.transition(_S.FAILED, reason, busy=0, **failed._asdict())

    async def _clean_up(self, renewing: asyncio.Task[None]) -> None:
        renewing.cancel()
        await self._stop_engine()
        await self._workers.release()

    async def _stop_engine(self) -> None:
        if self._started_upstream is not None:
            await self._started_upstream.close()
        if (process := self._started_process) is not None:
            await process.stop(STOP_S)
            await flush_lines(self._bus, process.pending_lines, self._record.instance)


def own_file(engine: EngineProcess | None = None) -> RunnerFile:
    """This runner's process, and the engine that dies with it."""
    return RunnerFile(
        pid=os.getpid(),
        started_at=started_at(os.getpid()) or time.time(),
        engine_pid=engine.group.leader if engine else None,
        engine_started_at=engine.group.created_at if engine else None,
    )


def own_record(launch: Launch, settings: Settings) -> Instance:
    """The record as the supervisor wrote it, with this process."""
    pid, record = os.getpid(), first_record(launch, settings.node)
    return msgspec.structs.replace(record, pid=pid, pid_started_at=started_at(pid))


async def run(launch: Launch, settings: Settings) -> int:
    """Connect and run one instance; the exit code of the process."""
    structlog.contextvars.bind_contextvars(instance=launch.instance, model=launch.spec.name)
    try:
        bus = await Bus.connect(settings, Role.RUNNER, url=launch.nats_url)
    except YardError as error:
        log.error("runner_failed", error=error.message)  # noqa: TRY400 - a sentence, no traceback
        return 1
    write_runner(settings, launch.instance, own_file())
    async with Tasks() as tasks:
        runner = Runner(bus, tasks, launch, settings)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, runner.on_term)
        await runner.run()
    forget_runner(settings, launch.instance)
    await bus.close()
    return 0
