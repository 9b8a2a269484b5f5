"""What tests share: logins to a running broker, and waiting for conditions."""

from modelyard.bus import Bus
from modelyard.settings import Settings
from modelyard.up.child import Child
from schemas.roles import Role


class Yard:
    """A home with a running broker, and logins to it."""

    def __init__(self, settings: Settings, url: str, broker: Child) -> None:
        self.settings = settings
        self.url = url
        self.broker = broker
        self._open: list[Bus] = []

    async def bus(self, role: Role = Role.OPERATOR) -> Bus:
        """A new connection in `role`, closed after the test."""
        bus = await Bus.connect(self.settings, role, url=self.url)
        self._open.append(bus)
        return bus

    async def close(self) -> None:
        for bus in self._open:
            await bus.nc.close()
