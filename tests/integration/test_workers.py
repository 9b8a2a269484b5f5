"""Workers of a node: processes with a guard each, in front of a stub of the RPC server."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import psutil
import pytest

from modelyard.bus.tasks import Tasks
from modelyard.host.processes import wait_until_gone
from modelyard.host.settings import Settings
from schemas.errors import Conflict
from schemas.instances import StartWorker, WorkerStarted
from schemas.placement import NodeDevice
from services.supervisor.node.device_memory import Reservations
from services.supervisor.node.workers import NodeWorkers
from services.supervisor.rpc import connections
from services.supervisor.rpc.connections import Connection, HandshakeError, Purpose, authenticate_worker
from services.supervisor.rpc.worker_set import Tunnel, Unreachable
from tests.support import eventually

STANDIN = Path(__file__).parents[1] / "rpc_standin.py"
GIB = 1024**3
DEVICES = (NodeDevice(device="cpu", name="main memory", memory_bytes=3 * GIB),)
ORDER = StartWorker(
    worker="w1", instance="i1", model="m", device="cpu", memory_bytes=2 * GIB, token="a secret of two"
)


def program(folder: Path, text: str) -> Path:
    path = folder / "ggml-rpc-server"
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(0o755)
    return path


@pytest.fixture
def with_program(settings: Settings, tmp_path: Path) -> Settings:
    return msgspec.structs.replace(settings, rpc_server=program(tmp_path, STANDIN.read_text()))


class WorkerNode:
    """The workers and reservations of a node."""

    def __init__(self, settings: Settings, tasks: Tasks) -> None:
        self.reservations = Reservations()
        self.workers = NodeWorkers(settings, tasks, self.reservations)

    async def start(self, order: StartWorker = ORDER) -> WorkerStarted:
        return await self.workers.start(order, DEVICES)

    async def until_empty(self) -> None:
        """Wait until all processes have exited and all memory is released."""
        await eventually(
            lambda: not (self.workers.now() or self.reservations.total().total()), "no worker", timeout_s=5
        )


@contextlib.asynccontextmanager
async def node(settings: Settings) -> AsyncIterator[WorkerNode]:
    async with Tasks() as tasks:
        started = WorkerNode(settings, tasks)
        yield started
        await started.workers.stop_all()


@contextlib.asynccontextmanager
async def tunnel(at: WorkerStarted, token: str = ORDER.token) -> AsyncIterator[tuple[Tunnel, int]]:
    """The instance's end, and the port for its engine."""
    opened = Tunnel(at, token)
    try:
        address = await opened.open()
        yield opened, int(address.rpartition(":")[2])
    finally:
        await opened.close()


def worker_processes() -> list[psutil.Process]:
    """The workers that this process started."""
    return [child for child in psutil.Process().children() if "services.supervisor.rpc" in child.cmdline()]


