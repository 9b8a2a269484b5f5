"""Everything that metrics are made of, as it was at one moment."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from schemas.devices import Device
from schemas.downloads import Download
from schemas.instances import Instance, Node
from schemas.metrics import InstanceMetrics, Sample
from schemas.placing import WaitingModel
from services.monitor.metrics.broker import BrokerHealth
from services.monitor.metrics.lives import Lives
from services.monitor.metrics.requests import Requests


@dataclass(frozen=True, kw_only=True)
class World:
    """The mirrored state by the keys of its buckets, and what was counted."""

    now: float
    version: str = ""
    devices: Mapping[str, Device] = field(default_factory=dict)
    """By `node.device`; those that are silent are left out."""
    nodes: Mapping[str, Node] = field(default_factory=dict)
    expected: frozenset[str] = frozenset()
    """Nodes that belong to the yard, there or not, but for those that left on purpose."""
    instances: Mapping[str, Instance] = field(default_factory=dict)
    activity: Mapping[str, InstanceMetrics] = field(default_factory=dict)
    """What instances do, by instance."""
    waits: Mapping[str, WaitingModel] = field(default_factory=dict)
    downloads: Mapping[str, Download] = field(default_factory=dict)
    queue: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Messages of the work queue, by model and lane."""
    requests: Requests = field(default_factory=Requests)
    lives: Lives = field(default_factory=Lives)
    broker: BrokerHealth = field(default_factory=BrokerHealth)
    more: tuple[Sample, ...] = ()
    """What other parts of the monitor add."""
