"""`python -m services.supervisor`."""

from modelyard.bus.service import run_service
from schemas.base import Role
from services.supervisor.service import main

if __name__ == "__main__":
    run_service(Role.SUPERVISOR, main)
