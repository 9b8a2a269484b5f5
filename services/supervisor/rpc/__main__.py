"""`python -m services.supervisor.rpc`: a worker; its `WorkerLaunch` comes on standard input."""

import contextlib
import os
import sys

import msgspec

from modelyard.bus import logs
from modelyard.bus.service import run_loop
from modelyard.host import settings
from services.supervisor.rpc.worker import Report, WorkerLaunch, WorkerUp, run


def main() -> int:
    report = _redirect_output()
    configured = settings.load()
    logs.configure(configured.log_level)
    launch = msgspec.json.decode(sys.stdin.buffer.read(), type=WorkerLaunch)
    return run_loop(run(launch, configured, report))


def _redirect_output() -> Report:
    """Reserve standard output for the report; other output, the RPC server's too, goes to our log."""
    output = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def report(up: WorkerUp) -> None:
        # The supervisor may have exited.
        with contextlib.suppress(OSError):
            os.write(output, msgspec.json.encode(up) + b"\n")
        os.close(output)

    return report


if __name__ == "__main__":
    sys.exit(main())
