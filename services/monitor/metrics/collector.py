"""Collects the metrics of the yard: follows its state, samples it every second, answers commands."""

import asyncio
import time
import zlib
from collections.abc import Callable, Iterable

import psutil

import modelyard
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
    Exposition,
    GetSamples,
    InstanceMetrics,
    MetricsQuery,
    MetricsReply,
    Sample,
    Samples,
)
from services.monitor.metrics.broker_probe import BrokerProbe
from services.monitor.metrics.event_counters import InstanceCounters, RequestConsumer, RequestCounters
from services.monitor.metrics.export import render
from services.monitor.metrics.history import MetricsHistory
from services.monitor.metrics.history_archive import HistoryArchive
from services.monitor.metrics.samples import YardSnapshot, collect_samples

SAMPLE_S = 1.0
MEMORY_S = 10.0
MEMBERS_S = 10.0
STALE_S = 10.0
"""An instance whose last metrics are older is left out."""

_PROCESS = psutil.Process()

SampleSource = Callable[[float], Iterable[Sample]]
"""Samples of another part of the monitor, called with the time."""


class MetricsCollector:
    """The metrics of the devices and instances of all nodes."""

    def __init__(
        self,
        bus: Bus,
        settings: Settings,
        instances: BucketCache[Instance],
        devices: BucketCache[Device],
        started_at: float,
    ) -> None:
        self.history = MetricsHistory()
        self.samples: tuple[Sample, ...] = ()
        """The samples of the last second."""
        self._bus = bus
        self._settings = settings
        self._expected: frozenset[str] = frozenset()
        self._instances = instances
        self._devices = devices
        self._activity: dict[str, tuple[float, InstanceMetrics]] = {}
        """The newest metrics of each instance, with their local time."""
        self._requests, self._instance_counters = RequestCounters(), InstanceCounters()
        self._consumer = RequestConsumer(bus, self._requests.add)
        self._probe = BrokerProbe(bus)
        self._archive = HistoryArchive(bus, self.history, settings.node, started_at)
        self._sources: list[SampleSource] = [self._own_samples]
        self._memory_due_at, self._memory_bytes = 0.0, 0

    async def start(self, tasks: Tasks) -> None:
        """Follow the state of the yard. Until the history is restored, there are no samples."""
        self._nodes = await BucketCache.start(self._bus, buckets.NODES, tasks)
        self._departures = await BucketCache.start(self._bus, buckets.DEPARTURES, tasks)
        self._waiting = await BucketCache.start(self._bus, buckets.WAITING, tasks)
        self._downloads = await BucketCache.start(self._bus, buckets.DOWNLOADS, tasks)
        for instance in self._instances.values.values():
            self._instance_counters.add_existing(instance)
        self._instances.listen(self._instance_counters.on_change)
        await self._bus.subscribe(subjects.INSTANCE_METRIC, self._on_activity)
        tasks.spawn(self._run(tasks), "metrics")

    async def serve(self, commands: Commands) -> None:
        await commands.add(subjects.METRICS_QUERY, self.query)
        await commands.add(subjects.METRICS_NOW, self.now)
        await commands.add(subjects.METRICS_EXPOSE, self.expose)

    def add_source(self, source: SampleSource) -> None:
        self._sources.append(source)

    def snapshot(self, now: float) -> YardSnapshot:
        oldest = time.monotonic() - STALE_S
        self._activity = {name: latest for name, latest in self._activity.items() if latest[0] > oldest}
        return YardSnapshot(
            now=now,
            version=modelyard.__version__,
            devices=self._devices.values,
            nodes=self._nodes.values,
            expected=self._expected - self._departures.values.keys(),
            instances=self._instances.values,
            activity={name: activity for name, (_, activity) in self._activity.items()},
            waiting=self._waiting.values,
            downloads=self._downloads.values,
            queue=self._probe.queue,
            requests=self._requests,
            instance_counters=self._instance_counters,
            broker=self._probe.health,
            extra=tuple(sample for source in self._sources for sample in source(now)),
        )

    async def _on_activity(self, _tokens: dict[str, str], activity: InstanceMetrics) -> None:
        self._activity[activity.instance] = (time.monotonic(), activity)

    async def _run(self, tasks: Tasks) -> None:
        tasks.spawn(self._probe.run(), "broker probe")
        await self._archive.restore(self._consumer, self._requests)
        tasks.spawn(self._consumer.run(), "requests")
        tasks.spawn(self._archive.run(), "history")
        tasks.spawn(self._poll_members(), "members")
        due = time.monotonic()
        while True:
            now = time.time()
            self.samples = tuple(collect_samples(self.snapshot(now)))
            self.history.add(now, self.samples)
            due = max(due + SAMPLE_S, time.monotonic())
            await asyncio.sleep(due - time.monotonic())

    async def _poll_members(self) -> None:
        """The admission of a node is no event, so the files are polled."""
        while True:
            joined = await asyncio.to_thread(members, self._settings.credentials)
            self._expected = frozenset({self._settings.node, *(member.node for member in joined)})
            await asyncio.sleep(MEMBERS_S)

    def _own_samples(self, now: float) -> Iterable[Sample]:
        if now >= self._memory_due_at:
            self._memory_due_at, self._memory_bytes = now + MEMORY_S, _PROCESS.memory_info().rss
        yield Sample(name="yard_monitor_cpu_seconds_total", value=time.process_time())
        yield Sample(name="yard_monitor_memory_bytes", value=float(self._memory_bytes))
        yield Sample(name="yard_monitor_history_series", value=float(len(self.history)))

    async def query(self, query: MetricsQuery) -> MetricsReply:
        return self.history.query(query)

    async def now(self, query: GetSamples) -> Samples:
        if unknown := [name for name in query.names if name not in BY_SAMPLE_NAME]:
            raise BadRequest(
                f"There is no metric {unknown[0]!r}; docs/metrics.md has them all.", param="names"
            )
        selected = (
            sample
            for sample in self.samples
            if (sample.name in query.names if query.names else not sample.name.endswith("_bucket"))
        )
        return Samples(sampled_at=time.time(), samples=tuple(selected))

    async def expose(self, query: Exposition) -> bytes:
        return zlib.compress(render(self.samples, openmetrics=query.openmetrics).encode(), 1)
