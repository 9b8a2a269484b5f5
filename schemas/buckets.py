"""State: JetStream key-value buckets, each with one writer role (a runner hands over to its supervisor)."""

from collections.abc import Iterable, Mapping
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


class Bucket(Generic[V]):
    """One bucket.

    `readers`: besides its writers, the gateway and the operator, which read every bucket.
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
        readers: Iterable[Role] = (),
        expires: bool = False,
        history: int = 1,
        transient: bool = False,
        renamed_fields: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.value = value
        self.writers = frozenset(writers)
        self.readers = frozenset((*WATCHERS, *readers)) | self.writers
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


MODELS = Bucket("models", ModelSpec, writers=[SUPERVISOR], readers=[DOWNLOADER, RUNNER, MONITOR], history=20)
GROUPS = Bucket("groups", ModelGroup, writers=[SUPERVISOR])
INSTANCES = Bucket(
    "instances", Instance, writers=[RUNNER, SUPERVISOR], readers=[MONITOR, DOWNLOADER], expires=True
)
NODES = Bucket("nodes", Node, writers=[SUPERVISOR], readers=[MONITOR, DOWNLOADER], expires=True)
DEPARTURES = Bucket("departures", NodeLeft, writers=[SUPERVISOR], readers=[MONITOR])
"""Nodes that left on purpose and are not back, by node."""
DEVICES = Bucket("devices", Device, writers=[MONITOR], readers=[SUPERVISOR, RUNNER], expires=True)
ADAPTERS = Bucket("adapters", Adapter, writers=[MONITOR], expires=True)
MEMORY = Bucket("memory", MeasuredMemory, writers=[SUPERVISOR])
WAITING = Bucket("waiting", WaitingModel, writers=[SUPERVISOR], readers=[MONITOR], expires=True)
DESIRED_STATE = Bucket("desired_state", DesiredState, writers=[SUPERVISOR], transient=True)
DOWNLOADS = Bucket(
    "downloads",
    Download,
    writers=[DOWNLOADER],
    readers=[MONITOR, SUPERVISOR],
    renamed_fields={"wishes": "overrides", "trouble": "problem"},
)
LIBRARY = Bucket("library", LibraryEntry, writers=[DOWNLOADER], readers=[SUPERVISOR])
STORES = Bucket("stores", StoreSpace, writers=[DOWNLOADER], readers=[SUPERVISOR], expires=True)
TRASH = Bucket("trash", TrashedEntry, writers=[DOWNLOADER], readers=[SUPERVISOR])
JOBS = Bucket("jobs", LibraryJob, writers=[DOWNLOADER], readers=[SUPERVISOR], expires=True)
FILES = Bucket("files", StoredFile, writers=[GATEWAY])
BATCHES = Bucket("batches", Batch, writers=[GATEWAY])
LEASES = Bucket("leases", Lease, writers=[GATEWAY, SUPERVISOR], expires=True)
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

ALL: tuple[Bucket[Any], ...] = tuple(value for value in globals().values() if isinstance(value, Bucket))
RETIRED_STREAMS = ("KV_waits", "KV_wishes")
"""Buckets of an earlier version, with nothing to keep in them; the supervisor deletes them."""
