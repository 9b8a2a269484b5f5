"""Devices once a second: into the bucket, where the newest sample stands, and out as a metric."""

import asyncio
import math
import time

import nats.errors

from modelyard import logging
from modelyard.bus import Bus
from modelyard.state import Store
from schemas import buckets, subjects
from schemas.devices import Device
from schemas.errors import YardError
from services.monitor.devices.adapter import DeviceAdapter
from services.monitor.thread import OwnThread

log = logging.get(__name__)

PERIOD_S = 1.0
TTL_S = 10
"""A device that was not sampled for so long is gone, or its monitor is."""


class DeviceOutlet:
    """Where samples go. While the broker is away they are dropped: the next one says more than the last."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._store = Store(bus, buckets.DEVICES)
        self._away = False

    async def send(self, devices: list[Device]) -> None:
        """Send all, or log once that they cannot be sent."""
        try:
            for device in devices:
                await self._send(device)
        except (YardError, nats.errors.Error) as error:
            if not self._away:
                log.warning("samples_dropped", reason=str(error))
            self._away = True
        else:
            if devices and self._away:
                log.info("samples_sent_again")
                self._away = False

    async def _send(self, device: Device) -> None:
        await self._bus.publish(subjects.DEVICE_METRIC, device, node=device.node, device=device.device)
        await self._store.put(f"{device.node}.{device.device}", device, ttl_s=TTL_S)


class Sampler:
    """One adapter on its own rhythm and thread, so that one which hangs or fails stops no other."""

    def __init__(self, adapter: DeviceAdapter, outlet: DeviceOutlet, period_s: float = PERIOD_S) -> None:
        self._adapter = adapter
        self._outlet = outlet
        self._period_s = period_s
        self._failing = False

    async def run(self) -> None:
        """Sample until cancelled."""
        thread = OwnThread(f"sample-{self._adapter.name}")
        due = time.monotonic()
        try:
            while True:
                await self._outlet.send(await thread.run(self._sample))
                due = next_due(due, time.monotonic(), self._period_s)
                await asyncio.sleep(due - time.monotonic())
        finally:
            thread.end()

    def _sample(self) -> list[Device]:
        try:
            devices = self._adapter.sample(time.time())
        except Exception:
            if not self._failing:
                log.exception("sampling_failed", adapter=self._adapter.name)
            self._failing = True
            return []
        self._failing = False
        return devices


def next_due(due: float, now: float, period_s: float) -> float:
    """The first beat after `now`; beats that were missed are not made up for."""
    return due + period_s * max(1, math.ceil((now - due) / period_s))
