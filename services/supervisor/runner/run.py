"""The life of a runner: engine up, proven, at work; drained and down."""

import asyncio
import contextlib
import os
import signal
import time

import msgspec
import structlog

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.bus.tasks import Tasks
from modelyard.host.home import RunnerFile, forget_runner, read_reason, write_runner
from modelyard.host.processes import started_at
from modelyard.host.settings import Settings
from schemas.base import Role
from schemas.errors import YardError
from schemas.instances import Instance, InstanceState, Reason
from services.supervisor.backoff import failure
from services.supervisor.engines.base import EngineProblem
from services.supervisor.rpc.crew import Crew, NoCrew
from services.supervisor.runner.activity import Activity
from services.supervisor.runner.desk import Desk
from services.supervisor.runner.edits import follow_edits
from services.supervisor.runner.engine_process import EngineProcess
from services.supervisor.runner.intake import Intake
from services.supervisor.runner.launch import DRAIN_S, STOP_S, Launch, first_record
from services.supervisor.runner.life import Life
from services.supervisor.runner.log_lines import flush_lines, publish_lines
from services.supervisor.runner.measuring import measure
from services.supervisor.runner.start import Halted, PortTaken, Start, StartFailed
from services.supervisor.runner.upstream import Upstream
from services.supervisor.runner.watch import until_hung

log = logs.get(__name__)

TELL_S = 5.0
"""How long the last events may take to be stored."""
MEASURE_S = 10.0
LONELY_S = 120.0
"""Without a broker for so long a runner ends: nobody can use it, and nobody may be left to stop it."""
LOST_S = 1.0
"""How long the word of a lost worker may take behind the end of the engine."""
_S = InstanceState


