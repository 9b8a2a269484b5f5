"""Publishes the devices of this node: runs a sampler for every adapter, as plugins appear and disappear."""

import asyncio
import contextlib
import time
from collections.abc import Iterable, Mapping

import msgspec
import nats.errors
import psutil

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.bus.records import BucketCache, BucketStore
from modelyard.host.plugins import DiscoveredPlugins
from modelyard.host.settings import Settings
from modelyard.plugins import DeviceAdapter, as_token
from modelyard.plugins.devices import ADAPTERS
from schemas import buckets, subjects
from schemas.devices import Adapter, Device
from schemas.errors import YardError
from schemas.instances import LIVE, Instance
from services.monitor.devices.sampler import PERIOD_S, Sampler

log = logs.get(__name__)

TTL_S = 10
"""How long a device without a new sample stays published."""
SCAN_S = 5.0
"""How often plugins are scanned and changed adapters published."""
RENEW_S = 15.0
ADAPTER_TTL_S = 45
_MAX_DEPTH = 16


class DevicePublisher:
    """Publishes every device once a second as a metric and in its bucket.

    While the broker is away samples are dropped: the next one replaces them.
    """

    def __init__(
        self, bus: Bus, settings: Settings, instances: BucketCache[Instance], period_s: float = PERIOD_S
    ) -> None:
        self._bus = bus
        self._settings = settings
        self._owners = ProcessOwners(settings.node, instances.values)
        self._period_s = period_s
        self._device_store = BucketStore(bus, buckets.DEVICES)
        self._adapter_store = BucketStore(bus, buckets.ADAPTERS)
        self._samplers: dict[str, Sampler] = {}
        self._pending: dict[str, list[Device]] = {}
        self._device_ids: dict[str, tuple[str, ...]] = {}
        self._problems: dict[str, str] = {}
        self._published: dict[str, Adapter] = {}
        self._renewed_at = float("-inf")
        self._disconnected = False
        self._wake = asyncio.Event()

    async def run(self) -> None:
        publishing = asyncio.create_task(self.publish())
        try:
            while True:
                self.update(ADAPTERS.discover(self._settings.device_plugins))
                await self._publish_adapters()
                await asyncio.sleep(SCAN_S)
        finally:
            publishing.cancel()
            self.stop()

    def stop(self) -> None:
        for sampler in self._samplers.values():
            sampler.stop()

    def update(self, discovered: DiscoveredPlugins[DeviceAdapter]) -> None:
        """Start samplers of new adapters and stop those of changed or removed ones."""
        for name, sampler in tuple(self._samplers.items()):
            if discovered.plugins.get(name) is not sampler.adapter:
                sampler.stop()
                del self._samplers[name]
                self._device_ids.pop(name, None)
        loop = asyncio.get_running_loop()
        for name, adapter in discovered.plugins.items():
            if name not in self._samplers:

                def on_sample(sampler: Sampler, devices: list[Device]) -> None:
                    # A thread that hung may return after the loop is closed.
                    with contextlib.suppress(RuntimeError):
                        loop.call_soon_threadsafe(self._accept, sampler, devices)

                self._samplers[name] = Sampler(adapter, self._settings, on_sample, self._period_s)
                self._samplers[name].start()
        self._problems = {error.name: error.problem for error in discovered.errors}

    def _accept(self, sampler: Sampler, devices: list[Device]) -> None:
        name = sampler.adapter.name
        if self._samplers.get(name) is sampler:
            self._pending[name] = devices
            self._device_ids[name] = tuple(device.device for device in devices)
            self._wake.set()

    async def publish(self) -> None:
        """Publish new samples until cancelled. The first adapter of a device id owns it."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            pending, self._pending = self._pending, {}
            by_id: dict[str, Device] = {}
            for devices in pending.values():
                for device in devices:
                    by_id.setdefault(device.device, device)
            await self._publish(self._owners.attribute(by_id.values()))

    async def _publish(self, devices: list[Device]) -> None:
        try:
            for device in devices:
                key = {"node": device.node, "device": device.device}
                await self._bus.publish(subjects.DEVICE_METRIC, device, **key)
                await self._device_store.put_nowait(f"{device.node}.{device.device}", device, ttl_s=TTL_S)
        except (YardError, nats.errors.Error) as error:
            if not self._disconnected:
                log.warning("samples_dropped", reason=str(error))
            self._disconnected = True
        else:
            if devices and self._disconnected:
                log.info("sampling_resumed")
                self._disconnected = False

    async def _publish_adapters(self) -> None:
        """Publish changed adapters, renew all before they expire, and delete removed ones."""
        node, current = self._settings.node, {state.adapter: state for state in self._adapters()}
        due = time.monotonic() - self._renewed_at > RENEW_S
        try:
            for name in self._published.keys() - current.keys():
                await self._adapter_store.delete(f"{node}.{as_token(name)}")
            for name, state in current.items():
                if due or self._published.get(name) != state:
                    key = f"{node}.{as_token(name)}"
                    await self._adapter_store.put(key, state, ttl_s=ADAPTER_TTL_S)
        except (YardError, nats.errors.Error) as error:
            log.debug("adapters_publish_failed", reason=str(error))
        else:
            self._published = current
            self._renewed_at = time.monotonic() if due else self._renewed_at

    def _adapters(self) -> list[Adapter]:
        node = self._settings.node
        running = [
            Adapter(
                node=node,
                adapter=name,
                devices=self._device_ids.get(name, ()),
                problem=sampler.problem(),
                simulated=sampler.adapter.simulated,
            )
            for name, sampler in self._samplers.items()
        ]
        broken = [
            Adapter(node=node, adapter=name, problem=problem)
            for name, problem in self._problems.items()
            if name not in self._samplers
        ]
        return [*running, *broken]


class ProcessOwners:
    """The instances behind processes, cached while a process is on a device."""

    def __init__(self, node: str, instances: Mapping[str, Instance]) -> None:
        self._node = node
        self._instances = instances
        self._owners: dict[int, str | None] = {}
        self._engines: dict[int, str] = {}

    def attribute(self, devices: Iterable[Device]) -> list[Device]:
        devices = list(devices)
        if not any(device.processes for device in devices):
            return devices
        self._refresh({process.pid for device in devices for process in device.processes})
        return [self._attribute(device) for device in devices]

    def _refresh(self, pids: set[int]) -> None:
        engines = {
            instance.engine_pid: instance.instance
            for instance in self._instances.values()
            if instance.node == self._node and instance.state in LIVE and instance.engine_pid is not None
        }
        if engines != self._engines:
            self._engines, self._owners = engines, {}
        # Only present processes stay cached: the system may reuse the id of a former one.
        self._owners = {
            pid: self._owners[pid] if pid in self._owners else self._find_owner(pid) for pid in pids
        }

    def _find_owner(self, pid: int) -> str | None:
        for _ in range(_MAX_DEPTH):
            if pid in self._engines:
                return self._engines[pid]
            try:
                parent = psutil.Process(pid).ppid()
            except psutil.Error:
                return None
            if parent <= 1:
                return None
            pid = parent
        return None

    def _attribute(self, device: Device) -> Device:
        if not device.processes:
            return device
        processes = tuple(
            msgspec.structs.replace(process, instance=self._owners.get(process.pid) or process.instance)
            for process in device.processes
        )
        return msgspec.structs.replace(device, processes=processes)
