"""What every answer of one runner shares."""

from dataclasses import dataclass, field

from modelyard.bus import Bus
from services.supervisor.runner.cancels import Cancels
from services.supervisor.runner.life import Life
from services.supervisor.runner.upstream import Upstream


@dataclass
class Workplace:
    """The way to the broker and to the engine, and how many slots are at work."""

    bus: Bus
    life: Life
    upstream: Upstream
    cancels: Cancels = field(default_factory=Cancels)
    busy: int = 0

    def enter(self) -> None:
        """A slot takes a request."""
        self.busy += 1
        self.life.set_busy(self.busy)

    def leave(self) -> None:
        """A slot is free again, and so is the engine's."""
        self.busy -= 1
        self.life.set_busy(self.busy)
