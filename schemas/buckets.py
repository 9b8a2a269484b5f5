"""State: JetStream key-value buckets, each with one writer role (a runner hands over to its supervisor)."""

from collections.abc import Collection, Mapping
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from typing import Any, Generic, TypeVar

import msgspec

from schemas.alerts import Alert, AlertRule, Silence
from schemas.base import DOWNLOADER, GATEWAY, MONITOR, RUNNER, SUPERVISOR, WATCHERS, Role
from schemas.batches import Batch, StoredFile
from schemas.budgets import Budget, BudgetState
from schemas.devices import Adapter, Device
from schemas.downloads import Download
from schemas.instances import Instance, Node, NodeLeft
from schemas.leases import Lease
from schemas.library import LibraryEntry, LibraryJob, StoreSpace, TrashedEntry
from schemas.models import ModelSpec
from schemas.placement import DesiredState, MeasuredMemory, WaitingModel
from schemas.prices import PriceList
from schemas.registry import ModelGroup
from schemas.usage import Report
from schemas.webhooks import Webhook, WebhookState

V = TypeVar("V")


@dataclass(eq=False)
class Bucket(Generic[V]):
    """One bucket."""

    name: str
    value: type[V]
    _: KW_ONLY
    writers: Collection[Role]
    readers: Collection[Role] = WATCHERS
    """The writers are added to them."""
    expires: bool = False
    """Values have a time to live, so the death of their writer shows."""
    history: int = 1
    """How many revisions of a key are retained, deletions included."""
    transient: bool = False
    """In the broker's memory alone."""
    renamed_fields: Mapping[str, str] = field(default_factory=dict)
    """Fields of values that an earlier version wrote, and their names now."""

    def __post_init__(self) -> None:
        self.readers = frozenset({*self.readers, *self.writers})

    @property
    def stream(self) -> str:
        """The JetStream stream behind the bucket."""
        return f"KV_{self.name}"

    def subject(self, key: str) -> str:
        return f"$KV.{self.name}.{key}"

    @cached_property
    def _decoder(self) -> msgspec.json.Decoder[V]:
        return msgspec.json.Decoder(self.value)

    def encode(self, value: V) -> bytes:
        return msgspec.json.encode(value)

    def decode(self, data: bytes) -> V:
        try:
            return self._decoder.decode(data)
        except RecursionError:
            raise msgspec.DecodeError("JSON is nested too deeply") from None


MODELS = Bucket(
    "models", ModelSpec, writers=[SUPERVISOR], readers=[*WATCHERS, DOWNLOADER, RUNNER, MONITOR], history=20
)
INSTANCES = Bucket(
    "instances",
    Instance,
    writers=[RUNNER, SUPERVISOR],
    readers=[*WATCHERS, MONITOR, DOWNLOADER],
    expires=True,
)
NODES = Bucket("nodes", Node, writers=[SUPERVISOR], readers=[*WATCHERS, MONITOR, DOWNLOADER], expires=True)
DEPARTURES = Bucket("departures", NodeLeft, writers=[SUPERVISOR], readers=[*WATCHERS, MONITOR])
"""Nodes that left on purpose and are not back, by node."""
DEVICES = Bucket("devices", Device, writers=[MONITOR], readers=[*WATCHERS, SUPERVISOR, RUNNER], expires=True)
ADAPTERS = Bucket("adapters", Adapter, writers=[MONITOR], expires=True)
DOWNLOADS = Bucket(
    "downloads",
    Download,
    writers=[DOWNLOADER],
    readers=[*WATCHERS, MONITOR, SUPERVISOR],
    renamed_fields={"wishes": "overrides", "trouble": "problem"},
)
LIBRARY = Bucket("library", LibraryEntry, writers=[DOWNLOADER], readers=[*WATCHERS, SUPERVISOR])
STORES = Bucket("stores", StoreSpace, writers=[DOWNLOADER], readers=[*WATCHERS, SUPERVISOR], expires=True)
TRASH = Bucket("trash", TrashedEntry, writers=[DOWNLOADER], readers=[*WATCHERS, SUPERVISOR])
JOBS = Bucket("jobs", LibraryJob, writers=[DOWNLOADER], readers=[*WATCHERS, SUPERVISOR], expires=True)
FILES = Bucket("files", StoredFile, writers=[GATEWAY])
BATCHES = Bucket("batches", Batch, writers=[GATEWAY])
LEASES = Bucket("leases", Lease, writers=[GATEWAY, SUPERVISOR], expires=True)
GROUPS = Bucket("groups", ModelGroup, writers=[SUPERVISOR])
WAITING = Bucket("waiting", WaitingModel, writers=[SUPERVISOR], readers=[*WATCHERS, MONITOR], expires=True)
DESIRED_STATE = Bucket("desired_state", DesiredState, writers=[SUPERVISOR], transient=True)
MEMORY = Bucket("memory", MeasuredMemory, writers=[SUPERVISOR])
ALERTS = Bucket("alerts", AlertRule, writers=[MONITOR])
ALERT_STATES = Bucket("alert_states", Alert, writers=[MONITOR], expires=True)
SILENCES = Bucket("silences", Silence, writers=[MONITOR], expires=True)
WEBHOOKS = Bucket("webhooks", Webhook, writers=[MONITOR])
WEBHOOK_STATES = Bucket("webhook_states", WebhookState, writers=[MONITOR])
PRICES = Bucket("prices", PriceList, writers=[MONITOR])
BUDGETS = Bucket("budgets", Budget, writers=[MONITOR])
SPENDING = Bucket("spending", BudgetState, writers=[MONITOR])
"""Running totals, by budget."""
REPORTS = Bucket("reports", Report, writers=[MONITOR])

ALL: tuple[Bucket[Any], ...] = (
    *(MODELS, GROUPS, INSTANCES, NODES, DEPARTURES, DEVICES, ADAPTERS, MEMORY, WAITING, DESIRED_STATE),
    *(DOWNLOADS, LIBRARY, STORES, TRASH, JOBS, FILES, BATCHES, LEASES),
    *(ALERTS, ALERT_STATES, SILENCES, WEBHOOKS, WEBHOOK_STATES),
    *(PRICES, BUDGETS, SPENDING, REPORTS),
)
RETIRED_STREAMS = ("KV_waits", "KV_wishes")
"""Buckets of an earlier version, with nothing to keep in them; the supervisor deletes them."""
