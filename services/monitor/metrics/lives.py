"""Starts and ends of instances, counted from their records."""

from collections.abc import Iterator

from schemas.instances import Instance, InstanceState
from schemas.metrics import Sample
from services.monitor.metrics.counting import Counter

_ENDED = frozenset({InstanceState.STOPPED, InstanceState.FAILED})


class Lives:
    """What is counted of them since the monitor started."""

    def __init__(self) -> None:
        self._states: dict[str, InstanceState] = {}
        self._starts = Counter("yard_model_starts_total", "model", "node")
        self._stops = Counter("yard_model_stops_total", "model", "node", "reason")
        self._failures = Counter("yard_model_failures_total", "model", "node", "reason")

    def know(self, instance: Instance) -> None:
        """One that was there before us: its start is not counted, its end will be."""
        self._states[instance.instance] = instance.state

    def follow(self, key: str, instance: Instance | None) -> None:
        """A record changed, or is gone."""
        if instance is None:
            self._states.pop(key, None)
            return
        before = self._states.get(key)
        self._states[key] = instance.state
        if before is None and instance.state not in _ENDED:
            self._starts.add(instance.model, instance.node)
        if instance.state in _ENDED and before is not None and before not in _ENDED:
            ends = self._failures if instance.state is InstanceState.FAILED else self._stops
            ends.add(instance.model, instance.node, instance.reason.value)

    def samples(self) -> Iterator[Sample]:
        for family in (self._starts, self._stops, self._failures):
            yield from family.samples()
