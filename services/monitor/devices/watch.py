"""All adapters of this node, as they come and go, and where their samples go."""

import asyncio
import contextlib
import time

import nats.errors

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
from schemas.instances import Instance
from services.monitor.devices.sampling import PERIOD_S, Sampler
from services.monitor.devices.tenants import Tenants

log = logs.get(__name__)

TTL_S = 10
"""A device that was not sampled for so long is gone, or its monitor is."""
LOOK_S = 5.0
"""How often the plugin folder is looked at, and told what became of every adapter."""
RENEW_S = 15.0
ADAPTER_TTL_S = 45
"""What an adapter does is told when it changes, and again before it expires."""


class Watch:
    """Once a second every device goes out as a metric and into the bucket, whoever looks on.

    While the broker is away samples are dropped: the next one says more than the last.
    """

    def __init__(
        self, bus: Bus, settings: Settings, instances: BucketCache[Instance], period_s: float = PERIOD_S
    ) -> None:
        self._bus = bus
        self._settings = settings
        self._tenants = Tenants(settings.node, instances.values)
        self._period_s = period_s
        self._devices = BucketStore(bus, buckets.DEVICES)
        self._adapters = BucketStore(bus, buckets.ADAPTERS)
        self._samplers: dict[str, Sampler] = {}
        self._fresh: dict[str, list[Device]] = {}
        self._told_of: dict[str, tuple[str, ...]] = {}
        self._problems: dict[str, str] = {}
        self._told: dict[str, Adapter] = {}
        self._told_at = float("-inf")
        self._away = False
        self._woken = asyncio.Event()

    async def run(self) -> None:
        """Follow the adapters that there are, until cancelled."""
        sending = asyncio.create_task(self.send())
        try:
            while True:
                self.look(ADAPTERS.discover(self._settings.device_plugins))
                await self._tell_adapters()
                await asyncio.sleep(LOOK_S)
        finally:
            sending.cancel()
            self.stop()

    def stop(self) -> None:
        """No adapter is asked any more."""
        for sampler in self._samplers.values():
            sampler.stop()

    def look(self, found: DiscoveredPlugins[DeviceAdapter]) -> None:
        """Begin with new adapters, and leave those that changed or are gone."""
        for name, sampler in tuple(self._samplers.items()):
            if found.plugins.get(name) is not sampler.adapter:
                sampler.stop()
                del self._samplers[name]
                self._told_of.pop(name, None)
        loop = asyncio.get_running_loop()
        for name, adapter in found.plugins.items():
            if name not in self._samplers:

                def take(sampler: Sampler, devices: list[Device]) -> None:
                    # The loop may be closed by now: a thread that hung comes back when it likes.
                    with contextlib.suppress(RuntimeError):
                        loop.call_soon_threadsafe(self._take, sampler, devices)

                self._samplers[name] = Sampler(adapter, self._settings, take, self._period_s)
                self._samplers[name].start()
        self._problems = {one.name: one.problem for one in found.errors}

    def _take(self, sampler: Sampler, devices: list[Device]) -> None:
        name = sampler.adapter.name
        if self._samplers.get(name) is sampler:
            self._fresh[name] = devices
            self._told_of[name] = tuple(device.device for device in devices)
            self._woken.set()

    async def send(self) -> None:
        """Send what was sampled, until cancelled."""
        while True:
            await self._woken.wait()
            self._woken.clear()
            fresh, self._fresh = self._fresh, {}
            owners: dict[str, Device] = {}
            for devices in fresh.values():
                for device in devices:
                    owners.setdefault(device.device, device)
            await self._send(self._tenants.named(owners.values()))

    async def _send(self, devices: list[Device]) -> None:
        """Send all, or log once that they cannot be sent."""
        try:
            for device in devices:
                key = {"node": device.node, "device": device.device}
                await self._bus.publish(subjects.DEVICE_METRIC, device, **key)
                await self._devices.put_nowait(f"{device.node}.{device.device}", device, ttl_s=TTL_S)
        except (YardError, nats.errors.Error) as error:
            if not self._away:
                log.warning("samples_dropped", reason=str(error))
            self._away = True
        else:
            if devices and self._away:
                log.info("samples_sent_again")
                self._away = False

    async def _tell_adapters(self) -> None:
        """What became of each; one that is gone is taken out."""
        node, current = self._settings.node, {one.adapter: one for one in self._states()}
        due = time.monotonic() - self._told_at > RENEW_S
        try:
            for gone in self._told.keys() - current.keys():
                await self._adapters.delete(f"{node}.{as_token(gone)}")
            for name, state in current.items():
                if due or self._told.get(name) != state:
                    await self._adapters.put(f"{node}.{as_token(name)}", state, ttl_s=ADAPTER_TTL_S)
        except (YardError, nats.errors.Error) as error:
            log.debug("adapters_not_told", reason=str(error))
        else:
            self._told = current
            self._told_at = time.monotonic() if due else self._told_at

    def _states(self) -> list[Adapter]:
        node = self._settings.node
        working = [
            Adapter(
                node=node,
                adapter=name,
                devices=self._told_of.get(name, ()),
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
        return [*working, *broken]
