"""The monitor as a process: `python -m services.monitor`."""

from modelyard.bus.service import run_service
from schemas.base import Role
from services.monitor.service import main

if __name__ == "__main__":
    run_service(Role.MONITOR, main)
