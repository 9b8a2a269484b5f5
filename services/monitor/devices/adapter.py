"""What every source of device samples looks like."""

from typing import Protocol

from schemas.devices import Device


class DeviceAdapter(Protocol):
    """One way to ask about devices. Called from one thread of its own, so it may block and keep state."""

    name: str
    """For the log."""

    def sample(self, now: float) -> list[Device]:
        """Every device there is now, stamped `now`. A sensor that does not answer is None; nothing raises."""
        ...
