"""The snapshot that a plan is made from, and the plan."""

from collections.abc import Collection, Iterable

import msgspec

from schemas.base import Record
from schemas.instances import COMING, LIVE, SERVING, Instance, InstanceState, Reason
from schemas.models import ModelSpec
from schemas.placement import Option
from schemas.registry import GroupKind, ModelGroup

Place = tuple[str, str]
"""A node and one of its devices."""


class Demand(Record):
    queued: int = 0
    """Requests in its queue; those in flight count until they are answered."""
    since: float | None = None
    """Unix seconds since which it is demanded and no instance is ready."""


class NodeCapacity(Record):
    """The memory of a node that its instances may use altogether."""

    memory_bytes: dict[str, int]
    """By device: its size less what other programs use."""
    cordoned: bool = False
    """It takes no new start."""


class FetchOption(Record):
    """An option of a node that lacks files of the model."""

    option: Option
    source: str
    """Where the files come from, as text."""
    size: str | None = None
    """Their size, as text."""


class SwapLimits(Record):
    """How fast models may replace each other in the same memory."""

    max_wait_s: float = 20.0
    """After so long a waiting model evicts even an instance in use, which drains first."""
    min_dwell_s: float = 5.0
    """An instance stays at least so long after it got ready."""


class World(Record):
    now: float
    models: dict[str, ModelSpec]
    """By name."""
    instances: tuple[Instance, ...] = ()
    demand: dict[str, Demand] = msgspec.field(default_factory=dict)
    """By model name."""
    start_requested: frozenset[str] = frozenset()
    """Models with an explicit start command, with or without requests."""
    stop_requested: frozenset[str] = frozenset()
    """Models with an explicit stop command: they stay stopped until they are requested after that."""
    nodes: dict[str, NodeCapacity] = msgspec.field(default_factory=dict)
    options: dict[str, tuple[Option, ...]] = msgspec.field(default_factory=dict)
    """How each model can run, best first; none before its nodes were queried."""
    problems: dict[str, str] = msgspec.field(default_factory=dict)
    """Why a model has no usable option."""
    fetch_options: dict[str, tuple[FetchOption, ...]] = msgspec.field(default_factory=dict)
    """How each model could run once its files are fetched, best first."""
    fetches_running: dict[str, str] = msgspec.field(default_factory=dict)
    """The progress of fetches, by model."""
    fetches_failed: dict[str, str] = msgspec.field(default_factory=dict)
    """Why the files of a model could not be fetched."""
    outdated: frozenset[str] = frozenset()
    """Instances started with a spec that their model does not have any more."""
    groups: tuple[ModelGroup, ...] = ()
    limits: SwapLimits = SwapLimits()

    def instances_of(self, model: str) -> list[Instance]:
        """The instances of a model, oldest change first."""
        return sorted(self.instances_of_any((model,)), key=lambda instance: instance.changed_at)

    def instances_of_any(self, models: Collection[str]) -> list[Instance]:
        return [instance for instance in self.instances if instance.model in models]

    def serving(self, model: str) -> list[Instance]:
        """Its instances that take requests now or soon."""
        return list(filter(is_serving, self.instances_of(model)))

    def partners(self, model: str, kind: GroupKind) -> set[str]:
        """The models that share a group of this kind with `model`."""
        groups = (group.models for group in self.groups if group.kind is kind and model in group.models)
        return {partner for models in groups for partner in models} - {model}

    def is_demanded(self, model: str) -> bool:
        """Whether requests are queued for it, or a start command is pending."""
        return model in self.start_requested or self.queued(model) > 0

    def queued(self, model: str) -> int:
        """Requests of a model that are not answered."""
        return self.demand[model].queued if model in self.demand else 0

    def waiting_since(self, model: str) -> float:
        """Since when it is demanded and not served; now if it is not waiting."""
        demand = self.demand.get(model)
        return demand.since if demand and demand.since is not None else self.now


class PlannedStart(Record):
    model: str
    option: Option
    failures: int = 0


class PlannedFetch(Record):
    """Fetch the files of this model to this node."""

    model: str
    node: str


class PlannedStop(Record):
    instance: str
    model: str
    node: str
    reason: Reason


class PlacementPlan(Record):
    """The decisions, and for every waiting model the reason."""

    starts: tuple[PlannedStart, ...] = ()
    stops: tuple[PlannedStop, ...] = ()
    fetches: tuple[PlannedFetch, ...] = ()
    reasons: dict[str, str] = msgspec.field(default_factory=dict)
    unsatisfiable: frozenset[str] = frozenset()
    """Waiting models that waiting does not help: no device is large enough, or their files cannot be had."""
    next_evaluation_at: float | None = None
    """Unix seconds at which the plan may differ although nothing happened."""


def is_live(instance: Instance) -> bool:
    """Whether it holds memory, or will."""
    return instance.state in LIVE


def is_serving(instance: Instance) -> bool:
    """Whether it takes requests now or soon."""
    return instance.state in SERVING


def is_starting(instance: Instance) -> bool:
    return instance.state in COMING


def is_ready(instance: Instance) -> bool:
    return instance.state is InstanceState.READY


def idle_since(instance: Instance) -> float:
    """When it last finished a request, or got ready."""
    return max(instance.used_at or 0.0, instance.ready_at or instance.changed_at)


def join_names(names: Iterable[str]) -> str:
    """Names as a list in a sentence, each once; empty if there are none."""
    *head, last = list(dict.fromkeys(names)) or [""]
    return f"{', '.join(head)} and {last}" if head else last
