"""Machines that only share a cable: network namespaces with a pair of virtual interfaces, `a` and `b`.

The test itself moves into `a` for as long as they are there, so its sockets and children are on that machine.
"""

import asyncio
import contextlib
import ctypes
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from modelyard.files.tinymodels import write_babbler
from schemas.models import ModelSpec
from tests.e2e.yard_process import YardProcess, environment, running_yard

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class Cable:
    """Two namespaces, and what connects them."""

    a = "10.177.0.1"
    b = "10.177.0.2"

    def __init__(self) -> None:
        self._names = {side: f"yard{side}{os.getpid()}" for side in "ab"}

    def lay(self) -> None:
        """OSError or CalledProcessError where this machine cannot."""
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
        """Connect it again."""
        _ip("-n", self._names[side], "link", "set", "wire", "up")

    def cut(self) -> None:
        """From now on nothing passes, and nobody is told."""
        _ip("-n", self._names["b"], "link", "set", "wire", "down")

    def move_in(self, side: str) -> None:
        """This process, and what it starts from now on, is on that machine."""
        _enter(Path("/run/netns") / self._names[side])

    def remove(self) -> None:
        for name in self._names.values():
            _ip("netns", "delete", name, check=False)


@contextlib.contextmanager
def two_machines() -> Iterator[Cable]:
    """The test is on `a` inside the block."""
    home, cable = os.open("/proc/thread-self/ns/net", os.O_RDONLY), Cable()
    try:
        cable.lay()
        cable.move_in("a")
        yield cable
    finally:
        _set_namespace(home)
        os.close(home)
        cable.remove()


def why_not() -> str | None:
    """Why there can be no such machines here; None if there can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces are for root on Linux"
    try:
        with two_machines():
            return None
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", None)
        return f"no network namespaces here: {said or error}"


@contextlib.asynccontextmanager
async def first(home: Path, cable: Cable, **more: str) -> AsyncIterator[YardProcess]:
    """The yard on `a`, which others may join."""
    async with running_yard(home, "--listen", cable.a, YARD_NODE="a", **more) as yard:
        yield yard


@contextlib.asynccontextmanager
async def second(
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
    """An invitation by `yard invite`, which must end well once somebody came."""
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


async def command(yard: YardProcess, *words: str, code: int = 0) -> str:
    """What a `yard` command says on the machine of the test; it must end with `code`."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "modelyard.cli", *words),
        env=environment(yard.home, YARD_NODE="a"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == code, out.decode()
    return out.decode()


def share(gguf: Path, home: Path, name: str) -> None:
    """Lay a model's file into the store of `home`."""
    place = home / "models" / "test" / f"{name}.gguf"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.hardlink_to(gguf)


def tiny(home: Path, name: str, *, n_embd: int = 64) -> ModelSpec:
    """A small model's file in the store of `home`, and what to register it as."""
    place = home / "models" / "test" / f"{name}.gguf"
    place.parent.mkdir(parents=True, exist_ok=True)
    write_babbler(place, n_embd=n_embd, n_layer=2, n_ff=2 * n_embd)
    return ModelSpec(name=name, path=f"test/{name}.gguf", n_ctx=512, n_parallel=1)


def _ip(*words: str, check: bool = True) -> None:
    subprocess.run(["ip", *words], check=check, capture_output=True, text=True)


def _enter(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        _set_namespace(descriptor)
    finally:
        os.close(descriptor)


def _set_namespace(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
