"""Child processes that never outlive their purpose or their parent."""

import asyncio
import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Self

import msgspec
import psutil

from schemas.base import Record

EXIT_CONFIG = 78
"""Exit status of a process with an invalid configuration (EX_CONFIG): a restart does not help."""
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def die_with_parent(number: signal.Signals) -> None:
    """Ask the kernel to send this process `number` when its parent dies (Linux only)."""
    if _libc is None or os.getppid() == 1:
        return
    _libc.prctl(_PR_SET_PDEATHSIG, number.value)
    if os.getppid() == 1:
        # The parent died before prctl took effect.
        os.kill(os.getpid(), number)


def dying_with_parent(number: signal.Signals) -> Callable[[], None]:
    """A `preexec_fn` that ends the child when this process dies."""
    return lambda: die_with_parent(number)


def start_detached(
    module: str, launch: Record, env: Mapping[str, str], log: Path, *, reports: bool = False
) -> subprocess.Popen[bytes]:
    """`python -m module` in a session of its own: it outlives this process. OSError if it cannot be run.

    It gets `launch` as JSON on standard input. Its output is appended to `log`; if it `reports`, standard
    output is a pipe instead.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", module],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if reports else output,
            stderr=output,
            start_new_session=True,
        )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError), process.stdin:
        process.stdin.write(msgspec.json.encode(launch))
    return process


POLL_S = 0.1


def started_at(pid: int) -> float | None:
    """When process `pid` started, which distinguishes reused pids; None if it has ended."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.NoSuchProcess:
        return None


def is_same(pid: int, created_at: float) -> bool:
    """Whether `pid` is still the process that started at `created_at`."""
    now = started_at(pid)
    return now is not None and abs(now - created_at) < 1.0


def send_signal(pid: int, created_at: float, number: signal.Signals) -> bool:
    """Signal the process that started at `created_at`; False if it has ended."""
    if not is_same(pid, created_at):
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
    return True


async def wait_until_gone(pid: int, created_at: float) -> None:
    """Wait until the process has ended, also if it is no child of ours."""
    try:
        descriptor = os.pidfd_open(pid)
    except (AttributeError, OSError):
        await _poll_gone(pid, created_at)
        return
    try:
        if is_same(pid, created_at):
            await _readable(descriptor)
    finally:
        os.close(descriptor)


async def _readable(descriptor: int) -> None:
    """A pidfd becomes readable when its process ends."""
    gone = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, gone.set)
    try:
        if not select.select([descriptor], [], [], 0)[0]:
            await gone.wait()
    finally:
        loop.remove_reader(descriptor)


async def _poll_gone(pid: int, created_at: float) -> None:
    while is_same(pid, created_at):
        await asyncio.sleep(POLL_S)


async def terminate(pid: int, created_at: float, *, grace_s: float) -> None:
    """TERM, wait up to `grace_s`, KILL, wait. A no-op if it has ended."""
    for number, timeout_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 5.0)):
        if not send_signal(pid, created_at, number):
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(wait_until_gone(pid, created_at), timeout_s)


PROCESS_MARK = "MODELYARD_INSTANCE"
"""Environment variable of an engine, inherited by all its descendants in any session."""


class ProcessGroup:
    """A session leader and its descendants; `created_at` distinguishes reused pids.

    `mark`: the value of PROCESS_MARK that all of it carries, which also finds those that left the session.
    """

    def __init__(self, leader: int, created_at: float, mark: str | None = None) -> None:
        self.leader = leader
        self.created_at = created_at
        self._mark = mark

    @classmethod
    def led_by(cls, pid: int, mark: str | None = None) -> Self:
        """The group of a process that has just been started."""
        return cls(pid, started_at(pid) or time.time(), mark)

    async def leader_gone(self) -> None:
        """Wait until its leader has ended."""
        await wait_until_gone(self.leader, self.created_at)

    def signal_leader(self, number: signal.Signals) -> None:
        """Signal its leader, if it is running."""
        send_signal(self.leader, self.created_at, number)

    async def kill(self) -> None:
        """KILL all members and wait until none is left. Zombies hold no memory and are ignored."""
        while members := list(self._members()):
            for member in members:
                with contextlib.suppress(psutil.Error):
                    member.kill()
            await asyncio.gather(*(wait_until_gone(member.pid, member.create_time()) for member in members))

    def _members(self) -> Iterator[psutil.Process]:
        """Live members. A pid is not reused while a session has it."""
        leader = started_at(self.leader)
        has_session = leader is None or is_same(self.leader, self.created_at)
        for pid in psutil.pids():
            with contextlib.suppress(psutil.Error, OSError):
                process = psutil.Process(pid)
                in_session = has_session and os.getsid(pid) == self.leader
                if self._is_ours(process) and (in_session or self._is_marked(process)):
                    yield process

    def _is_marked(self, process: psutil.Process) -> bool:
        return self._mark is not None and process.environ().get(PROCESS_MARK) == self._mark

    def _is_ours(self, process: psutil.Process) -> bool:
        return (
            process.uids().real == os.getuid()
            and process.create_time() >= self.created_at - 1.0
            and process.status() != psutil.STATUS_ZOMBIE
        )
