"""Who should run: a pure decision over a snapshot of the world."""

import msgspec

from schemas.instances import COMING, LIVE, SERVING, Instance
from schemas.models import ModelSpec
from schemas.record import Record


class World(Record):
    """Everything the decision depends on."""

    now: float
    models: dict[str, ModelSpec]
    """By name."""
    instances: tuple[Instance, ...]
    waiting: dict[str, int]
    """Requests in the queue, by model name; those at work count until they are answered."""
    wanted: frozenset[str] = frozenset()
    """Models that somebody asked to start, whatever the queue says."""


class StartModel(Record):
    """Start an instance of this model."""

    model: str
    failures: int


class Plan(Record):
    """What to do, and for every model that waits, why it does."""

    starts: tuple[StartModel, ...] = ()
    reasons: dict[str, str] = msgspec.field(default_factory=dict)
    look_again_at: float | None = None
    """Unix seconds at which the world looks different without any event."""


def plan(world: World) -> Plan:
    """Start every model that is wanted and has no instance, unless it must pause after a failure."""
    starts: list[StartModel] = []
    reasons: dict[str, str] = {}
    pauses: list[float] = []
    for name in sorted(world.wanted | {name for name, count in world.waiting.items() if count}):
        if name not in world.models:
            continue
        own = [instance for instance in world.instances if instance.model == name]
        pause_until = _pause_until(own, forced=name in world.wanted)
        if (reason := _reason_to_wait(own, pause_until, world.now)) is None:
            starts.append(StartModel(model=name, failures=_failures(own)))
        elif reason:
            reasons[name] = reason
            pauses += [pause_until] if pause_until > world.now else []
    return Plan(starts=tuple(starts), reasons=reasons, look_again_at=min(pauses, default=None))


def _reason_to_wait(own: list[Instance], pause_until: float, now: float) -> str | None:
    """None: start now. Empty: it is served. Otherwise what it waits for."""
    live = [instance for instance in own if instance.state in LIVE]
    if any(instance.state in SERVING for instance in live):
        coming = all(instance.state in COMING for instance in live)
        return "it is being started" if coming else ""
    if live:
        return "its last instance is still stopping"
    if pause_until > now:
        return f"its last start failed; it is tried again in {pause_until - now:.0f} s"
    return None


def _pause_until(own: list[Instance], *, forced: bool) -> float:
    """A person who asks for a start does not wait out a pause."""
    return 0.0 if forced else max((instance.retry_at or 0.0 for instance in own), default=0.0)


def _failures(own: list[Instance]) -> int:
    return max((instance.failures for instance in own), default=0)
