"""Running engines and the node that owns them."""

from enum import StrEnum

import msgspec

from schemas.base import Record
from schemas.models import ModelSpec
from schemas.placement import NodeDevice, Option, WorkerPlacement
from schemas.profiles import CPU


class RpcOffer(Record):
    """What a node offers to models of other nodes; `problem` is the reason why it cannot."""

    host: str
    """The address under which other nodes reach its workers; on loopback only its own instances do."""
    version: str | None = None
    """Of its llama.cpp; None where a standalone program does not report it."""
    problem: str | None = None


class StartWorker(Record):
    """To a node: hold a part of a model for this instance."""

    worker: str
    """Its id."""
    instance: str
    model: str
    device: str
    memory_bytes: int
    """Memory to reserve; refused if it is not free."""
    token: str
    """A shared secret of the instance and this worker, required for the handshake."""

    def __repr__(self) -> str:
        return f"StartWorker({self.worker} for {self.instance})"


class WorkerStarted(Record):
    """It is listening; it exits unless its instance connects soon."""

    host: str
    port: int
    version: str | None = None
    """Version of its llama.cpp."""


class Worker(Record):
    """A worker in its node's record."""

    worker: str
    instance: str
    model: str
    device: str
    memory_bytes: int
    """Reserved from before it starts until after it has ended."""


class InstanceState(StrEnum):
    """The lifecycle of an instance; `NEXT_STATES` are its legal transitions."""

    STARTING = "starting"
    """Decided; its runner is being started."""
    LOADING = "loading"
    """The engine process runs and reads the model."""
    PROBING = "probing"
    """The engine is healthy; one real request proves it."""
    READY = "ready"
    """It serves requests."""
    DRAINING = "draining"
    """It takes no new requests and finishes those in flight."""
    STOPPING = "stopping"
    """The engine is being ended."""
    STOPPED = "stopped"
    """Stopped on request; its memory is free."""
    FAILED = "failed"
    """Ended otherwise; `error` has the reason."""


_S = InstanceState
NEXT_STATES: dict[InstanceState, frozenset[InstanceState]] = {
    _S.STARTING: frozenset({_S.LOADING, _S.STOPPING, _S.STOPPED, _S.FAILED}),
    # Back to LOADING: its port was taken in the last moment, and it is started once more.
    _S.LOADING: frozenset({_S.LOADING, _S.PROBING, _S.STOPPING, _S.FAILED}),
    _S.PROBING: frozenset({_S.LOADING, _S.READY, _S.STOPPING, _S.FAILED}),
    _S.READY: frozenset({_S.DRAINING, _S.FAILED}),
    _S.DRAINING: frozenset({_S.STOPPING, _S.FAILED}),
    _S.STOPPING: frozenset({_S.STOPPED, _S.FAILED}),
    _S.STOPPED: frozenset(),
    _S.FAILED: frozenset(),
}
LIVE = frozenset(state for state, following in NEXT_STATES.items() if following)
COMING = frozenset({_S.STARTING, _S.LOADING, _S.PROBING})
SERVING = COMING | {_S.READY}
"""Takes requests now or soon; the other live states are on the way to the end."""


class Reason(StrEnum):
    """Why an instance is in its state."""

    REQUESTED = "requested"
    """Requested by a person, a script or a waiting request."""
    IDLE = "idle"
    """No request for its model within its `ttl_s`, or the queue needs fewer replicas."""
    EVICTED = "evicted"
    """Another model needs its memory."""
    REPLACED = "replaced"
    """Its model was changed; another instance takes its place."""
    CRASHED = "crashed"
    """A process ended unexpectedly or was killed."""
    OOM = "oom"
    """The engine could not allocate its memory, or the kernel's OOM killer ended it."""
    UNHEALTHY = "unhealthy"
    """It missed its start budget, failed its probe, or was detected as hung."""
    DRAINED = "drained"
    """Its node is being cleared."""


class Reserved(Record):
    """Memory of one device that an instance may use, and what was measured there."""

    device: str
    predicted_bytes: int
    measured_bytes: int | None = None
    """As the system measures it at readiness; None until then, and where it cannot be measured."""
    node: str | None = None
    """The node of the device; None: the instance's own node. On other nodes its workers hold the memory."""


