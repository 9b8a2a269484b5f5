"""`python -m services.downloader`."""

from modelyard.service import run_service
from schemas.roles import Role
from services.downloader.service import main

if __name__ == "__main__":
    run_service(Role.DOWNLOADER, main)
