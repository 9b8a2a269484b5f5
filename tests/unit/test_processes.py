"""What an engine started ends with it, even in a session of its own."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest

from modelyard.host.processes import PROCESS_MARK, ProcessGroup, is_same, started_at

DAEMON = """
import os, signal, sys
if os.fork() == 0:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.fork():
        os._exit(0)
    print(os.getpid(), flush=True)
signal.pause()
"""


def family(mark: str) -> tuple[subprocess.Popen[bytes], int, float]:
    """A process that leads a session, and a daemon that it started, with when that began."""
    process = subprocess.Popen(
        [sys.executable, "-c", DAEMON],
        stdout=subprocess.PIPE,
        env={**os.environ, PROCESS_MARK: mark},
        start_new_session=True,
    )
    assert process.stdout is not None
    with process.stdout as said:
        daemon = int(said.readline())
    assert os.getsid(daemon) != process.pid
    return process, daemon, started_at(daemon) or 0.0


@pytest.mark.parametrize("leader_lives", [True, False])
async def test_a_daemon_started_by_an_engine_is_killed_with_its_group(leader_lives: bool) -> None:
    """It stayed for ever: only the engine's own session was looked through."""
    process, daemon, began = family("one")
    other, others_daemon, others_began = family("two")
    group = ProcessGroup.led_by(process.pid, "one")
    try:
        if not leader_lives:
            process.kill()
            process.wait()
        await group.kill()
        assert process.wait() == -signal.SIGKILL
        assert not is_same(daemon, began)
        assert is_same(others_daemon, others_began), "of another instance"
    finally:
        for pid in (process.pid, daemon, other.pid, others_daemon):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        other.wait()
