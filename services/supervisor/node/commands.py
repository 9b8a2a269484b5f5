"""The `node` commands: options, start, worker, stop, clear and cordon."""

from collections.abc import Callable, Coroutine
from typing import Any

from modelyard.bus.records import BucketCache
from modelyard.host.home import broker_url
from modelyard.host.settings import Settings
from schemas import subjects
from schemas.errors import Conflict
from schemas.instances import (
    Accepted,
    ClearNode,
    NodeCleared,
    PlacedDevice,
    Placement,
    Reason,
    Reserved,
    StartInstance,
    StartWorker,
    StopInstance,
    WorkerStarted,
)
from schemas.models import ModelSpec
from schemas.placement import Cordon, GetNodeOptions, MeasuredMemory, NodeDevice, NodeOptions, Option
from schemas.subject import Command
from services.supervisor.node.options import options, options_on_behalf_of
from services.supervisor.node.presence import LocalNode, NodePresence
from services.supervisor.registry.registry import ModelRegistry
from services.supervisor.runner.record import Launch

_MIB = 1024 * 1024


class AgentCommands:
    """Answers them, over the wire and to the scheduler in this process."""

    def __init__(
        self,
        settings: Settings,
        registry: ModelRegistry,
        local: LocalNode,
        presence: NodePresence,
        measured: BucketCache[MeasuredMemory],
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._local = local
        self._presence = presence
        self._measured = measured
        self._nats_url = broker_url(settings)

    @property
    def handlers(self) -> dict[Command[Any, Any], Callable[[Any], Coroutine[Any, Any, Any]]]:
        return {
            subjects.NODE_OPTIONS: self.options,
            subjects.NODE_START: self.start,
            subjects.NODE_WORKER: self.worker,
            subjects.NODE_STOP: self.stop,
            subjects.NODE_CLEAR: self.clear,
            subjects.NODE_CORDON: self.cordon,
        }

    async def options(self, query: GetNodeOptions) -> NodeOptions:
        spec = self._spec(query.model, query.revision)
        if query.on_behalf_of is not None:
            return options_on_behalf_of(query.on_behalf_of, spec, self._settings, self._measured.values)
        return options(spec, self._settings, self._local.devices.now(), self._measured.values)

    async def start(self, order: StartInstance) -> Accepted:
        """Start an instance; Conflict with the reason if this node refuses."""
        self._local.agent.check_epoch(order.epoch)
        spec = self._spec(order.model, order.revision)
        if self._presence.cordoned:
            raise Conflict("This node is cordoned and takes no start.")
        option = order.option or Option(node=self._settings.node)
        devices = self._local.devices.now()
        launch = Launch(
            instance=order.instance,
            spec=spec,
            revision=order.revision,
            nats_url=self._nats_url,
            failures=order.failures,
            reserved=tuple(
                Reserved(device=need.device, predicted_bytes=need.memory_bytes, node=need.node)
                for need in option.needs
            ),
            placement=placement(spec, option, devices),
        )
        await self._local.agent.start(launch, devices)
        return Accepted()

    async def worker(self, order: StartWorker) -> WorkerStarted:
        """Hold a part of a model for an instance; Conflict with the reason if this node refuses."""
        if self._presence.cordoned:
            raise Conflict("This node is cordoned and takes no start.")
        return await self._local.workers.start(order, self._local.devices.now())

    async def stop(self, order: StopInstance) -> Accepted:
        if order.epoch is not None:
            self._local.agent.check_epoch(order.epoch)
        await self._local.agent.stop(order.instance, order.reason)
        return Accepted()

    async def clear(self, order: ClearNode) -> NodeCleared:
        """Stop everything; the node leaves."""
        stopped = await self._local.agent.clear(order.drain_s)
        await self._local.workers.clear()
        await self._presence.leave()
        return NodeCleared(stopped=stopped)

    async def cordon(self, order: Cordon) -> Accepted:
        """Take no new starts, or take them again; instances stay unless they are to be drained."""
        self._presence.cordon(order.cordoned)
        if order.drain:
            for instance in self._local.agent.running():
                await self._local.agent.stop(instance, Reason.DRAINED)
            # Workers cannot move: their instances on other nodes fail, and are planned without this node.
            await self._local.workers.stop_all()
        return Accepted()

    def _spec(self, model: str, revision: int) -> ModelSpec:
        spec = self._registry.find(model)
        if self._registry.revision(spec.name) != revision:
            raise Conflict(f"{spec.name} has another revision by now.")
        return spec


def placement(spec: ModelSpec, option: Option, devices: tuple[NodeDevice, ...]) -> Placement:
    """An option as an engine takes it."""
    profile = next((profile for profile in spec.profiles if profile.name == option.profile), None)
    needs = {need.device: need.memory_bytes for need in option.needs if need.node is None}
    sizes = {device.device: device.memory_bytes for device in devices}
    chosen = tuple(
        PlacedDevice(
            device=device,
            memory_mib=needs[device] // _MIB if device in needs else None,
            total_mib=max(sizes.get(device, 0) // _MIB, 1),
        )
        for device in option.devices
    )
    if profile is None:
        return Placement(devices=chosen)
    return Placement(
        profile=profile.name,
        devices=chosen,
        n_ctx=profile.n_ctx,
        n_parallel=profile.n_parallel,
        args=profile.args,
        env=profile.env,
        workers=option.workers,
        split=option.split,
    )
