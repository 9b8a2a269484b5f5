"""Who has to go so that another fits: the cheapest set that frees enough, and nobody if none does."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

from schemas.instances import Instance
from services.supervisor.planning.room import held
from services.supervisor.planning.world import Place, World, resting_since

_EXHAUSTIVE = 12
"""Up to so many candidates every set is looked at; beyond that one by one, cheapest first."""
_UNKNOWN_LOAD_S = 5.0
_FORGOTTEN_S = 60.0
"""A model that rested so long is half as likely to be wanted soon as one that has just worked."""
_AT_WORK = 10.0
"""How much dearer it is to interrupt a model that is in use."""


def cost(instance: Instance, world: World) -> float:
    """What it costs to lose it: the time to load it again by how likely that is."""
    load_s = max(instance.load_s or _UNKNOWN_LOAD_S, 0.001)
    rested_s = max(world.now - resting_since(instance), 0.0)
    at_work = _AT_WORK if in_use(instance, world) else 1.0
    return load_s * at_work / (1 + rested_s / _FORGOTTEN_S)


def in_use(instance: Instance, world: World) -> bool:
    """Whether it answers somebody, or somebody waits for it."""
    return instance.busy > 0 or world.waiting(instance.model) > 0


def cheapest(
    candidates: Iterable[Instance], lack: Mapping[Place, int], must: Sequence[Instance], world: World
) -> tuple[Instance, ...] | None:
    """The cheapest set with all of `must` in it that frees `lack`; None if even all together do not."""
    useful = [one for one in candidates if one not in must and set(held(one)) & set(lack)]
    if not _enough((*must, *useful), lack):
        return None
    if len(useful) > _EXHAUSTIVE:
        return _one_by_one(sorted(useful, key=lambda one: cost(one, world)), lack, must)
    sets = (
        (*must, *chosen)
        for count in range(len(useful) + 1)
        for chosen in combinations(useful, count)
        if _enough((*must, *chosen), lack)
    )
    return min(sets, key=lambda chosen: (sum(cost(one, world) for one in chosen), len(chosen)))


def _one_by_one(
    useful: Sequence[Instance], lack: Mapping[Place, int], must: Sequence[Instance]
) -> tuple[Instance, ...]:
    """Enough of the cheapest, then without those that turned out needless, dearest first."""
    chosen: list[Instance] = list(must)
    for one in useful:
        if _enough(chosen, lack):
            break
        chosen.append(one)
    for one in reversed(chosen[len(must) :]):
        rest = [other for other in chosen if other is not one]
        if _enough(rest, lack):
            chosen = rest
    return tuple(chosen)


def _enough(chosen: Iterable[Instance], lack: Mapping[Place, int]) -> bool:
    freed: dict[Place, int] = dict.fromkeys(lack, 0)
    for one in chosen:
        for place, size in held(one).items():
            if place in freed:
                freed[place] += size
    return all(freed[place] >= size for place, size in lack.items())
