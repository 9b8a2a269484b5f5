"""`python -m services.supervisor.runner`: reads its `Launch` from standard input and runs one instance."""

import sys

import msgspec

from modelyard.bus import logs
from modelyard.bus.service import run_loop
from modelyard.host import settings
from services.supervisor.runner.record import Launch
from services.supervisor.runner.runner import run


def main() -> int:
    configured = settings.load()
    logs.configure(configured.log_level)
    launch = msgspec.json.decode(sys.stdin.buffer.read(), type=Launch)
    return run_loop(run(launch, configured))


if __name__ == "__main__":
    sys.exit(main())