class Ended(Exception):
    """The engine was ready and is no more, without being asked to leave."""

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
        self._life = Life(bus, tasks, own_record(launch, settings))
        self._cut_short = False
        """Whether we ended the engine while it still answered."""
        self._crew = Crew(bus, settings, instance=launch.instance, model=launch.spec.name)
        self._process: EngineProcess | None = None
        self._upstream: Upstream | None = None

    def on_term(self) -> None:
        """First SIGTERM: drain. Second: now."""
        (self._stop_now if self._stop.is_set() else self._stop).set()

    async def run(self) -> None:
        """Until the engine ended, as asked or not; its last state is written before this returns."""
        renewing = self._tasks.spawn(self._life.keep_renewed(), "renew record")
        try:
            await self._work(await self._start())
        except Halted:
            await self._end(renewing)
        except (EngineProblem, NoCrew) as error:
            await self._fail(renewing, Reason.UNHEALTHY, str(error))
        except StartFailed as error:
            await self._fail(renewing, error.reason, await self._lost_worker() or str(error))
        except Ended as error:
            await self._fail(renewing, error.reason, str(error))
        else:
            await self._end(renewing)
        await self._life.told(TELL_S)

    async def _start(self) -> Intake:
        placement = self._launch.placement
        if placement.workers:
            placement = msgspec.structs.replace(placement, rpc=await self._hired())
        start = Start(self._spec, placement, self._settings, self._life, self._stop)
        try:
            upstream, load_s = await self._prove(start)
        except PortTaken as error:
            log.warning("port_was_taken", error=str(error))
            await self._put_down()
            upstream, load_s = await self._prove(start)
        assert self._process is not None
        desk = Desk(self._bus, self._tasks, self._life, upstream, self._spec, self._process.ended)
        intake = Intake(self._bus, self._tasks, self._spec.name, desk)
        await desk.open()
        await follow_edits(self._bus, self._tasks, desk)
        await intake.open()
        self._tasks.spawn(self._measure(), "measure")
        self._tasks.spawn(Activity(self._bus, desk, upstream).run(), "activity")
        await self._life.step(_S.READY, load_s=load_s, slots=desk.slots, ready_at=time.time())
        return intake

    async def _hired(self) -> tuple[str, ...]:
        """Where the engine finds its workers; Halted if somebody asks to stop before all are there."""
        hiring = asyncio.create_task(self._crew.hire(self._launch.placement.workers))
        stop = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({hiring, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not hiring.done():
                raise Halted
            return hiring.result()
        finally:
            hiring.cancel()
            stop.cancel()

    async def _prove(self, start: Start) -> tuple[Upstream, float]:
        self._process = await start.process(self._follow)
        self._upstream = await start.listening(self._process)
        return self._upstream, await start.proven(self._process, self._upstream)

    def _follow(self, process: EngineProcess) -> None:
        write_runner(self._settings, self._launch.instance, own_file(process))
        self._tasks.spawn(process.follow(), "engine output")
        self._tasks.spawn(publish_lines(self._bus, process, self._life.instance), "log lines")

    async def _work(self, intake: Intake) -> None:
        """Serve until told to stop, then let what runs finish; Ended if engine or worker end before."""
        assert self._process is not None
        assert self._upstream is not None
        hung = asyncio.create_task(until_hung(self._process, self._upstream, self._settings.hang_s))
        crashed = asyncio.create_task(self._process.ended.wait())
        stop = asyncio.create_task(self._stop.wait())
        lonely = asyncio.create_task(self._lonely())
        lost = asyncio.create_task(self._crew.lost())
        try:
            await asyncio.wait({crashed, hung, stop, lonely, lost}, return_when=asyncio.FIRST_COMPLETED)
            if lost.done() and not crashed.done():
                # An idle engine would notice only at its next request.
                await self._end_at_once(intake)
                await crashed
            if hung.done() and not crashed.done() and not stop.done():
                await self._end_hung(intake)
            if not crashed.done():
                await self._life.step(_S.DRAINING, self._why())
                await self._drain(intake, crashed)
            if crashed.done() and not self._cut_short:
                await self._let_answers_end(intake)
                await self._process.exited.wait()
                lost_worker = await self._lost_worker()
                raise Ended(lost_worker or self._process.epitaph(), self._cause(lost_worker))
        finally:
            for task in (crashed, hung, stop, lonely, lost):
                task.cancel()

    def _cause(self, lost_worker: str | None) -> Reason:
        assert self._process is not None
        return Reason.CRASHED if lost_worker else self._process.cause()

    async def _lost_worker(self) -> str | None:
        """What became of a worker, if that is why the engine ended: the engine itself cannot tell."""
        if self._launch.placement.workers:
            with contextlib.suppress(TimeoutError):
                return await asyncio.wait_for(self._crew.lost(), LOST_S)
        return None

    async def _end_hung(self, intake: Intake) -> None:
        """Raises Ended. What it was at is asked again, as after any other death."""
        assert self._process is not None
        log.error("engine_hangs", silent_s=self._settings.hang_s, busy=intake.busy)
        lines = self._process.last_lines()
        await self._end_at_once(intake)
        silent = f"The engine gave no sign of life for {self._settings.hang_s:.0f} s and was ended"
        raise Ended(f"{silent}; it said last: {lines}", Reason.UNHEALTHY)

    async def _end_at_once(self, intake: Intake) -> None:
        """End an engine that will not answer any more."""
        assert self._process is not None
        # First of all it takes nothing more: what is asked again must not come back to the same engine.
        ending = asyncio.create_task(self._let_answers_end(intake))
        await asyncio.sleep(0)
        await self._process.stop(0.0)
        await ending

    async def _measure(self) -> None:
        """Show what is taken, as long as this runs."""
        while self._life.instance.engine_pid is not None:
            instance = self._life.instance
            assert instance.engine_pid is not None
            self._life.set_reserved(
                await measure(self._bus, instance.node, instance.engine_pid, instance.reserved)
            )
            await asyncio.sleep(MEASURE_S)

    def _why(self) -> Reason:
        return read_reason(self._settings, self._launch.instance) or Reason.REQUESTED

    async def _drain(self, intake: Intake, crashed: asyncio.Task[bool]) -> None:
        drained = asyncio.create_task(intake.drain())
        now = asyncio.create_task(self._stop_now.wait())
        await asyncio.wait({drained, now, crashed}, timeout=DRAIN_S, return_when=asyncio.FIRST_COMPLETED)
        if not drained.done() and not crashed.done():
            log.warning("drain_cut_short", busy=intake.busy)
            self._cut_short = True
            assert self._process is not None
            await self._process.stop(STOP_S)
            await self._let_answers_end(intake)
        now.cancel()

    async def _let_answers_end(self, intake: Intake) -> None:
        """Take nothing more. Requests of a dead engine are given back or told; that takes a moment."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                await intake.drain()

    async def _lonely(self) -> None:
        """Return when the broker has been away for too long."""
        while time.monotonic() - self._life.last_renewed < LONELY_S:
            await asyncio.sleep(LONELY_S / 20)
        log.error("no_broker_for_too_long", seconds=LONELY_S)

    async def _end(self, renewing: asyncio.Task[None]) -> None:
        await self._life.step(_S.STOPPING, self._why())
        await self._clean_up(renewing)
        await self._life.step(_S.STOPPED, busy=0)

    async def _fail(self, renewing: asyncio.Task[None], reason: Reason, error: str) -> None:
        await self._clean_up(renewing)
        failed = failure(self._life.instance, error, time.time())
        await self._life.step(_S.FAILED, reason, busy=0, **failed._asdict())

    async def _clean_up(self, renewing: asyncio.Task[None]) -> None:
        """The engine is gone and its last lines are out."""
        renewing.cancel()
        await self._put_down()
        await self._crew.dismiss()

    async def _put_down(self) -> None:
        if self._upstream is not None:
            await self._upstream.close()
        if self._process is not None:
            await self._process.stop(STOP_S)
            await flush_lines(self._bus, self._process, self._life.instance)


def own_file(engine: EngineProcess | None = None) -> RunnerFile:
    """Who we are, and which engine dies with us."""
    return RunnerFile(
        pid=os.getpid(),
        started_at=started_at(os.getpid()) or time.time(),
        engine_pid=engine.group.leader if engine else None,
        engine_started_at=engine.group.created_at if engine else None,
    )


def own_record(launch: Launch, settings: Settings) -> Instance:
    """The record as the supervisor wrote it, now with our process in it."""
    pid = os.getpid()
    return msgspec.structs.replace(
        first_record(launch, settings.node), pid=pid, pid_started_at=started_at(pid)
    )


async def run(launch: Launch, settings: Settings) -> int:
    """Log in, live, log out; the exit code of the process."""
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
