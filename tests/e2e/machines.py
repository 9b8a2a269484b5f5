"""Two machines as network namespaces `a` and `b`, connected by a pair of virtual interfaces.

The test process is in `a` while they exist: its sockets and child processes are on that machine.
"""

import asyncio
import contextlib
import ctypes
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from tests.e2e.yard_process import YardProcess, environment, running_yard

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class Cable:
    """Two namespaces and the link between them."""

    a = "10.177.0.1"
    b = "10.177.0.2"

    def __init__(self) -> None:
        self._names = {side: f"yard{side}{os.getpid()}" for side in "ab"}

    def set_up(self) -> None:
        """Raises OSError or CalledProcessError without the needed privileges."""
        for name in self._names.values():
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        ends = ("netns", self._names["a"]), ("netns", self._names["b"])
        _ip("link", "add", "wire", *ends[0], "type", "veth", "peer", "name", "wire", *ends[1])
        for side, address in (("a", self.a), ("b", self.b)):
            _ip("-n", self._names[side], "address", "add", f"{address}/24", "dev", "wire")
            _ip("-n", self._names[side], "route", "add", "224.0.0.0/4", "dev", "wire", check=False)
            self.plug(side)
            _ip("-n", self._names[side], "route", "replace", "default", "dev", "wire")

    def plug(self, side: str = "b") -> None:
        """Bring the link up."""
        _ip("-n", self._names[side], "link", "set", "wire", "up")

    def cut(self) -> None:
        """Drop all packets from now on, without a connection reset."""
        _ip("-n", self._names["b"], "link", "set", "wire", "down")

    def move_in(self, side: str) -> None:
        """Move this process, and its later child processes, to that machine."""
        _enter(Path("/run/netns") / self._names[side])

    def remove(self) -> None:
        for name in self._names.values():
            _ip("netns", "delete", name, check=False)


@contextlib.contextmanager
def two_machines() -> Iterator[Cable]:
    """The test process is on `a` inside the block."""
    home, cable = os.open("/proc/thread-self/ns/net", os.O_RDONLY), Cable()
    try:
        cable.set_up()
        cable.move_in("a")
        yield cable
    finally:
        _set_namespace(home)
        os.close(home)
        cable.remove()


def unavailable_reason() -> str | None:
    """Why namespaces cannot be used here, or None."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces are for root on Linux"
    try:
        with two_machines():
            return None
    except (OSError, subprocess.CalledProcessError) as error:
        return f"no network namespaces here: {getattr(error, 'stderr', None) or error}"


@contextlib.asynccontextmanager
async def first_machine(home: Path, cable: Cable, **more: str) -> AsyncIterator[YardProcess]:
    """The yard on `a`, which other machines may join."""
    async with running_yard(home, "--listen", cable.a, YARD_NODE="a", **more) as yard:
        yield yard


@contextlib.asynccontextmanager
async def second_machine(
    home: Path, yard: YardProcess, cable: Cable, *options: str, node: str = "b", **more: str
) -> AsyncIterator[YardProcess]:
    """The machine `b`, invited and joined; `options` come after `--join`."""
    async with invited(yard) as invitation:
        joining = running_yard(
            home,
            "--join",
            *options,
            stdin=invitation + "\n",
            preexec_fn=lambda: cable.move_in("b"),
            YARD_NODE=node,
            **more,
        )
        async with joining as joined:
            yield joined


@contextlib.asynccontextmanager
async def invited(yard: YardProcess, *options: str) -> AsyncIterator[str]:
    """An invitation by `yard invite`, which must exit with 0 after the machine joined."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "modelyard.cli", "invite", *options),
        env=environment(yard.home, YARD_NODE="a"),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async for line in process.stdout:
            if line.startswith(b"yard-invitation-"):
                yield line.decode().strip()
                break
        assert b"has joined" in await asyncio.wait_for(process.stdout.read(), 10)
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def yard_output(yard: YardProcess, *arguments: str, code: int = 0) -> str:
    """The output of a `yard` command on the machine of the test; it must exit with `code`."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "modelyard.cli", *arguments),
        env=environment(yard.home, YARD_NODE="a"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == code, out.decode()
    return out.decode()


def _ip(*arguments: str, check: bool = True) -> None:
    subprocess.run(["ip", *arguments], check=check, capture_output=True, text=True)


def _enter(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        _set_namespace(descriptor)
    finally:
        os.close(descriptor)


def _set_namespace(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
