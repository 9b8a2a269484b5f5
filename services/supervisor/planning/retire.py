"""Who leaves without anybody needing the memory: models that were changed or deleted, and idle ones."""

from typing import NamedTuple

import msgspec

from schemas.groups import GroupKind, ModelGroup
from schemas.instances import Instance, Reason
from services.supervisor.planning.victims import in_use
from services.supervisor.planning.world import World, is_ready, is_serving, resting_since

EXTRA_REST_S = 60.0
"""A replica beyond the first is let go after so long without work."""


class Retirement(NamedTuple):
    """Who goes, and why."""

    instance: Instance
    reason: Reason


class Retired(msgspec.Struct):
    """Everybody who goes, and when the next may have to."""

    stops: list[Retirement] = msgspec.field(default_factory=list)
    looks: list[float] = msgspec.field(default_factory=list)


def retire(world: World) -> Retired:
    """Who leaves now."""
    retired = Retired()
    for instance in world.instances:
        if is_serving(instance) and instance.model not in world.models:
            retired.stops.append(Retirement(instance, Reason.REQUESTED))
    for name in world.models:
        serving = [one for one in world.of(name) if is_serving(one)]
        changed = [one for one in serving if one.instance in world.replaced]
        if changed:
            retired.stops += [Retirement(one, Reason.REPLACED) for one in _in_turn(serving, changed)]
        else:
            _retire_idle(world, name, serving, retired)
    for group in world.groups:
        if group.kind is GroupKind.APART:
            _part(world, group, retired)
    return retired


def _part(world: World, group: ModelGroup, retired: Retired) -> None:
    """All but one model of a group leave: a rule, or a node that was cut off, may come later than they."""
    going = {one.instance.instance for one in retired.stops}
    there = [
        one
        for one in world.instances
        if one.model in group.models and is_serving(one) and one.instance not in going
    ]
    if not there:
        return
    stays = max(there, key=lambda one: _claim(world, one)).model
    retired.stops += [Retirement(one, Reason.EVICTED) for one in there if one.model != stays]


def _claim(world: World, one: Instance) -> tuple[bool, bool, bool, float, str]:
    """Who stays of those that must not run together: the highest."""
    spec = world.models.get(one.model)
    pinned = spec is not None and spec.pinned
    return is_ready(one), pinned, in_use(one, world), resting_since(one), one.model


def _in_turn(serving: list[Instance], changed: list[Instance]) -> list[Instance]:
    """Replicas are replaced one after another, so that the model stays there."""
    rest = [one for one in serving if one not in changed]
    return changed if len(changed) == len(serving) == 1 or not all(map(is_ready, rest)) else changed[:1]


def _retire_idle(world: World, name: str, serving: list[Instance], retired: Retired) -> None:
    if world.waiting(name) or name in world.wanted:
        return
    spec = world.models[name]
    kept = max(spec.replicas.min, int(spec.autostart), int(spec.pinned))
    resting = sorted((one for one in serving if is_ready(one) and not one.busy), key=resting_since)
    staying = len(serving)
    for one in resting:
        limit_s = _limit_s(spec.ttl_s, extra=staying > max(kept, 1))
        if limit_s is None or staying <= kept:
            continue
        gone_at = max(resting_since(one), _partners_rest_since(world, name)) + limit_s
        if gone_at <= world.now:
            retired.stops.append(Retirement(one, Reason.IDLE))
            staying -= 1
        else:
            retired.looks.append(gone_at)


def _partners_rest_since(world: World, name: str) -> float:
    """When the last of those it runs together with had something to do; in use: now."""
    together = world.others(name, GroupKind.TOGETHER)
    partners = [one for one in world.instances if one.model in together and is_serving(one)]
    if any(one.busy or world.waiting(one.model) for one in partners):
        return world.now
    return max(map(resting_since, partners), default=0.0)


def _limit_s(ttl_s: float | None, *, extra: bool) -> float | None:
    if not extra:
        return ttl_s
    return EXTRA_REST_S if ttl_s is None else min(ttl_s, EXTRA_REST_S)
