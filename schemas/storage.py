"""Stored data: what there is, how large it is, and its removal."""

from schemas.base import Record


class GetStorageReport(Record):
    """Everything."""


class StoreStats(Record):
    """One stream, bucket or table."""

    name: str
    kind: str
    """`stream`, `bucket` or `table`."""
    messages: int
    """Or rows."""
    bytes: int | None = None
    """None where it cannot be attributed."""
    oldest_at: float | None = None
    max_bytes: int | None = None
    max_age_s: float | None = None


class DatabaseStats(Record):
    """One SQLite file."""

    path: str
    bytes: int
    """With its log."""
    free_bytes: int
    """Bytes that a vacuum would free."""


class ModelData(Record):
    """Stored data of one model."""

    model: str
    requests: int
    loaded_s: float
    priced: bool
    """Whether it has a price of its own."""
    orphan: bool
    """The model is not in the registry."""


class DiskFull(Record):
    """When a disk fills up if the trend continues: the Theil-Sen line."""

    node: str
    disk: str
    """The folder it was measured at."""
    free_bytes: int
    total_bytes: int
    days: float | None = None
    """None: no growth, or too little data."""
    soonest_days: float | None = None
    latest_days: float | None = None
    """None: perhaps never."""


class StorageReport(Record):
    """All stored data."""

    database: DatabaseStats
    stores: tuple[StoreStats, ...]
    models: tuple[ModelData, ...]
    disks: tuple[DiskFull, ...] = ()


class RemoveUsage(Record):
    """Take the usage of a model away for good. It must have left the registry."""

    model: str


class UsageRemoved(Record):
    """How many records were removed."""

    model: str
    requests: int


class Vacuum(Record):
    """Apply what retention rules, and give free space back to the disk."""


class Vacuumed(Record):
    """Bytes of the file before and after, and what retention took."""

    before_bytes: int
    after_bytes: int
    requests_removed: int
