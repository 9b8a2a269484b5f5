"""What the hub knows, asked through its own library, and its refusals as codes and sentences."""

from services.downloader.hub.access import authorization, file_url, hub_endpoint, probe, quiet_library
from services.downloader.hub.listing import RepoListing, list_repo

__all__ = [
    "RepoListing",
    "authorization",
    "file_url",
    "hub_endpoint",
    "list_repo",
    "probe",
    "quiet_library",
]
