"""Which instances stop: those retired in any case, and the cheapest victims for a start."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import msgspec

from schemas.instances import Instance, Reason
from schemas.registry import GroupKind, ModelGroup
from services.supervisor.planning.memory_budget import reserved_by
from services.supervisor.planning.world import Place, World, idle_since, is_ready, is_serving

EXTRA_IDLE_S = 60.0
"""A replica beyond the first is stopped after so long without a request."""
_EXHAUSTIVE = 12
"""Up to so many candidates every combination is compared; beyond that the choice is greedy."""
_UNKNOWN_LOAD_S = 5.0
_IDLE_HALF_S = 60.0
"""After so long idle a model is half as likely to be requested soon as right after a request."""
_IN_USE_FACTOR = 10.0
"""How much more it costs to evict an instance that is in use."""


class Retirement(NamedTuple):
    """One instance to stop, and why."""

    instance: Instance
    reason: Reason


class Retirements(msgspec.Struct):
    """All instances to stop, and the times at which the next are due."""

    stops: list[Retirement] = msgspec.field(default_factory=list)
    due_at: list[float] = msgspec.field(default_factory=list)


def retire(world: World) -> Retirements:
    """Stop instances of deleted and changed models, idle ones, and all but one model of a group `apart`."""
    retired = Retirements()
    for instance in world.instances:
        if is_serving(instance) and instance.model not in world.models:
            retired.stops.append(Retirement(instance, Reason.REQUESTED))
    for name in world.models:
        serving = world.serving(name)
        outdated = [instance for instance in serving if instance.instance in world.outdated]
        if outdated:
            replaced = _next_to_replace(serving, outdated)
            retired.stops += (Retirement(instance, Reason.REPLACED) for instance in replaced)
        else:
            _retire_idle(world, name, serving, retired)
    for group in world.groups:
        if group.kind is GroupKind.APART:
            retired.stops += list(_separate(world, group, retired))
    return retired


def _separate(world: World, group: ModelGroup, retired: Retirements) -> Iterator[Retirement]:
    """All but one model of a group stop: the group, or a node that was cut off, may appear after they run."""
    stopping = {retirement.instance.instance for retirement in retired.stops}
    serving = filter(is_serving, world.instances_of_any(group.models))
    running = [instance for instance in serving if instance.instance not in stopping]
    if running:
        preferred = max(running, key=lambda instance: _precedence(world, instance)).model
        yield from (
            Retirement(instance, Reason.EVICTED) for instance in running if instance.model != preferred
        )


def _precedence(world: World, instance: Instance) -> tuple[bool, bool, bool, float, str]:
    spec = world.models.get(instance.model)
    pinned = spec is not None and spec.pinned
    return is_ready(instance), pinned, is_in_use(instance, world), idle_since(instance), instance.model


def _next_to_replace(serving: list[Instance], outdated: list[Instance]) -> list[Instance]:
    """Replicas are replaced one after another, so that the model stays available."""
    current = [instance for instance in serving if instance not in outdated]
    is_alone = len(outdated) == len(serving) == 1
    return outdated if is_alone or not all(map(is_ready, current)) else outdated[:1]


def _retire_idle(world: World, name: str, serving: list[Instance], retired: Retirements) -> None:
    if world.is_demanded(name):
        return
    spec = world.models[name]
    least = max(spec.replicas.min, int(spec.autostart), int(spec.pinned))
    idle = sorted(
        (instance for instance in serving if is_ready(instance) and not instance.busy), key=idle_since
    )
    left = len(serving)
    for instance in idle:
        limit_s = _idle_limit_s(spec.ttl_s, is_extra=left > max(least, 1))
        if limit_s is None or left <= least:
            continue
        due_at = max(idle_since(instance), _partners_idle_since(world, name)) + limit_s
        if due_at <= world.now:
            retired.stops.append(Retirement(instance, Reason.IDLE))
            left -= 1
        else:
            retired.due_at.append(due_at)


def _partners_idle_since(world: World, name: str) -> float:
    """When the last of the models that run together with it finished a request; in use: now."""
    together = world.partners(name, GroupKind.TOGETHER)
    partners = list(filter(is_serving, world.instances_of_any(together)))
    if any(partner.busy or world.queued(partner.model) for partner in partners):
        return world.now
    return max(map(idle_since, partners), default=0.0)


def _idle_limit_s(ttl_s: float | None, *, is_extra: bool) -> float | None:
    if not is_extra:
        return ttl_s
    return EXTRA_IDLE_S if ttl_s is None else min(ttl_s, EXTRA_IDLE_S)


def eviction_cost(instance: Instance, world: World) -> float:
    """The time to load it again, weighted by how likely that is."""
    load_s = max(instance.load_s or _UNKNOWN_LOAD_S, 0.001)
    idle_s = max(world.now - idle_since(instance), 0.0)
    factor = _IN_USE_FACTOR if is_in_use(instance, world) else 1.0
    return load_s * factor / (1 + idle_s / _IDLE_HALF_S)


def is_in_use(instance: Instance, world: World) -> bool:
    """Whether requests of its model are in flight or queued."""
    return instance.busy > 0 or world.queued(instance.model) > 0


def cheapest_victims(
    candidates: Iterable[Instance], shortfall: Mapping[Place, int], required: Sequence[Instance], world: World
) -> tuple[Instance, ...] | None:
    """The cheapest set that frees `shortfall` and contains `required`; None if all together do not."""
    others = (instance for instance in candidates if instance not in required)
    useful = [instance for instance in others if reserved_by(instance).keys() & shortfall.keys()]
    if not _frees((*required, *useful), shortfall):
        return None
    if len(useful) > _EXHAUSTIVE:
        useful.sort(key=lambda instance: eviction_cost(instance, world))
        return _greedy(useful, shortfall, required)
    sets = (
        (*required, *chosen)
        for count in range(len(useful) + 1)
        for chosen in combinations(useful, count)
        if _frees((*required, *chosen), shortfall)
    )
    return min(
        sets, key=lambda chosen: (sum(eviction_cost(instance, world) for instance in chosen), len(chosen))
    )


def _greedy(
    useful: Sequence[Instance], shortfall: Mapping[Place, int], required: Sequence[Instance]
) -> tuple[Instance, ...]:
    """Enough of the cheapest, then without those that are not needed, most expensive first."""
    chosen: list[Instance] = list(required)
    for candidate in useful:
        if _frees(chosen, shortfall):
            break
        chosen.append(candidate)
    for candidate in reversed(chosen[len(required) :]):
        rest = [other for other in chosen if other is not candidate]
        if _frees(rest, shortfall):
            chosen = rest
    return tuple(chosen)


def _frees(chosen: Iterable[Instance], shortfall: Mapping[Place, int]) -> bool:
    freed: dict[Place, int] = dict.fromkeys(shortfall, 0)
    for instance in chosen:
        for place, size in reserved_by(instance).items():
            if place in freed:
                freed[place] += size
    return all(freed[place] >= size for place, size in shortfall.items())
