"""What the decision is made from, and what it is."""

import msgspec

from schemas.base import Record
from schemas.groups import GroupKind, ModelGroup
from schemas.instances import COMING, LIVE, SERVING, Instance, InstanceState, Reason
from schemas.models import ModelSpec
from schemas.placing import Option

Place = tuple[str, str]
"""A node and one of its devices."""


class Demand(Record):
    """How much a model is asked for."""

    waiting: int = 0
    """Requests in its queue; those at work count until they are answered."""
    since: float | None = None
    """Unix seconds since when somebody waits and nobody serves."""


class NodeRoom(Record):
    """What the instances of a node may take altogether."""

    memory_bytes: dict[str, int]
    """By device: its size without what others use."""
    cordoned: bool = False
    """It takes no new start."""


class Fetch(Record):
    """A way to run a model on a node that lacks its files, once they are there."""

    option: Option
    source: str
    """Where they come from, for people."""
    size: str | None = None
    """How much that is, for people."""


class Rules(Record):
    """How fast models may take turns on the same memory."""

    max_wait_s: float = 20.0
    """After so long a waiting model takes the memory even of a model at work, which drains first."""
    min_dwell_s: float = 5.0
    """A model that got ready stays at least so long."""


class World(Record):
    """Everything the decision depends on."""

    now: float
    models: dict[str, ModelSpec]
    """By name."""
    instances: tuple[Instance, ...] = ()
    demand: dict[str, Demand] = msgspec.field(default_factory=dict)
    """By model name."""
    wanted: frozenset[str] = frozenset()
    """Models that somebody asked to start, whatever the queue says."""
    held: frozenset[str] = frozenset()
    """Models that somebody stopped: they stay down until they are gone, and somebody asks for them."""
    nodes: dict[str, NodeRoom] = msgspec.field(default_factory=dict)
    options: dict[str, tuple[Option, ...]] = msgspec.field(default_factory=dict)
    """For each model the ways to run it, best first; nothing for one whose nodes were not asked yet."""
    problems: dict[str, str] = msgspec.field(default_factory=dict)
    """Why there is no option for a model."""
    fetches: dict[str, tuple[Fetch, ...]] = msgspec.field(default_factory=dict)
    """For each model the ways that its files would have to be fetched for, best first."""
    fetching: dict[str, str] = msgspec.field(default_factory=dict)
    """Models whose files are on their way, and how far that is."""
    unfetched: dict[str, str] = msgspec.field(default_factory=dict)
    """Why a model's files could not be fetched."""
    replaced: frozenset[str] = frozenset()
    """Instances that run what their model no longer is."""
    groups: tuple[ModelGroup, ...] = ()
    rules: Rules = Rules()

    def of(self, model: str) -> list[Instance]:
        """The instances of a model, oldest first."""
        return sorted((one for one in self.instances if one.model == model), key=lambda one: one.changed_at)

    def others(self, model: str, kind: GroupKind) -> set[str]:
        """The models that share a group of this kind with `model`."""
        groups = (group.models for group in self.groups if group.kind is kind and model in group.models)
        return {other for models in groups for other in models} - {model}

    def asked(self, model: str) -> bool:
        """Whether somebody waits for it, or wished for it."""
        return model in self.wanted or self.waiting(model) > 0

    def waiting(self, model: str) -> int:
        """Requests of a model that are not answered."""
        return self.demand[model].waiting if model in self.demand else 0


class StartModel(Record):
    """Start an instance of this model there."""

    model: str
    option: Option
    failures: int = 0


class FetchModel(Record):
    """Have the files of this model brought to this node."""

    model: str
    node: str


class StopModel(Record):
    """Drain and stop this instance."""

    instance: str
    model: str
    node: str
    reason: Reason


class Plan(Record):
    """What to do, and for every model that waits, why it does."""

    starts: tuple[StartModel, ...] = ()
    stops: tuple[StopModel, ...] = ()
    fetches: tuple[FetchModel, ...] = ()
    reasons: dict[str, str] = msgspec.field(default_factory=dict)
    hopeless: frozenset[str] = frozenset()
    """Those of them that no waiting helps: no device is large enough, or their files cannot be had."""
    look_again_at: float | None = None
    """Unix seconds at which the world looks different without any event."""


def is_live(instance: Instance) -> bool:
    """Whether it has memory, or will."""
    return instance.state in LIVE


def is_serving(instance: Instance) -> bool:
    """Whether it takes requests now or soon."""
    return instance.state in SERVING


def is_coming(instance: Instance) -> bool:
    """Whether it is being started."""
    return instance.state in COMING


def is_ready(instance: Instance) -> bool:
    """Whether it takes requests now."""
    return instance.state is InstanceState.READY


def resting_since(instance: Instance) -> float:
    """When it last had something to do, or got ready."""
    return max(instance.used_at or 0.0, instance.ready_at or instance.changed_at)
