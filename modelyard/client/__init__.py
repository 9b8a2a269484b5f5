"""The client for scripts: everything a person can ask of the yard, as Python."""

from modelyard.client.client import Client
from modelyard.client.kept import Event

__all__ = ["Client", "Event"]
