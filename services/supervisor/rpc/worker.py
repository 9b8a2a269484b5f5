"""The life of a worker: an RPC server on loopback and its guard, as long as the instance it is for."""

import asyncio
import contextlib
import signal
from asyncio.subprocess import Process
from collections.abc import Callable

from modelyard.bus import logs
from modelyard.bus.service import stop_signal
from modelyard.host.processes import dying_with_parent
from modelyard.host.settings import Settings
from schemas.base import Record
from services.supervisor.rpc.guard import Guard
from services.supervisor.rpc.hello import NoRpcServer, hello
from services.supervisor.rpc.program import command, find_program
from services.supervisor.runner.ports import NoFreePort, free_port

log = logs.get(__name__)

START_S = 15.0
"""How long the RPC server may take until it answers; it loads nothing."""
LONELY_S = 15.0
"""How long its instance may take to come."""
_FAREWELL_S = 0.2
_STOP_S = 2.0


Report = Callable[["WorkerUp"], None]


class WorkerLaunch(Record):
    """What a worker is told, as one JSON document on its standard input."""

    worker: str
    token: str
    device: str


class WorkerUp(Record):
    """What it says once, as one line on its standard output: where it listens, or why it does not."""

    port: int = 0
    server_pid: int | None = None
    error: str | None = None


async def run(launch: WorkerLaunch, settings: Settings, report: Report) -> int:
    """Live; the exit code of the process."""
    stop = stop_signal()
    try:
        async with asyncio.timeout(START_S):
            process, port = await _start(launch, settings)
            protocol = await _proven(process, port)
        guard = Guard(launch.token, port)
        outside = await guard.open(settings.rpc_host)
    except (OSError, NoRpcServer, NoFreePort) as error:
        report(WorkerUp(error=_sentence(error, settings)))
        return 1
    log.info("worker_ready", worker=launch.worker, device=launch.device, protocol=protocol)
    report(WorkerUp(port=outside, server_pid=process.pid))
    why = await _until_over(process, guard, stop)
    log.info("worker_ends", worker=launch.worker, reason=why)
    guard.close(why)
    await _end(process)
    # The last word is on its way; a connection that is cut at once would lose it.
    await asyncio.sleep(_FAREWELL_S)
    return 0


async def _start(launch: WorkerLaunch, settings: Settings) -> tuple[Process, int]:
    """The RPC server as a child that dies with us; what it prints goes to our log."""
    if (program := find_program(settings)) is None:
        raise NoRpcServer("there is no program for it")
    port = free_port()
    started = command(program, port, launch.device)
    process = await asyncio.create_subprocess_exec(
        *started.argv,
        env=started.env,
        stdin=asyncio.subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=dying_with_parent(signal.SIGKILL),
    )
    return process, port


async def _proven(process: Process, port: int) -> str:
    """The protocol it speaks, once it answers."""
    answering, ended = asyncio.create_task(hello(port)), asyncio.create_task(process.wait())
    try:
        await asyncio.wait({answering, ended}, return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            raise NoRpcServer(f"it ended with exit code {process.returncode}")
        return answering.result()
    finally:
        answering.cancel()
        ended.cancel()


async def _until_over(process: Process, guard: Guard, stop: asyncio.Event) -> str:
    """Wait until one end is reached; which, for the instance."""
    ended = asyncio.create_task(process.wait())
    left = asyncio.create_task(guard.instance_left.wait())
    told = asyncio.create_task(stop.wait())
    lonely = asyncio.create_task(_lonely(guard))
    try:
        await asyncio.wait({ended, left, told, lonely}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (left, told, lonely):
            task.cancel()
    if ended.done():
        return f"its RPC server {_how(process.returncode)}"
    ended.cancel()
    return "its node told it to stop" if told.done() and not told.cancelled() else "its instance is gone"


async def _lonely(guard: Guard) -> None:
    """Return when nobody came in time."""
    try:
        await asyncio.wait_for(guard.instance_came.wait(), LONELY_S)
    except TimeoutError:
        return
    await asyncio.Event().wait()


def _how(code: int | None) -> str:
    return f"was ended by signal {-code}" if code is not None and code < 0 else f"ended with exit code {code}"


async def _end(process: Process) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), _STOP_S)


def _sentence(error: Exception, settings: Settings) -> str:
    if isinstance(error, TimeoutError):
        return f"llama.cpp's RPC server did not answer within {START_S:.0f} s"
    if isinstance(error, OSError):
        return f"it cannot listen on {settings.rpc_host} or be started: {error.strerror}"
    return f"llama.cpp's RPC server could not be used: {error}"
