"""Snapshots of the yard: what the plan is made from, read from the buckets, the queue and the nodes."""

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from modelyard.bus.connection import Bus
from modelyard.bus.records import BucketCache
from schemas import streams, subjects
from schemas.base import model_name
from schemas.instances import LIVE, SERVING, Instance, InstanceState, Node
from schemas.models import ModelSpec, fingerprint
from schemas.placement import Option
from schemas.registry import ModelGroup
from services.supervisor.fetching.fetcher import Fetches, ModelFetcher
from services.supervisor.node.backoff import is_superseded
from services.supervisor.planning.plan import desired_replicas
from services.supervisor.planning.world import SwapLimits, World
from services.supervisor.scheduler.demand import DemandTracker
from services.supervisor.scheduler.node_client import NodeClient


class YardState(NamedTuple):
    """The buckets that the scheduler follows."""

    models: BucketCache[ModelSpec]
    instances: BucketCache[Instance]
    nodes: BucketCache[Node]
    groups: BucketCache[ModelGroup]

    def specs(self) -> dict[str, ModelSpec]:
        return {spec.name: spec for spec in self.models.values.values()}

    def serving(self, model: str) -> list[Instance]:
        """Instances that take requests now or soon."""
        instances = self.instances.values.values()
        return [instance for instance in instances if instance.model == model and instance.state in SERVING]

    def live(self, model: str) -> list[Instance]:
        """Instances whose processes live."""
        instances = self.instances.values.values()
        return [instance for instance in instances if instance.model == model and instance.state in LIVE]


class WorldSnapshot(NamedTuple):
    """The world at one moment, and the fetches that a plan of it may order."""

    world: World
    fetches: Fetches


@dataclass
class WorldSnapshots:
    _bus: Bus
    _state: YardState
    _nodes: NodeClient
    _fetching: ModelFetcher
    _limits: SwapLimits

    async def take(self, demand: DemandTracker) -> WorldSnapshot:
        """The world now; `demand` is brought up to date."""
        return await self._complete(await self._demanded(demand), demand)

    async def preview(self, demand: DemandTracker, model: str) -> WorldSnapshot:
        """The world now as if a start of `model` were requested; nothing is changed by that."""
        assumed = demand.copy()
        assumed.request_start(model, time.time())
        return await self._complete(await self._demanded(assumed), demand, preview=model)

    async def _demanded(self, demand: DemandTracker) -> World:
        """The world without the options of the nodes."""
        now, specs = time.time(), self._state.specs()
        instances = without_superseded(self._state.instances.values.values())
        ready = {instance.model for instance in instances if instance.state is InstanceState.READY}
        live = {instance.model for instance in instances if instance.state in LIVE}
        queued = unserved(await self._queued(), instances)
        return World(
            now=now,
            models=specs,
            instances=instances,
            demand=demand.update(queued, ready, live, now),
            start_requested=demand.start_requested & specs.keys(),
            stop_requested=demand.stop_requested,
            nodes=self._nodes.capacities(),
            outdated=outdated_instances(instances, specs),
            groups=tuple(self._state.groups.values.values()),
            limits=self._limits,
        )

    async def _complete(
        self, world: World, demand: DemandTracker, *, preview: str | None = None
    ) -> WorldSnapshot:
        requested_at = {name: state.at for name, state in demand.desired.items() if state.running}
        specs = world.models
        needed = [name for name in specs if desired_replicas(world, name) > len(self._state.serving(name))]
        options, problems = await self._nodes.options(needed, world.instances)
        # A node that is unresponsive for a moment may have the files.
        fetchable = [] if self._nodes.unresponsive() else [specs[name] for name in needed]
        fetches = await self._fetching.scan(fetchable, requested_at, preview=preview)
        complete = msgspec.structs.replace(
            world,
            options={name: failed_nodes_last(name, own, world.instances) for name, own in options.items()},
            problems=problems,
            fetch_options=fetches.options,
            fetches_running=fetches.running,
            fetches_failed=fetches.failed,
        )
        return WorldSnapshot(complete, fetches)

    async def _queued(self) -> dict[str, int]:
        """Requests by model, from the stream itself, which cannot be wrong."""
        info = await self._bus.js.stream_info(streams.INFER.name, subjects_filter=subjects.INFER.wildcard)
        queued: Counter[str] = Counter()
        for subject, count in (info.state.subjects or {}).items():
            queued[model_name(subjects.INFER.token(subject, "model"))] += count
        return queued


def failed_nodes_last(
    model: str, options: tuple[Option, ...], instances: tuple[Instance, ...]
) -> tuple[Option, ...]:
    """A model that failed on one node is tried on the others before it is tried there again."""
    own = (instance for instance in instances if instance.model == model)
    failed = {instance.node for instance in own if instance.state is InstanceState.FAILED}
    return tuple(sorted(options, key=lambda option: option.node in failed))


def unserved(queued: Mapping[str, int], instances: Iterable[Instance]) -> dict[str, int]:
    """Queued requests without those that a stopping instance still answers: those need no start."""
    stopping = Counter[str]()
    for instance in instances:
        if instance.state in LIVE and instance.state not in SERVING:
            stopping[instance.model] += instance.busy
    return {model: max(count - stopping[model], 0) for model, count in queued.items()}


def without_superseded(instances: Iterable[Instance]) -> tuple[Instance, ...]:
    """Without failures that a later start superseded, whose nodes have not deleted the record yet."""
    instances = tuple(instances)
    return tuple(instance for instance in instances if not is_superseded(instance, instances))


def outdated_instances(instances: tuple[Instance, ...], specs: dict[str, ModelSpec]) -> frozenset[str]:
    """Instances that were started with a spec that their model does not have any more."""
    current = {name: fingerprint(spec) for name, spec in specs.items()}
    known = [instance for instance in instances if instance.fingerprint and instance.model in current]
    return frozenset(
        instance.instance for instance in known if instance.fingerprint != current[instance.model]
    )
