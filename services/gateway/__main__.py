"""`python -m services.gateway`."""

from modelyard.bus.service import run_service
from schemas.base import Role
from services.gateway.service import main

if __name__ == "__main__":
    run_service(Role.GATEWAY, main)
