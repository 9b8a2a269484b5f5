"""Two networks as anonymous namespaces with a link between them. Linux, root only."""

import contextlib
import ctypes
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HERE, THERE = "10.77.0.1", "10.77.0.2"
_CLONE_NEWNET = 0x40000000
_OURS = Path("/proc/thread-self/ns/net")


class TwoNetworks:
    """This thread and its child processes are at HERE; `there` moves a child process to THERE."""

    def __init__(self, far: int) -> None:
        self._far = far

    def there(self) -> Callable[[], None]:
        """A `preexec_fn`."""
        return lambda: _enter(self._far)


@contextlib.contextmanager
def two_networks() -> Iterator[TwoNetworks]:
    """Both loopbacks are up; each network reaches the other at its address only."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("Network namespaces need Linux and root.")
    before = os.open(_OURS, os.O_RDONLY)
    try:
        far, near = _new_network(), _new_network()
        _ip("link", "add", "near", "type", "veth", "peer", "name", "far")
        _ip("link", "set", "far", "netns", f"/proc/{os.getpid()}/fd/{far}")
        _bring_up("near", HERE)
        _enter(far)
        _bring_up("far", THERE)
        _enter(near)
        yield TwoNetworks(far)
        os.close(far)
        os.close(near)
    finally:
        _enter(before)
        os.close(before)


def _new_network() -> int:
    """Enter a new network namespace and return its descriptor."""
    _call("unshare", _CLONE_NEWNET)
    _ip("link", "set", "lo", "up")
    return os.open(_OURS, os.O_RDONLY)


def _bring_up(device: str, address: str) -> None:
    _ip("address", "add", f"{address}/24", "dev", device)
    _ip("link", "set", device, "up")


def _enter(network: int) -> None:
    _call("setns", network, _CLONE_NEWNET)


def _call(name: str, *arguments: int) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
