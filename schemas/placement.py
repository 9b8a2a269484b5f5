"""Placement: what a node offers, what a model needs there, and what the scheduler would do."""

from schemas.base import Record
from schemas.profiles import ANY_GPU, CPU


class NodeDevice(Record):
    """A device of a node as the scheduler counts with it."""

    device: str
    name: str
    memory_bytes: int
    """Memory available to all instances together."""
    simulated: bool = False
    """Simulated by a file. Models placed on it run on another device."""

    def matches(self, name: str) -> bool:
        """Whether `name` is its id, its name, or stands for any GPU and it is one."""
        return name in (self.device, self.name) or (name == ANY_GPU and self.device != CPU)


class MemoryNeed(Record):
    """Memory of one device."""

    device: str
    memory_bytes: int
    node: str | None = None
    """The node of the device; None: the option's own node."""


class WorkerPlacement(Record):
    """A part of a model on a worker."""

    node: str
    """`any` until a node is chosen."""
    device: str
    memory_bytes: int


class Option(Record):
    """One way to run a model on one node: a profile on certain devices."""

    node: str
    profile: str | None = None
    """None: the model has no profiles."""
    devices: tuple[str, ...] = ()
    """Devices that it computes on, in the engine's order."""
    needs: tuple[MemoryNeed, ...] = ()
    """Memory per device, including main memory (`cpu`) where it computes on a GPU."""
    load_s: float | None = None
    """Duration of the last load."""
    workers: tuple[WorkerPlacement, ...] = ()
    """Workers that hold the rest of it, in the engine's order; once chosen, their memory is in `needs`."""
    split: tuple[int, ...] = ()
    """Layers of each worker, then of each device; empty: as the engine likes."""


class GetNodeOptions(Record):
    """To a node: how could this revision of this model run there?"""

    model: str
    revision: int
    on_behalf_of: "OnBehalfOf | None" = None
    """Answer for that node, which lacks the files, as far as one that has them can."""


class OnBehalfOf(Record):
    """A node for which another one answers."""

    node: str
    engine: str
    """The engine that it would use."""
    devices: tuple[NodeDevice, ...]


class NodeOptions(Record):
    """The options of a node for a model, best first."""

    options: tuple[Option, ...] = ()
    problem: str | None = None
    """Why it could not, in a sentence; the options are what a start that fails would take."""
    missing: tuple[str, ...] = ()
    """Files of the model that are not in its stores, where nothing else stands against it."""
    engine: str | None = None
    """The engine that it would use once the files are present."""


class Cordon(Record):
    """To a node: take new starts or not; `drain` also ends what runs there."""

    cordoned: bool = True
    drain: bool = False


class PlanQuery(Record):
    """A dry run of a request for this model."""

    model: str


class PlanReply(Record):
    """The scheduler's answer, for people in `text`; nothing was done."""

    model: str
    text: str
    node: str | None = None
    profile: str | None = None
    evicts: tuple[str, ...] = ()
    """Models that would have to go."""
    keeps: tuple[str, ...] = ()
    """Models that keep running."""
    expected_s: float | None = None
    """About how long until it answers."""


class MeasuredUse(Record):
    """Measured memory of one instance on one device, beside the prediction."""

    device: str
    used_bytes: int
    predicted_bytes: int


class MeasuredMemory(Record):
    """The last measured starts of one model in one profile on one node, oldest first."""

    uses: tuple[MeasuredUse, ...] = ()
    load_s: float | None = None
    """Duration of the last load."""


class DesiredState(Record):
    """A user's command for a model, stored by the scheduler until it is fulfilled or superseded."""

    model: str
    running: bool
    """Running: start it; otherwise: keep it stopped until it is requested."""
    at: float
    """Unix seconds."""


class Refusal(Record):
    """A model that no waiting helps: its requests are refused at once."""

    error: str
    """Why, in a sentence."""
    retry_at: float
    """Unix seconds from which requests are accepted again."""


class WaitingModel(Record):
    """A requested model that has no ready instance yet."""

    model: str
    reason: str
    """The reason, as the end of a sentence."""
    since: float
    """Unix seconds."""
    refused: Refusal | None = None
    """None: its requests wait."""
