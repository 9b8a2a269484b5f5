"""`python -m services.supervisor.rpc`: a worker, told what to do on its standard input."""

import contextlib
import os
import sys

import msgspec

from modelyard.bus import logs
from modelyard.bus.service import run_loop
from modelyard.host import settings
from services.supervisor.rpc.worker import Report, WorkerLaunch, WorkerUp, run


def main() -> int:
    report = _take_standard_output()
    configured = settings.load()
    logs.configure(configured.log_level)
    launch = msgspec.json.decode(sys.stdin.buffer.read(), type=WorkerLaunch)
    return run_loop(run(launch, configured, report))


def _take_standard_output() -> Report:
    """Keep it for the report; everything else, also of the RPC server, goes where errors go: to our log."""
    kept = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def report(up: WorkerUp) -> None:
        # Who started us may be gone.
        with contextlib.suppress(OSError):
            os.write(kept, msgspec.json.encode(up) + b"\n")
        os.close(kept)

    return report


if __name__ == "__main__":
    sys.exit(main())
