"""What a node is told: how could it run a model, start, stop, clear, cordon."""

from modelyard.bus.records import BucketCache
from modelyard.host.settings import Settings
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
    StopInstance,
)
from schemas.models import ModelSpec
from schemas.placing import AskOptions, Cordon, MeasuredMemory, NodeDevice, NodeOptions, Option
from schemas.workers import StartWorker, WorkerStarted
from services.supervisor.agent.agent import NodeAgent
from services.supervisor.agent.devices import Devices
from services.supervisor.agent.options import options, options_of
from services.supervisor.agent.presence import Presence
from services.supervisor.agent.workers import Workers
from services.supervisor.registry import Registry
from services.supervisor.runner.launch import Launch

_MIB = 1024 * 1024


class Orders:
    """The `node` commands."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        agent: NodeAgent,
        workers: Workers,
        devices: Devices,
        presence: Presence,
        measured: BucketCache[MeasuredMemory],
        nats_url: str,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._agent = agent
        self._workers = workers
        self._devices = devices
        self._presence = presence
        self._measured = measured
        self._nats_url = nats_url

    async def options(self, asked: AskOptions) -> NodeOptions:
        """How this node could run a model."""
        spec = self._spec(asked.model, asked.revision)
        if asked.on_behalf_of is not None:
            return options_of(asked.on_behalf_of, spec, self._settings, self._measured.values)
        return options(spec, self._settings, self._now(), self._measured.values)

    async def start(self, proposal: StartInstance) -> Accepted:
        """Take a start, or refuse it with the reason."""
        self._agent.obey(proposal.epoch)
        spec = self._spec(proposal.model, proposal.revision)
        if self._presence.cordoned:
            raise Conflict("This node is cordoned and takes no start.")
        option, now = proposal.option or Option(node=self._settings.node), self._now()
        launch = Launch(
            instance=proposal.instance,
            spec=spec,
            revision=proposal.revision,
            nats_url=self._nats_url,
            failures=proposal.failures,
            reserved=tuple(
                Reserved(device=need.device, predicted_bytes=need.memory_bytes, node=need.node)
                for need in option.needs
            ),
            placement=placement(spec, option, now),
        )
        await self._agent.start(launch, now)
        return Accepted()

    async def worker(self, order: StartWorker) -> WorkerStarted:
        """Hold a part of a model for an instance, or refuse it with the reason."""
        if self._presence.cordoned:
            raise Conflict("This node is cordoned and takes no start.")
        return await self._workers.start(order, self._now())

    async def stop(self, order: StopInstance) -> Accepted:
        """Drain and end one instance."""
        if order.epoch is not None:
            self._agent.obey(order.epoch)
        await self._agent.stop(order.instance, order.reason)
        return Accepted()

    async def clear(self, order: ClearNode) -> NodeCleared:
        """End everything, for good: the node leaves."""
        stopped = await self._agent.clear(order.drain_s)
        await self._workers.clear()
        await self._presence.leave()
        return NodeCleared(stopped=stopped)

    async def cordon(self, order: Cordon) -> Accepted:
        """Take no new starts, or take them again; what runs stays unless it is to be drained."""
        self._presence.cordon(order.cordoned)
        if order.drain:
            for instance in self._agent.living():
                await self._agent.stop(instance, Reason.DRAINED)
            # They cannot move: the instances of other nodes fail, and are planned without this one.
            await self._workers.stop_all()
        return Accepted()

    def _now(self) -> tuple[NodeDevice, ...]:
        return self._devices.now(self._agent.reserved())

    def _spec(self, model: str, revision: int) -> ModelSpec:
        spec = self._registry.find(model)
        if self._registry.revision(spec.name) != revision:
            raise Conflict(f"{spec.name} has another revision by now.")
        return spec


def placement(spec: ModelSpec, option: Option, devices: tuple[NodeDevice, ...]) -> Placement:
    """Where and how, as an engine wants to know it."""
    profile = next((one for one in spec.profiles if one.name == option.profile), None)
    needs = {need.device: need.memory_bytes for need in option.needs if need.node is None}
    sizes = {one.device: one.memory_bytes for one in devices}
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
