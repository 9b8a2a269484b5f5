"""`python -m services.supervisor.runner`: reads its launch from standard input and lives with its engine."""

import sys

import msgspec

from modelyard.bus import logs
from modelyard.bus.service import run_loop
from modelyard.host import settings
from services.supervisor.runner.launch import Launch
from services.supervisor.runner.run import run


def main() -> int:
    configured = settings.load()
    logs.configure(configured.log_level)
    launch = msgspec.json.decode(sys.stdin.buffer.read(), type=Launch)
    return run_loop(run(launch, configured))


if __name__ == "__main__":
    sys.exit(main())