class Instance(Record):
    """One engine process serving one model. Written by its runner while it lives, then by its supervisor."""

    instance: str
    model: str
    node: str
    engine: str
    revision: int
    """Revision of the model spec it was started with."""
    state: InstanceState
    reason: Reason
    changed_at: float
    """Unix seconds of the last change of state."""
    fingerprint: str = ""
    """Hash of the spec's fields that cannot change while the engine runs."""
    profile: str | None = None
    """The profile it runs in; None: none was needed."""
    reserved: tuple[Reserved, ...] = ()
    """Its reserved memory, per device, from before its process starts until after it has ended."""
    started_at: float = 0.0
    ready_at: float | None = None
    used_at: float | None = None
    """When its last request ended, in unix seconds."""
    progress: float | None = None
    """The loaded fraction of the model, 0 to 1; None where the engine does not report it."""
    slots: int = 0
    busy: int = 0
    """Slots at work now."""
    waiting: int = 0
    """Requests that wait in the queues of its model, which all instances of it share."""
    pid: int | None = None
    """The runner's process; with `pid_started_at` no later process of that number is mistaken for it."""
    pid_started_at: float | None = None
    engine_pid: int | None = None
    port: int | None = None
    """Loopback port of the engine."""
    load_s: float | None = None
    """Seconds from start to ready."""
    error: str | None = None
    """One sentence and the engine's last lines, when failed."""
    failures: int = 0
    """Consecutive failures of this model, this one included; a long ready time resets them."""
    retry_at: float | None = None
    """Unix seconds before which the scheduler does not try this model again."""
    circuit_open: bool = False
    """The circuit breaker is open: until `retry_at` requests are refused at once."""

    @property
    def ever_ready(self) -> bool:
        return self.load_s is not None


class PlacedDevice(Record):
    """One device that an instance was given."""

    device: str
    """Its id: a GPU's UUID, or `cpu`."""
    memory_mib: int | None = None
    """Memory reserved for the instance."""
    total_mib: int | None = None
    """The device's total; engines that take a share of a device need both."""

    def __post_init__(self) -> None:
        if self.memory_mib is not None and self.memory_mib < 0:
            raise ValueError("memory_mib must not be negative")
        if self.total_mib is not None and self.total_mib < 1:
            raise ValueError("total_mib must be at least 1")


class Placement(Record):
    """The decided placement of an instance. None or empty fields are as in the model's spec."""

    profile: str | None = None
    devices: tuple[PlacedDevice, ...] = ()
    """In the engine's order; empty: the engine chooses."""
    n_ctx: int | None = None
    n_parallel: int | None = None
    args: tuple[str, ...] = ()
    """After those of the model."""
    env: dict[str, str] = msgspec.field(default_factory=dict)
    """Over that of the model."""
    workers: tuple[WorkerPlacement, ...] = ()
    """Workers that hold the rest of the model, in the engine's order."""
    split: tuple[int, ...] = ()
    """Layers of each worker, then of each device."""
    rpc: tuple[str, ...] = ()
    """Addresses of its workers for the engine, `host:port`: always on loopback, whatever their node."""

    @property
    def gpus(self) -> tuple[PlacedDevice, ...]:
        return tuple(device for device in self.devices if device.device != CPU)

    @property
    def on_cpu(self) -> bool:
        """Whether it was decided that no GPU is used."""
        return bool(self.devices) and not self.gpus

    def applied_to(self, spec: ModelSpec) -> ModelSpec:
        """The model as it runs in this place."""
        return msgspec.structs.replace(
            spec,
            n_ctx=self.n_ctx or spec.n_ctx,
            n_parallel=self.n_parallel or spec.n_parallel,
            args=(*spec.args, *self.args),
            env={**spec.env, **self.env},
        )


class StartInstance(Record):
    """To a node: run this revision of this model."""

    instance: str
    model: str
    revision: int
    failures: int = 0
    """Failures in a row before this start."""
    option: Option | None = None
    """Placement; None: the engine chooses, and no memory is reserved."""
    epoch: int = 0
    """The scheduler's epoch: a node refuses orders of a superseded scheduler."""


class StopInstance(Record):
    """To a node: drain and end this instance."""

    instance: str
    reason: Reason = Reason.REQUESTED
    epoch: int | None = None
    """As in StartInstance; None: a user's command, valid in any epoch."""


class Accepted(Record):
    """The work was accepted; events report its progress."""

    accepted: bool = True


class ClearNode(Record):
    """To a node: end every instance. `drain_s`: how long running requests may take to finish."""

    drain_s: float = 5.0


class NodeCleared(Record):
    """All instances of the node have ended."""

    stopped: int


class NodeLeft(Record):
    """The node left deliberately; no alert until it returns."""

    node: str
    at: float
    """Unix seconds."""


class EngineOffer(Record):
    """An engine on a node; `problem` is the reason why it cannot be used there."""

    engine: str
    version: str | None = None
    problem: str | None = None


class Node(Record):
    """One machine that runs instances. Its key lives as long as its supervisor renews it."""

    node: str
    version: str
    started_at: float
    engines: tuple[EngineOffer, ...] = ()
    devices: tuple[NodeDevice, ...] = ()
    stores: tuple[str, ...] = ()
    """The stores of model files that it can read."""
    cordoned: bool = False
    """It accepts no new starts."""
    rpc: RpcOffer | None = None
    """Whether it can host workers for other nodes; None: its supervisor does not support it."""
    workers: tuple[Worker, ...] = ()
    """The parts that it holds now."""
