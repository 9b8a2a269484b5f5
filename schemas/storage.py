"""What the yard keeps, how much of it there is, and taking some of it away."""

from schemas.base import Record


class AskStorage(Record):
    """Everything."""


class StoreStats(Record):
    """One stream, bucket or table."""

    name: str
    kind: str
    """`stream`, `bucket` or `table`."""
    messages: int
    """Or rows."""
    bytes: int | None = None
    """None where it cannot be told from what is around it."""
    oldest_at: float | None = None
    max_bytes: int | None = None
    max_age_s: float | None = None


class DatabaseStats(Record):
    """One SQLite file."""

    path: str
    bytes: int
    """With its log."""
    free_bytes: int
    """What a vacuum would give back."""


class ModelData(Record):
    """What is kept of one model."""

    model: str
    requests: int
    loaded_s: float
    priced: bool
    """Whether it has a price of its own."""
    orphan: bool
    """The registry does not know it any more."""


class DiskFull(Record):
    """When a disk will be full if its use goes on as it did: the line through the medians of all slopes."""

    node: str
    disk: str
    """The folder it was measured at."""
    free_bytes: int
    total_bytes: int
    days: float | None = None
    """None: it does not fill up, or too little is known."""
    soonest_days: float | None = None
    latest_days: float | None = None
    """None: perhaps never."""


class StorageReport(Record):
    """Everything that is kept."""

    database: DatabaseStats
    stores: tuple[StoreStats, ...]
    models: tuple[ModelData, ...]
    disks: tuple[DiskFull, ...] = ()


class RemoveUsage(Record):
    """Take the usage of a model away for good. It must have left the registry."""

    model: str


class UsageRemoved(Record):
    """So many records are gone."""

    model: str
    requests: int


class Vacuum(Record):
    """Apply what retention rules, and give free space back to the disk."""


class Vacuumed(Record):
    """Bytes of the file before and after, and what retention took."""

    before_bytes: int
    after_bytes: int
    requests_removed: int
