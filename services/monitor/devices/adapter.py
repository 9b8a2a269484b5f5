"""What every source of device samples looks like."""

import re
from abc import abstractmethod
from collections.abc import Sequence
from typing import Protocol

from modelyard.host.settings import Settings
from schemas.devices import Device


class DeviceAdapter(Protocol):
    """One way to ask about devices. Called from one thread of its own, so it may block and keep state.

    A class that inherits from this one has to say `name` and `sample`.
    """

    name: str
    """Unique among the adapters of a node."""
    simulated: bool = False
    """Whether it measures nothing; all its devices are marked so."""

    def open(self, settings: Settings) -> None:
        """Called once, before the first sample; what it raises is shown, and it is tried again later."""
        return

    @abstractmethod
    def sample(self) -> Device | Sequence[Device] | None:
        """What there is now. A sensor that does not answer is None; nothing raises.

        `node` and `sampled_at` are filled in by who asks.
        """
        ...

    def close(self) -> None:
        """Called once, after the last sample."""
        return


_ADAPTER = ("name", "simulated", "open", "sample", "close")


def checked(adapter: DeviceAdapter) -> DeviceAdapter:
    """`adapter` if it is one, whoever wrote it; TypeError or ValueError with what is wrong."""
    if missing := [name for name in _ADAPTER if not hasattr(adapter, name)]:
        raise TypeError(f"The adapter lacks {', '.join(missing)}.")
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", adapter.name):
        raise ValueError(f"{adapter.name!r} is no name for an adapter: use letters, digits, '_' and '-'.")
    return adapter


def as_token(identity: str) -> str:
    """What hardware calls itself, as it may stand in subjects and keys."""
    return re.sub(r"[^A-Za-z0-9_=-]", "-", identity)
