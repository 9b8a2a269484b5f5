"""What every service and every script stands on: typed bus, life cycle, settings, logging, client."""

from importlib.metadata import version

__version__ = version("modelyard")
