"""The yard in numbers: followed as it changes, gathered once a second, kept for a day, told to who asks."""

import asyncio
import time
import zlib
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

import psutil

import modelyard
from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.bus.micro import Commands
from modelyard.bus.records import BucketCache
from modelyard.bus.tasks import Tasks
from modelyard.host.credentials import members
from modelyard.host.settings import Settings
from schemas import buckets, subjects
from schemas.devices import Device
from schemas.errors import BadRequest
from schemas.instances import Instance
from schemas.metric_names import BY_SAMPLE_NAME
from schemas.metrics import (
    AskSamples,
    Exposition,
    InstanceMetrics,
    MetricsAnswer,
    MetricsQuery,
    Sample,
    Samples,
)
from services.monitor.metrics.ended import Ended
from services.monitor.metrics.exposition import render
from services.monitor.metrics.gather import gather
from services.monitor.metrics.history import History
from services.monitor.metrics.lives import Lives
from services.monitor.metrics.past import Past
from services.monitor.metrics.probe import Probe
from services.monitor.metrics.requests import Requests
from services.monitor.metrics.world import World

log = logs.get(__name__)
T = TypeVar("T")

TICK_S = 1.0
WEIGH_S = 10.0
MEMBERS_S = 10.0
SILENT_S = 10.0
"""What was not heard of for so long is left out."""

_PROCESS = psutil.Process()

More = Callable[[float], Iterable[Sample]]
"""What another part of the monitor adds, told the time."""


class _Heard(Generic[T]):
    """The newest of what comes once a second, as long as it does; by our clock, not by the sender's."""

    def __init__(self) -> None:
        self._values: dict[str, tuple[float, T]] = {}

    def note(self, key: str, value: T) -> None:
        self._values[key] = (time.monotonic(), value)

    def now(self) -> dict[str, T]:
        silent = time.monotonic() - SILENT_S
        self._values = {key: one for key, one in self._values.items() if one[0] > silent}
        return {key: value for key, (_, value) in self._values.items()}


class Keeper:
    """One for the whole yard: it hears the devices and the instances of every node."""

    def __init__(
        self,
        bus: Bus,
        settings: Settings,
        instances: BucketCache[Instance],
        devices: BucketCache[Device],
        began_at: float,
    ) -> None:
        self.history = History()
        self.samples: tuple[Sample, ...] = ()
        """Of the last second."""
        self._bus = bus
        self._settings = settings
        self._expected: frozenset[str] = frozenset()
        self._instances = instances
        self._devices = devices
        self._activity: _Heard[InstanceMetrics] = _Heard()
        self._requests, self._lives = Requests(), Lives()
        self._ended = Ended(bus, self._requests.add)
        self._probe = Probe(bus)
        self._past = Past(bus, self.history, settings.node, began_at)
        self._more: list[More] = [self._own_cost]
        self._weigh_at, self._weight_bytes = 0.0, 0
        self._on_tick: list[Callable[[float, tuple[Sample, ...]], None]] = []

    async def start(self, tasks: Tasks) -> None:
        """Follow everything. Who asks meanwhile is told what is known by then."""
        self._nodes = await BucketCache.start(self._bus, buckets.NODES, tasks)
        self._departures = await BucketCache.start(self._bus, buckets.DEPARTURES, tasks)
        self._waits = await BucketCache.start(self._bus, buckets.WAITING, tasks)
        self._downloads = await BucketCache.start(self._bus, buckets.DOWNLOADS, tasks)
        for instance in self._instances.values.values():
            self._lives.know(instance)
        self._instances.listen(self._lives.follow)
        await self._bus.subscribe(subjects.INSTANCE_METRIC, self._on_activity)
        tasks.spawn(self._run(tasks), "metrics")

    async def serve(self, commands: Commands) -> None:
        """Answer from now on."""
        await commands.add(subjects.METRICS_QUERY, self.query)
        await commands.add(subjects.METRICS_NOW, self.now)
        await commands.add(subjects.METRICS_EXPOSE, self.expose)

    def add(self, more: More) -> None:
        """Ask `more` for samples too, once a second."""
        self._more.append(more)

    def listen(self, listener: Callable[[float, tuple[Sample, ...]], None]) -> None:
        """Tell `listener` the samples of every second."""
        self._on_tick.append(listener)

    def world(self, now: float) -> World:
        """Everything as it is known now."""
        return World(
            now=now,
            version=modelyard.__version__,
            devices=self._devices.values,
            nodes=self._nodes.values,
            expected=self._expected - self._departures.values.keys(),
            instances=self._instances.values,
            activity=self._activity.now(),
            waits=self._waits.values,
            downloads=self._downloads.values,
            queue=self._probe.queue,
            requests=self._requests,
            lives=self._lives,
            broker=self._probe.health,
            more=tuple(sample for more in self._more for sample in more(now)),
        )

    async def _on_activity(self, _tokens: dict[str, str], activity: InstanceMetrics) -> None:
        self._activity.note(activity.instance, activity)

    async def _run(self, tasks: Tasks) -> None:
        tasks.spawn(self._probe.run(), "broker probe")
        await self._past.restore(self._ended, self._requests)
        tasks.spawn(self._ended.run(), "requests")
        tasks.spawn(self._past.keep(), "history")
        tasks.spawn(self._know_members(), "members")
        due = time.monotonic()
        while True:
            self._tick(time.time())
            due = max(due + TICK_S, time.monotonic())
            await asyncio.sleep(due - time.monotonic())

    async def _know_members(self) -> None:
        """The machines that were let in, looked up now and then: letting one in is no event."""
        while True:
            joined = await asyncio.to_thread(members, self._settings.credentials)
            self._expected = frozenset({self._settings.node, *(each.node for each in joined)})
            await asyncio.sleep(MEMBERS_S)

    def _tick(self, now: float) -> None:
        self.samples = tuple(gather(self.world(now)))
        self.history.observe(now, self.samples)
        for listener in self._on_tick:
            try:
                listener(now, self.samples)
            except Exception:
                log.exception("metrics_listener_failed")

    def _own_cost(self, now: float) -> Iterable[Sample]:
        if now >= self._weigh_at:
            self._weigh_at, self._weight_bytes = now + WEIGH_S, _PROCESS.memory_info().rss
        yield Sample(name="yard_monitor_cpu_seconds_total", value=time.process_time())
        yield Sample(name="yard_monitor_memory_bytes", value=float(self._weight_bytes))
        yield Sample(name="yard_monitor_history_series", value=float(len(self.history)))

    async def query(self, query: MetricsQuery) -> MetricsAnswer:
        """Answer `metrics.query`."""
        return self.history.query(query)

    async def now(self, asked: AskSamples) -> Samples:
        """Answer `metrics.now`."""
        if unknown := [name for name in asked.names if name not in BY_SAMPLE_NAME]:
            raise BadRequest(
                f"There is no metric {unknown[0]!r}; docs/metrics.md has them all.", param="names"
            )
        wanted = [one for one in self.samples if _is_asked_for(one, asked.names)]
        return Samples(sampled_at=time.time(), samples=tuple(wanted))

    async def expose(self, wanted: Exposition) -> bytes:
        """Answer `metrics.expose`."""
        return zlib.compress(render(self.samples, openmetrics=wanted.openmetrics).encode(), 1)


def _is_asked_for(sample: Sample, names: tuple[str, ...]) -> bool:
    return sample.name in names if names else not sample.name.endswith("_bucket")
