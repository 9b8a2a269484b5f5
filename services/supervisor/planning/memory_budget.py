"""Device memory during one plan: free, about to be released, and reserved by the plan itself."""

from collections import Counter
from collections.abc import Iterable, Mapping

from modelyard.text import format_size
from schemas.instances import Instance
from schemas.placement import Option
from services.supervisor.planning.world import NodeCapacity, Place, is_live, is_serving


class MemoryBudget:
    def __init__(self, nodes: Mapping[str, NodeCapacity], instances: Iterable[Instance]) -> None:
        self._free: Counter[Place] = Counter()
        self._releasing: Counter[Place] = Counter()
        self._capacity: dict[Place, int] = {}
        for node, capacity in nodes.items():
            self._capacity |= {(node, device): size for device, size in capacity.memory_bytes.items()}
        self._free.update(self._capacity)
        for instance in instances:
            if is_live(instance):
                self._free.subtract(reserved_by(instance))
                if not is_serving(instance):
                    self.release_later(instance)

    def release_later(self, instance: Instance) -> None:
        """Count the memory of an instance that is stopping; it is not free yet."""
        self._releasing.update(reserved_by(instance))

    def reserve(self, option: Option) -> None:
        """Take this memory, now or as soon as it is released, from all that are planned later."""
        self._free.subtract(required_by(option))

    def fits_now(self, option: Option) -> bool:
        return all(self._free[place] >= size for place, size in required_by(option).items())

    def shortfall(self, option: Option) -> dict[Place, int]:
        """The bytes still missing once all that is being released is free."""
        missing = {
            place: size - self._free[place] - self._releasing[place]
            for place, size in required_by(option).items()
        }
        return {place: size for place, size in missing.items() if size > 0}

    def fits_when_empty(self, option: Option) -> bool:
        """Whether the devices are large enough without any instance."""
        return self.fits_beside(option, ())

    def fits_beside(self, option: Option, instances: Iterable[Instance]) -> bool:
        """Whether the devices are large enough with these instances and no other."""
        total = required_by(option)
        places = tuple(total)
        for instance in instances:
            total.update(reserved_by(instance))
        return all(self._capacity.get(place, -1) >= total[place] for place in places)

    def explain_shortfall(self, option: Option) -> str:
        """Why an option could never fit."""
        required = required_by(option)
        place = max(required, key=lambda place: required[place] - self._capacity.get(place, 0))
        node, device = place
        size = format_size(self._capacity.get(place, 0))
        return f"it needs {format_size(required[place])} on {device} of {node}, which has {size} for models"


def reserved_by(instance: Instance) -> Counter[Place]:
    """The memory that an instance has reserved, with that of its workers on other nodes."""
    places: Counter[Place] = Counter()
    for reserved in instance.reserved:
        places[reserved.node or instance.node, reserved.device] += reserved.predicted_bytes
    return places


def required_by(option: Option) -> Counter[Place]:
    places: Counter[Place] = Counter()
    for need in option.needs:
        if need.memory_bytes:
            places[need.node or option.node, need.device] += need.memory_bytes
    return places
