"""State: JetStream key-value buckets, each with one writer role (a runner hands over to its supervisor)."""

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, Generic, TypeVar

import msgspec

from schemas.alerts import Alert, AlertRule, Silence
from schemas.base import WATCHERS, Role
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


class Bucket(Generic[V]):
    """One bucket.

    `expires`: values have a time to live, so the death of their writer shows. `history`: how many revisions
    of a key are retained, deletions included. `transient`: in the broker's memory alone.
    `renamed_fields`: fields of values that an earlier version wrote, and their names now.
    """

    def __init__(
        self,
        name: str,
        value: type[V],
        *,
        writers: Iterable[Role],
        readers: Iterable[Role],
        expires: bool = False,
        history: int = 1,
        transient: bool = False,
        renamed_fields: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.value = value
        self.writers = frozenset(writers)
        self.readers = frozenset(readers) | self.writers
        self.expires = expires
        self.history = history
        self.transient = transient
        self.renamed_fields = renamed_fields or {}

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
    "models",
    ModelSpec,
    writers=[Role.SUPERVISOR],
    readers=[*WATCHERS, Role.DOWNLOADER, Role.RUNNER, Role.MONITOR],
    history=20,
)
INSTANCES = Bucket(
    "instances",
    Instance,
    writers=[Role.RUNNER, Role.SUPERVISOR],
    readers=[*WATCHERS, Role.MONITOR, Role.DOWNLOADER],
    expires=True,
)
NODES = Bucket(
    "nodes",
    Node,
    writers=[Role.SUPERVISOR],
    readers=[*WATCHERS, Role.MONITOR, Role.DOWNLOADER],
    expires=True,
)
DEPARTURES = Bucket("departures", NodeLeft, writers=[Role.SUPERVISOR], readers=[*WATCHERS, Role.MONITOR])
"""Nodes that left on purpose and are not back, by node."""
DEVICES = Bucket(
    "devices",
    Device,
    writers=[Role.MONITOR],
    readers=[*WATCHERS, Role.SUPERVISOR, Role.RUNNER],
    expires=True,
)
ADAPTERS = Bucket("adapters", Adapter, writers=[Role.MONITOR], readers=WATCHERS, expires=True)
DOWNLOADS = Bucket(
    "downloads",
    Download,
    writers=[Role.DOWNLOADER],
    readers=[*WATCHERS, Role.MONITOR, Role.SUPERVISOR],
    renamed_fields={"wishes": "overrides", "trouble": "problem"},
)
LIBRARY = Bucket("library", LibraryEntry, writers=[Role.DOWNLOADER], readers=[*WATCHERS, Role.SUPERVISOR])
STORES = Bucket(
    "stores", StoreSpace, writers=[Role.DOWNLOADER], readers=[*WATCHERS, Role.SUPERVISOR], expires=True
)
TRASH = Bucket("trash", TrashedEntry, writers=[Role.DOWNLOADER], readers=[*WATCHERS, Role.SUPERVISOR])
JOBS = Bucket(
    "jobs", LibraryJob, writers=[Role.DOWNLOADER], readers=[*WATCHERS, Role.SUPERVISOR], expires=True
)
FILES = Bucket("files", StoredFile, writers=[Role.GATEWAY], readers=WATCHERS)
BATCHES = Bucket("batches", Batch, writers=[Role.GATEWAY], readers=WATCHERS)
LEASES = Bucket("leases", Lease, writers=[Role.GATEWAY, Role.SUPERVISOR], readers=WATCHERS, expires=True)
GROUPS = Bucket("groups", ModelGroup, writers=[Role.SUPERVISOR], readers=WATCHERS)
WAITING = Bucket(
    "waiting", WaitingModel, writers=[Role.SUPERVISOR], readers=[*WATCHERS, Role.MONITOR], expires=True
)
DESIRED_STATE = Bucket(
    "desired_state", DesiredState, writers=[Role.SUPERVISOR], readers=WATCHERS, transient=True
)
MEMORY = Bucket("memory", MeasuredMemory, writers=[Role.SUPERVISOR], readers=WATCHERS)
ALERTS = Bucket("alerts", AlertRule, writers=[Role.MONITOR], readers=WATCHERS)
ALERT_STATES = Bucket("alert_states", Alert, writers=[Role.MONITOR], readers=WATCHERS, expires=True)
SILENCES = Bucket("silences", Silence, writers=[Role.MONITOR], readers=WATCHERS, expires=True)
WEBHOOKS = Bucket("webhooks", Webhook, writers=[Role.MONITOR], readers=WATCHERS)
WEBHOOK_STATES = Bucket("webhook_states", WebhookState, writers=[Role.MONITOR], readers=WATCHERS)
PRICES = Bucket("prices", PriceList, writers=[Role.MONITOR], readers=WATCHERS)
BUDGETS = Bucket("budgets", Budget, writers=[Role.MONITOR], readers=WATCHERS)
SPENDING = Bucket("spending", BudgetState, writers=[Role.MONITOR], readers=WATCHERS)
"""Running totals, by budget."""
REPORTS = Bucket("reports", Report, writers=[Role.MONITOR], readers=WATCHERS)

ALL: tuple[Bucket[Any], ...] = (
    *(MODELS, GROUPS, INSTANCES, NODES, DEPARTURES, DEVICES, ADAPTERS, MEMORY, WAITING, DESIRED_STATE),
    *(DOWNLOADS, LIBRARY, STORES, TRASH, JOBS, FILES, BATCHES, LEASES),
    *(ALERTS, ALERT_STATES, SILENCES, WEBHOOKS, WEBHOOK_STATES),
    *(PRICES, BUDGETS, SPENDING, REPORTS),
)
RETIRED_STREAMS = ("KV_waits", "KV_wishes")
"""Buckets of an earlier version, with nothing to keep in them; the supervisor deletes them."""