async def echoed(port: int, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        return await asyncio.wait_for(reader.readexactly(len(data)), 5)
    finally:
        writer.close()


async def test_data_of_an_engine_reaches_the_rpc_server_and_returns(with_program: Settings) -> None:
    async with node(with_program) as far:
        at = await far.start()
        assert far.reservations.total() == {"cpu": 2 * GIB}
        async with tunnel(at) as (_, port):
            data = os.urandom(3_000_000)
            assert await echoed(port, data) == data
            assert await echoed(port, b"again") == b"again"
        await far.until_empty()


async def test_a_worker_without_free_memory_is_refused(with_program: Settings) -> None:
    async with node(with_program) as far:
        await far.start()
        with pytest.raises(Conflict, match="left for models"):
            await far.start(msgspec.structs.replace(ORDER, worker="w2"))
        assert [one.worker for one in far.workers.now()] == ["w1"]


async def test_memory_is_reserved_before_the_process_starts(with_program: Settings) -> None:
    async with node(with_program) as far:
        both = [
            asyncio.create_task(far.start(msgspec.structs.replace(ORDER, worker=name))) for name in ("a", "b")
        ]
        results = await asyncio.gather(*both, return_exceptions=True)
        assert sorted(type(one).__name__ for one in results) == ["Conflict", "WorkerStarted"]


async def test_a_client_without_the_token_is_refused(with_program: Settings) -> None:
    async with node(with_program) as far:
        at = await far.start()
        with pytest.raises(Unreachable, match="is not this worker"):
            async with tunnel(at, "a guess"):
                pass
        async with tunnel(at) as (_, port):
            reader, writer = await asyncio.open_connection(at.host, at.port)
            writer.write(bytes([14]) + (24).to_bytes(8, "little") + bytes(24) + bytes(64))
            assert not await until_end(reader), "no byte of the RPC server"
            writer.close()
            assert await echoed(port, b"still there") == b"still there"


async def until_end(reader: asyncio.StreamReader) -> bytes:
    with contextlib.suppress(ConnectionError):
        return await asyncio.wait_for(reader.read(), connections.HANDSHAKE_TIMEOUT_S + 1)
    return b""


async def test_a_recorded_handshake_opens_no_connection(with_program: Settings) -> None:
    async with node(with_program) as far:
        at = await far.start()
        async with tunnel(at):
            recording = Recording()
            reader, writer = await asyncio.open_connection(at.host, at.port)
            await authenticate_worker(reader, recording.of(writer), ORDER.token, Purpose.DATA)
            writer.close()
            reader, writer = await asyncio.open_connection(at.host, at.port)
            writer.write(recording.data)
            assert len(await until_end(reader)) == 64, "only the guard's nonce and proof"
            writer.close()


class Recording:
    """The bytes written to a writer."""

    def __init__(self) -> None:
        self.data = b""

    def of(self, writer: asyncio.StreamWriter) -> asyncio.StreamWriter:
        write = writer.write

        def recorded(data: bytes | bytearray | memoryview) -> None:
            self.data += bytes(data)
            write(data)

        writer.write = recorded  # type: ignore[method-assign]
        return writer


async def test_a_server_without_the_token_is_refused() -> None:
    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(33)
        writer.write(os.urandom(64))
        writer.close()

    server = await asyncio.start_server(on_connection, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    ends: Connection = await asyncio.open_connection("127.0.0.1", port)
    with pytest.raises(HandshakeError):
        await authenticate_worker(*ends, ORDER.token, Purpose.HEARTBEAT)
    ends[1].close()
    server.close()


async def test_a_worker_serves_one_instance_and_no_data_before_its_heartbeat(
    with_program: Settings,
) -> None:
    async with node(with_program) as far:
        at = await far.start()
        early = await asyncio.open_connection(at.host, at.port)
        await authenticate_worker(*early, ORDER.token, Purpose.DATA)
        assert await until_end(early[0]) == b""
        early[1].close()
        async with tunnel(at) as (first, _), tunnel(at) as (second, _):
            assert second.lost is not None
            await asyncio.wait_for(second.lost, 5)
            assert first.lost is not None
            assert not first.lost.done()


async def test_a_worker_sends_the_reason_of_its_exit(with_program: Settings) -> None:
    async with node(with_program) as far:
        async with tunnel(await far.start()) as (opened, _):
            assert opened.lost is not None
            (worker,) = worker_processes()
            (server,) = worker.children()
            server.kill()
            assert await asyncio.wait_for(opened.lost, 5) == "its RPC server was ended by signal 9"
        await far.until_empty()


async def test_a_killed_worker_ends_its_rpc_server(with_program: Settings) -> None:
    async with node(with_program) as far:
        async with tunnel(await far.start()) as (opened, _):
            (worker,) = worker_processes()
            (server,) = worker.children()
            began = server.create_time()
            worker.kill()
            assert opened.lost is not None
            assert "killed" in await asyncio.wait_for(opened.lost, 5)
            await asyncio.wait_for(wait_until_gone(server.pid, began), 5)
        await far.until_empty()


async def test_a_restarted_supervisor_adopts_the_reservations_of_its_workers(with_program: Settings) -> None:
    async with node(with_program) as before, node(with_program) as after, tunnel(await before.start()):
        after.workers.adopt()
        assert after.reservations.total() == {"cpu": 2 * GIB}
        assert [one.worker for one in after.workers.now()] == ["w1"]
        await after.workers.clear()
        await after.until_empty()
        with pytest.raises(Conflict, match="being cleared"):
            await after.start()


async def test_a_node_without_the_program_refuses_workers(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    async with node(settings) as far:
        with pytest.raises(Conflict, match="YARD_RPC_SERVER"):
            await far.start()
        assert not far.reservations.total()


async def test_a_program_that_exits_at_once_reserves_no_memory(settings: Settings, tmp_path: Path) -> None:
    broken = msgspec.structs.replace(settings, rpc_server=program(tmp_path, "raise SystemExit(3)"))
    async with node(broken) as far:
        with pytest.raises(Conflict, match="ended with exit code 3"):
            await far.start()
        await far.until_empty()


async def test_an_address_of_another_machine_is_refused(with_program: Settings) -> None:
    unreachable = msgspec.structs.replace(with_program, rpc_host="192.0.2.1")
    async with node(unreachable) as far:
        with pytest.raises(Conflict, match=r"cannot listen on 192\.0\.2\.1"):
            await far.start()
        await far.until_empty()


async def test_the_token_appears_in_no_process_file_or_log(with_program: Settings) -> None:
    async with node(with_program) as far, tunnel(await far.start()):
        texts = [
            text for worker in worker_processes() for text in (*worker.cmdline(), *worker.environ().values())
        ]
        texts += [
            path.read_text() for folder in (with_program.logs, with_program.run) for path in folder.iterdir()
        ]
        assert texts
        assert not any(ORDER.token in text for text in (*texts, repr(ORDER)))
