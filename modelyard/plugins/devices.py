"""What a device adapter is: a source of device samples, sampled by the monitor once a second."""

import re
from abc import abstractmethod
from collections.abc import Sequence
from typing import Protocol

from modelyard.host.plugins import PluginKind
from modelyard.host.settings import Settings
from schemas.devices import Device


class DeviceAdapter(Protocol):
    """One source of device samples. It runs in a thread of its own, so it may block and hold state.

    A subclass has to define `name` and `sample`.
    """

    name: str
    """Unique among the adapters of a node."""
    simulated: bool = False
    """Whether it measures nothing; all its devices are marked as simulated."""

    def open(self, settings: Settings) -> None:
        """Called once before the first sample; an exception is shown, and the call is retried."""
        return

    @abstractmethod
    def sample(self) -> Device | Sequence[Device] | None:
        """The devices now. A sensor without a value is None; it raises nothing.

        The monitor fills in `node` and `sampled_at`.
        """
        ...

    def close(self) -> None:
        """Called once after the last sample."""
        return


_MEMBERS = ("name", "simulated", "open", "sample", "close")


def check_adapter(adapter: DeviceAdapter) -> DeviceAdapter:
    """`adapter` if it is valid; TypeError or ValueError with what is wrong."""
    if missing := [name for name in _MEMBERS if not hasattr(adapter, name)]:
        raise TypeError(f"The adapter lacks {', '.join(missing)}.")
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", adapter.name):
        raise ValueError(f"{adapter.name!r} is no name for an adapter: use letters, digits, '_' and '-'.")
    return adapter


def as_token(identity: str) -> str:
    """A hardware identity in the form that subjects and keys allow."""
    return re.sub(r"[^A-Za-z0-9_=-]", "-", identity)


ADAPTERS: PluginKind[DeviceAdapter] = PluginKind("adapter", "modelyard.devices", DeviceAdapter, check_adapter)
