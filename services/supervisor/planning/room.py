"""Memory as the plan counts it: what is free, what is about to be, and what was promised in this plan."""

from collections import Counter
from collections.abc import Iterable, Mapping

from schemas.instances import Instance
from schemas.placing import Option
from services.supervisor.planning.world import NodeRoom, Place, is_live, is_serving


class Room:
    """The memory of all nodes during one plan."""

    def __init__(self, nodes: Mapping[str, NodeRoom], instances: Iterable[Instance]) -> None:
        self._free: Counter[Place] = Counter()
        self._leaving: Counter[Place] = Counter()
        self._size: dict[Place, int] = {}
        for node, room in nodes.items():
            self._size |= {(node, device): size for device, size in room.memory_bytes.items()}
        self._free.update(self._size)
        for instance in instances:
            if is_live(instance):
                self._free.subtract(held(instance))
                if not is_serving(instance):
                    self.leave(instance)

    def leave(self, instance: Instance) -> None:
        """An instance goes; its memory is not free yet."""
        self._leaving.update(held(instance))

    def promise(self, option: Option) -> None:
        """Somebody gets this, now or as soon as it is free: nobody after him does."""
        self._free.subtract(wanted(option))

    def fits(self, option: Option) -> bool:
        """Whether it could start now."""
        return all(self._free[place] >= size for place, size in wanted(option).items())

    def lack(self, option: Option) -> dict[Place, int]:
        """What would be missing still once all that is leaving has left."""
        missing = {
            place: size - self._free[place] - self._leaving[place] for place, size in wanted(option).items()
        }
        return {place: size for place, size in missing.items() if size > 0}

    def could_ever(self, option: Option) -> bool:
        """Whether the devices are large enough, were they empty."""
        return all(self._size.get(place, -1) >= size for place, size in wanted(option).items())

    def could_hold(self, option: Option, beside: Iterable[Instance]) -> bool:
        """Whether they are large enough together with these instances, were all others gone."""
        taken = wanted(option)
        for instance in beside:
            taken.update(held(instance))
        places = wanted(option).keys()
        return all(self._size.get(place, -1) >= taken[place] for place in places)

    def size(self, node: str, device: str) -> int:
        """What all instances together may take there."""
        return self._size.get((node, device), 0)


def held(instance: Instance) -> Counter[Place]:
    """What an instance has reserved, its workers' part too."""
    places: Counter[Place] = Counter()
    for one in instance.reserved:
        places[one.node or instance.node, one.device] += one.predicted_bytes
    return places


def wanted(option: Option) -> Counter[Place]:
    """What an option needs."""
    places: Counter[Place] = Counter()
    for need in option.needs:
        if need.memory_bytes:
            places[need.node or option.node, need.device] += need.memory_bytes
    return places
