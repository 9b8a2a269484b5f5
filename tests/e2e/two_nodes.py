"""A yard with a second node in a network of its own, and the processes of both."""

import asyncio
import contextlib
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from modelyard.bus.records import BucketCache
from modelyard.bus.tasks import Tasks
from modelyard.host.home import prepare
from schemas import buckets
from schemas.instances import Node
from services.supervisor.rpc.connections import pipe
from tests.e2e.machines import Cable, two_machines, unavailable_reason
from tests.e2e.yard_process import YardProcess, environment, running_yard, settings_of
from tests.engines import llama_server, rpc_server
from tests.support import eventually

FAR = "far"
_MARK = "LC_TEST_YARD"
"""Finds the processes of the yard; engines get the variables of a locale."""


class TwoNodes:
    """The yard, its nodes, and their processes."""

    def __init__(self, yard: YardProcess, nodes: BucketCache[Node], mark: str) -> None:
        self.yard = yard
        self.nodes = nodes
        self._mark = mark

    def workers(self) -> list[psutil.Process]:
        """The guards of RPC servers."""
        return [process for process, argv in self._all() if argv[-2:] == ["-m", "services.supervisor.rpc"]]

    def rpc_servers(self) -> list[psutil.Process]:
        return [process for process, argv in self._all() if "rpc-server" in argv[0]]

    async def until_no_workers(self, timeout_s: float) -> None:
        """Wait until no process and no reservation of a worker is left."""
        async with asyncio.timeout(timeout_s):
            await eventually(
                lambda: not (self.workers() or self.rpc_servers()), "no worker process", timeout_s=timeout_s
            )
            await self.nodes.until(lambda nodes: not any(node.workers for node in nodes.values()))

    def _all(self) -> list[tuple[psutil.Process, list[str]]]:
        """Every live process of the yard with its argv."""
        processes = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(_MARK) == self._mark and (argv := process.cmdline()):
                    processes.append((process, argv))
        return processes


@contextlib.asynccontextmanager
async def two_nodes(folder: Path, **more: str) -> AsyncIterator[TwoNodes]:
    """The yard is on machine `a`, the node `far` on `b`; it has no models and reaches only the broker."""
    if reason := unavailable_reason():
        pytest.skip(reason)
    mark = {
        _MARK: str(folder),
        "YARD_LLAMA_SERVER": str(llama_server()),
        "YARD_RPC_SERVER": str(rpc_server()),
    }
    with two_machines() as cable:
        async with running_yard(folder / "home", **mark, **more) as yard, _broker_for_all(yard) as url:
            home = folder / FAR
            prepare(settings_of(home, url))
            shutil.copytree(yard.home / "keys", home / "keys", dirs_exist_ok=True)
            own = {"YARD_NODE": FAR, "YARD_NATS_URL": url, "YARD_RPC_HOST": cable.b}
            with (folder / "far.log").open("wb") as log:
                far = subprocess.Popen(
                    [sys.executable, "-m", "services.supervisor"],
                    env=environment(home, **mark, **{**more, **own}),
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    preexec_fn=lambda: cable.move_in("b"),
                )
            try:
                async with Tasks() as tasks:
                    nodes: BucketCache[Node] = await BucketCache.start(yard.bus, buckets.NODES, tasks)
                    async with asyncio.timeout(20):
                        await nodes.until(lambda known: FAR in known and "testnode" in known)
                    yield TwoNodes(yard, nodes, str(folder))
            finally:
                far.terminate()
                await asyncio.to_thread(far.wait)


@contextlib.asynccontextmanager
async def _broker_for_all(yard: YardProcess) -> AsyncIterator[str]:
    """Forward the address of machine `a` to the broker of `yard up`, which listens on loopback only."""
    port = int(yard.nats_url.rpartition(":")[2])

    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await pipe((reader, writer), await asyncio.open_connection("127.0.0.1", port))

    server = await asyncio.start_server(on_connection, Cable.a, 0)
    yield f"nats://{Cable.a}:{server.sockets[0].getsockname()[1]}"
    server.close()
