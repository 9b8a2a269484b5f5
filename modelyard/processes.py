"""Child processes that never outlive their purpose."""

import asyncio
import contextlib
import os
import select
import signal
import time
from collections.abc import Iterator
from typing import Self

import psutil

POLL_S = 0.1


def started_at(pid: int) -> float | None:
    """When process `pid` started, which tells it from a later one of the same number; None if it is gone."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.NoSuchProcess:
        return None


def is_same(pid: int, created_at: float) -> bool:
    """Whether `pid` still is the process that started at `created_at`."""
    now = started_at(pid)
    return now is not None and abs(now - created_at) < 1.0


async def wait_gone(pid: int, created_at: float) -> None:
    """Wait until that process is gone, whoever its parent is."""
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


async def end(pid: int, created_at: float, *, grace_s: float) -> None:
    """TERM, wait up to `grace_s`, KILL, wait. Harmless if it is gone."""
    for number, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 5.0)):
        if not is_same(pid, created_at):
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(wait_gone(pid, created_at), patience_s)


MARK = "MODELYARD_INSTANCE"
"""In the environment of an engine, and so of whatever it starts, in whichever session."""


class Group:
    """A process that leads a session, and whatever it started; told from later ones of its number.

    `mark`: the value of MARK that all of it carries, by which also those are found that left the session.
    """

    def __init__(self, leader: int, created_at: float, mark: str | None = None) -> None:
        self.leader = leader
        self.created_at = created_at
        self._mark = mark

    @classmethod
    def led_by(cls, pid: int, mark: str | None = None) -> Self:
        """The group of a process that was started just now."""
        return cls(pid, started_at(pid) or time.time(), mark)

    async def leader_gone(self) -> None:
        """Wait until its first process has ended."""
        await wait_gone(self.leader, self.created_at)

    def signal_leader(self, number: signal.Signals) -> None:
        """Tell its first process, if that is there."""
        if is_same(self.leader, self.created_at):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.leader, number)

    async def kill(self) -> None:
        """KILL all of it, and wait until nothing is left; what is dead but not buried holds no memory."""
        while members := list(self._members()):
            for member in members:
                with contextlib.suppress(psutil.Error):
                    member.kill()
            await asyncio.gather(*(wait_gone(member.pid, member.create_time()) for member in members))

    def _members(self) -> Iterator[psutil.Process]:
        """Those alive. A number is not given to another process while a session has it."""
        leader = started_at(self.leader)
        has_session = leader is None or is_same(self.leader, self.created_at)
        for pid in psutil.pids():
            with contextlib.suppress(psutil.Error, OSError):
                process = psutil.Process(pid)
                in_session = has_session and os.getsid(pid) == self.leader
                if self._is_ours(process) and (in_session or self._is_marked(process)):
                    yield process

    def _is_marked(self, process: psutil.Process) -> bool:
        return self._mark is not None and process.environ().get(MARK) == self._mark

    def _is_ours(self, process: psutil.Process) -> bool:
        return (
            process.uids().real == os.getuid()
            and process.create_time() >= self.created_at - 1.0
            and process.status() != psutil.STATUS_ZOMBIE
        )
