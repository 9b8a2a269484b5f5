"""The node's own book of memory: a start that does not fit is refused, whoever planned it."""

from collections import Counter
from collections.abc import Iterable

from schemas.errors import Conflict
from schemas.instances import Reserved
from schemas.placing import NodeDevice


class Reservations:
    """What each instance may take, from before its process starts until after it is gone."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[Reserved, ...]] = {}

    def total(self) -> Counter[str]:
        """What all have together, by device."""
        total: Counter[str] = Counter()
        for reserved in self._held.values():
            for one in reserved:
                total[one.device] += one.predicted_bytes
        return total

    def take(self, instance: str, wanted: Iterable[Reserved], devices: Iterable[NodeDevice]) -> None:
        """Enter an instance; Conflict with a sentence if one device has not enough left."""
        wanted, held = _own(wanted), self.total()
        free = {one.device: one.memory_bytes - held[one.device] for one in devices}
        for one in wanted:
            if one.device not in free:
                raise Conflict(f"This node has no device {one.device}.")
            if one.predicted_bytes > max(free[one.device], 0):
                raise Conflict(
                    f"{one.device} has {max(free[one.device], 0)} bytes left for models, "
                    f"not the {one.predicted_bytes} that are needed."
                )
        self._held[instance] = wanted

    def adopt(self, instance: str, held: Iterable[Reserved]) -> None:
        """Enter one that runs already, whatever is left."""
        self._held[instance] = _own(held)

    def give_back(self, instance: str) -> None:
        """Its processes are gone."""
        self._held.pop(instance, None)


def _own(reserved: Iterable[Reserved]) -> tuple[Reserved, ...]:
    """Without what workers have: those are entered by themselves, each in the book of its node."""
    return tuple(one for one in reserved if one.node is None)
