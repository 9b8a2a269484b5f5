"""The client for scripts: everything that the command line does, as Python."""

from modelyard.client.client import Client
from modelyard.client.events import Event

__all__ = ["Client", "Event"]
