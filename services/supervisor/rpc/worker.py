"""A worker: an RPC server on loopback and the guard in front of it, as long as their instance."""

import asyncio
import contextlib
import signal
from asyncio.subprocess import Process
from collections.abc import Callable

from modelyard.bus import logs
from modelyard.bus.service import stop_signal
from modelyard.bus.tasks import first_of
from modelyard.host.processes import dying_with_parent
from modelyard.host.settings import Settings
from schemas.base import Record
from services.supervisor.rpc.connections import (
    BUFFER_BYTES,
    Connection,
    HandshakeError,
    Purpose,
    answer_heartbeats,
    authenticate_instance,
    pipe,
    send_exit_reason,
    shut,
)
from services.supervisor.rpc.server import NoRpcServer, find_program, protocol_version, rpc_command
from services.supervisor.runner.engine_process import NoFreePort, describe_exit, free_port

log = logs.get(__name__)

_MAX_UNAUTHENTICATED = 16
"""Further connections without a completed handshake are closed at once."""
START_S = 15.0
"""How long the RPC server may take until it answers; it loads nothing."""
INSTANCE_TIMEOUT_S = 15.0
"""How long the instance may take to connect."""
_LAST_MESSAGE_S = 0.2
_STOP_S = 2.0
Report = Callable[["WorkerUp"], None]


class Guard:
    """Listens where other nodes reach it, for an RPC server on a loopback port."""

    def __init__(self, token: str, server_port: int) -> None:
        self.instance_connected = asyncio.Event()
        self.instance_lost = asyncio.Event()
        self._token = token
        self._server_port = server_port
        self._unauthenticated = 0
        self._instance: Connection | None = None
        self._server: asyncio.Server | None = None

    async def open(self, host: str) -> int:
        """Listen on a free port of `host`; the port. OSError if that is no address of this machine."""
        self._server = await asyncio.start_server(self._on_connection, host, 0, limit=BUFFER_BYTES)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def close(self, reason: str) -> None:
        """Accept no more connections; a connected instance gets the `reason`."""
        if self._server is not None:
            self._server.close()
        if self._instance is not None and not self.instance_lost.is_set():
            send_exit_reason(self._instance[1], reason)

    async def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._unauthenticated >= _MAX_UNAUTHENTICATED:
            await shut(writer)
            return
        self._unauthenticated += 1
        try:
            purpose = await authenticate_instance(reader, writer, self._token)
        except (HandshakeError, OSError) as error:
            peer = str(writer.get_extra_info("peername"))
            log.warning("connection_refused", peer=peer, reason=str(error))
            await shut(writer)
            return
        finally:
            self._unauthenticated -= 1
        await (self._follow_instance if purpose is Purpose.HEARTBEAT else self._serve)(reader, writer)

    async def _follow_instance(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The instance is alive as long as its first heartbeat connection is."""
        if self._instance is None:
            self._instance = reader, writer
            self.instance_connected.set()
            await answer_heartbeats(reader, writer)
            self.instance_lost.set()
        await shut(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._instance is not None:
            with contextlib.suppress(OSError):
                server = await asyncio.open_connection("127.0.0.1", self._server_port, limit=BUFFER_BYTES)
                await pipe((reader, writer), server)
        await shut(writer)


class WorkerLaunch(Record):
    """One JSON document on the standard input of a worker."""

    worker: str
    token: str
    device: str


class WorkerUp(Record):
    """One line on its standard output: its port, or why it has none."""

    port: int = 0
    server_pid: int | None = None
    error: str | None = None


async def run(launch: WorkerLaunch, settings: Settings, report: Report) -> int:
    """Run one worker; the exit code of the process."""
    stop = stop_signal()
    try:
        async with asyncio.timeout(START_S):
            process, server_port = await _start(launch, settings)
            protocol = await _wait_until_ready(process, server_port)
        guard = Guard(launch.token, server_port)
        port = await guard.open(settings.rpc_host)
    except (OSError, NoRpcServer, NoFreePort) as error:
        report(WorkerUp(error=_sentence(error, settings)))
        return 1
    log.info("worker_ready", worker=launch.worker, device=launch.device, protocol=protocol)
    report(WorkerUp(port=port, server_pid=process.pid))
    reason = await _wait_for_end(process, guard, stop)
    log.info("worker_ended", worker=launch.worker, reason=reason)
    guard.close(reason)
    await _end(process)
    # Closing the connection at once could lose the reason in transit.
    await asyncio.sleep(_LAST_MESSAGE_S)
    return 0


async def _start(launch: WorkerLaunch, settings: Settings) -> tuple[Process, int]:
    """The RPC server as a child that is killed with us, and its port; its output goes to our log."""
    if (program := find_program(settings)) is None:
        raise NoRpcServer("there is no program for it")
    port = free_port()
    command = rpc_command(program, port, launch.device)
    process = await asyncio.create_subprocess_exec(
        *command.argv,
        env=command.env,
        stdin=asyncio.subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=dying_with_parent(signal.SIGKILL),
    )
    return process, port


async def _wait_until_ready(process: Process, port: int) -> str:
    answering = asyncio.create_task(protocol_version(port))
    try:
        await first_of(answering, process.wait())
        if not answering.done():
            raise NoRpcServer(f"it ended with exit code {process.returncode}")
        return answering.result()
    finally:
        answering.cancel()


async def _wait_for_end(process: Process, guard: Guard, stop: asyncio.Event) -> str:
    """Wait for the end of the server or the instance, or a stop; the reason, for the instance."""
    lost, missing = guard.instance_lost.wait(), _instance_missing(guard)
    exited, stopped, *_ = await first_of(process.wait(), stop.wait(), lost, missing)
    if exited:
        return f"its RPC server {describe_exit(process.returncode)}"
    return "its node stopped it" if stopped else "its instance has ended"


async def _instance_missing(guard: Guard) -> None:
    try:
        await asyncio.wait_for(guard.instance_connected.wait(), INSTANCE_TIMEOUT_S)
    except TimeoutError:
        return
    await asyncio.Event().wait()


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
