"""`python -m services.downloader`."""

from modelyard.bus.service import run_service
from schemas.base import Role
from services.downloader.service import main

if __name__ == "__main__":
    run_service(Role.DOWNLOADER, main)
