"""What the buckets say about the yard, as samples."""

import contextlib
import shutil
import time
from collections.abc import Iterator, Mapping

import nats.errors

from modelyard.bus import Bus
from modelyard.credentials import members
from modelyard.settings import Settings
from modelyard.state import Mirror
from modelyard.tasks import Tasks
from schemas import buckets
from schemas.devices import Device
from schemas.instances import Instance, InstanceState, Node
from schemas.metrics import Sample
from schemas.placing import WaitingModel

_RTT_TIMEOUT_S = 2
NAMES = frozenset(
    {
        "yard_device_temperature_celsius",
        "yard_device_memory_used_ratio",
        "yard_node_up",
        "yard_instance_restarts_total",
        "yard_model_circuit_open",
        "yard_queue_wait_seconds",
        "yard_disk_used_ratio",
        "yard_broker_rtt_seconds",
    }
)
"""What is told here: by what the buckets say now, where a metric is of what was last heard."""


class Gather:
    """Follows devices, nodes, instances and waits; asks the disk and the broker."""

    def __init__(
        self,
        bus: Bus,
        settings: Settings,
        devices: Mirror[Device],
        nodes: Mirror[Node],
        instances: Mirror[Instance],
        waits: Mirror[WaitingModel],
    ) -> None:
        self._bus = bus
        self._settings = settings
        self._devices = devices
        self._nodes = nodes
        self._instances = instances
        self._waits = waits
        self._answered_at = time.monotonic()

    @classmethod
    async def start(cls, bus: Bus, settings: Settings, tasks: Tasks) -> "Gather":
        """With mirrors that are complete."""
        return cls(
            bus,
            settings,
            await Mirror.start(bus, buckets.DEVICES, tasks),
            await Mirror.start(bus, buckets.NODES, tasks),
            await Mirror.start(bus, buckets.INSTANCES, tasks),
            await Mirror.start(bus, buckets.WAITS, tasks),
        )

    async def samples(self) -> list[Sample]:
        """Everything there is to say now."""
        expected = {self._settings.node, *(each.node for each in members(self._settings.credentials))}
        return [
            *of_devices(self._devices.values),
            *of_nodes(self._nodes.values, expected),
            *of_instances(self._instances.values),
            *of_waits(self._waits.values, time.time()),
            *self._disk(),
            Sample(
                name="yard_broker_rtt_seconds",
                value=await self._rtt_s(),
                labels={"node": self._settings.node},
            ),
        ]

    def _disk(self) -> Iterator[Sample]:
        with contextlib.suppress(OSError):
            disk = shutil.disk_usage(self._settings.home)
            labels = {"node": self._settings.node, "path": str(self._settings.home)}
            yield Sample(name="yard_disk_used_ratio", value=disk.used / disk.total, labels=labels)

    async def _rtt_s(self) -> float:
        """Of a broker that does not answer: how long it has not."""
        asked_at = time.monotonic()
        try:
            await self._bus.nc.flush(timeout=_RTT_TIMEOUT_S)
        except (TimeoutError, nats.errors.Error):
            return time.monotonic() - self._answered_at
        self._answered_at = time.monotonic()
        return self._answered_at - asked_at


def of_devices(devices: Mapping[str, Device]) -> Iterator[Sample]:
    """Temperature and memory, as far as sensors answer."""
    for device in devices.values():
        labels = {"node": device.node, "device": device.device}
        if device.temperature_c is not None:
            yield Sample(name="yard_device_temperature_celsius", value=device.temperature_c, labels=labels)
        if device.memory_total_bytes:
            used = device.memory_used_bytes / device.memory_total_bytes
            yield Sample(name="yard_device_memory_used_ratio", value=used, labels=labels)


def of_nodes(nodes: Mapping[str, Node], expected: set[str]) -> Iterator[Sample]:
    """Every machine of the yard: 1 if its record lives, 0 if it should."""
    for node in sorted(expected | nodes.keys()):
        yield Sample(name="yard_node_up", value=float(node in nodes), labels={"node": node})


def of_instances(instances: Mapping[str, Instance]) -> Iterator[Sample]:
    """Failures in a row of each model, by its newest instance."""
    newest: dict[str, Instance] = {}
    for instance in instances.values():
        known = newest.get(instance.model)
        if known is None or instance.changed_at > known.changed_at:
            newest[instance.model] = instance
    for model, instance in newest.items():
        failed = instance.state is InstanceState.FAILED
        labels = {"model": model}
        yield Sample(name="yard_instance_restarts_total", value=float(instance.failures), labels=labels)
        is_open = float(failed and instance.circuit_open)
        yield Sample(name="yard_model_circuit_open", value=is_open, labels=labels)


def of_waits(waits: Mapping[str, WaitingModel], now: float) -> Iterator[Sample]:
    """How long each model that is not served yet has been asked for."""
    for wait in waits.values():
        since_s = max(0.0, now - wait.since)
        yield Sample(name="yard_queue_wait_seconds", value=since_s, labels={"model": wait.model})
