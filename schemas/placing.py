"""Who runs where: what a node has, what a model would take there, and what the scheduler would do."""

from schemas.base import Record


class NodeDevice(Record):
    """A device of a node as the scheduler counts with it."""

    device: str
    name: str
    memory_bytes: int
    """What all instances together may take there."""
    simulated: bool = False
    """It is not there: a file says it is. Models that are placed on it run elsewhere."""


class Need(Record):
    """Memory of one device."""

    device: str
    memory_bytes: int
    node: str | None = None
    """Whose device it is; None: of the option's own node."""


class WorkerPlace(Record):
    """Where a worker holds a part of a model."""

    node: str
    """`any` as long as nobody chose."""
    device: str
    memory_bytes: int


class Option(Record):
    """One way to run a model on one node: a profile on certain devices."""

    node: str
    profile: str | None = None
    """None: the model has no profiles."""
    devices: tuple[str, ...] = ()
    """Those it computes on, in the engine's order."""
    needs: tuple[Need, ...] = ()
    """What it takes, a device each; main memory (`cpu`) too where it computes elsewhere."""
    load_s: float | None = None
    """How long it took to load last time."""
    workers: tuple[WorkerPlace, ...] = ()
    """Where the rest of it is held, in the engine's order; their memory is among the needs once chosen."""
    split: tuple[int, ...] = ()
    """Layers of each worker, then of each device; empty: as the engine likes."""


class AskOptions(Record):
    """To a node: how could this revision of this model run there?"""

    model: str
    revision: int
    on_behalf_of: "OnBehalfOf | None" = None
    """Answer for that node, which lacks the files, as far as one that has them can."""


class OnBehalfOf(Record):
    """A node for which another one answers."""

    node: str
    engine: str
    """What it would run the model with."""
    devices: tuple[NodeDevice, ...]


class NodeOptions(Record):
    """How a node could run a model, best first."""

    options: tuple[Option, ...] = ()
    problem: str | None = None
    """Why it could not, in a sentence; the options are what a start that fails would take."""
    missing: tuple[str, ...] = ()
    """Files of the model that are not in its stores, where nothing else stands against it."""
    engine: str | None = None
    """What it would run the model with, once they are there."""


class Cordon(Record):
    """To a node: take new starts or not; `drain` also ends what runs there."""

    cordoned: bool = True
    drain: bool = False


class PlanQuery(Record):
    """What would happen if somebody asked for this model now?"""

    model: str


class PlanAnswer(Record):
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
    """What one instance took of one device, beside what was expected of it."""

    device: str
    used_bytes: int
    predicted_bytes: int


class MeasuredMemory(Record):
    """The last measured starts of one model in one profile on one node, oldest first."""

    uses: tuple[MeasuredUse, ...] = ()
    load_s: float | None = None
    """How long the last one took to load."""


class DesiredState(Record):
    """A person's word on a model, kept by the scheduler until it is fulfilled or overtaken."""

    model: str
    running: bool
    """Start it; else: keep it down until somebody asks for it."""
    at: float
    """Unix seconds."""


class WaitingModel(Record):
    """A model that is asked for and not served yet."""

    model: str
    reason: str
    """What it waits for, as the end of a sentence."""
    since: float
    """Unix seconds."""
