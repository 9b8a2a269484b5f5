"""What every service and every script stands on: typed bus, life cycle, settings, logging, client."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelyard.client import Client

__all__ = ["Client", "__version__"]

__version__ = "0.1.0"
"""Of the package, too: reading it from there would load megabytes into every process."""


def __getattr__(name: str) -> Any:
    """`modelyard.Client`, loaded when it is asked for: `yard --version` should not wait for it."""
    if name != "Client":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from modelyard.client import Client

    return Client
