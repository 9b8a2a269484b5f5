"""A bucket that nobody else writes: read once, known from then on."""

from typing import Generic, TypeVar

from modelyard.bus.connection import Bus
from modelyard.bus.reads import read_bucket
from modelyard.bus.records import BucketStore
from schemas.buckets import Bucket
from schemas.errors import Conflict

V = TypeVar("V")


class Owned(Generic[V]):
    """Its values, and compare-and-set on them."""

    def __init__(self, bus: Bus, bucket: Bucket[V], values: dict[str, V]) -> None:
        self.values = values
        self._bucket = bucket
        self._store = BucketStore(bus, bucket)

    @classmethod
    async def read(cls, bus: Bus, bucket: Bucket[V]) -> "Owned[V]":
        """As the broker has it now."""
        return cls(bus, bucket, await read_bucket(bus, bucket))

    async def revision(self, key: str) -> int:
        """Its revision now; 0 if there is none."""
        entry = await self._store.entry(key)
        return entry[1] if entry else 0

    async def put(self, key: str, value: V, *, expected: int | None = None, ttl_s: int | None = None) -> int:
        """Write and return the revision; Conflict if it is not the one that the caller saw."""
        last = await self._expected(key, expected)
        revision = await self._store.put(key, value, last=last, ttl_s=ttl_s)
        self.values[key] = value
        return revision

    async def delete(self, key: str, *, expected: int | None = None) -> None:
        """Delete; Conflict as in `put`."""
        await self._store.delete(key, last=await self._expected(key, expected))
        self.values.pop(key, None)

    async def _expected(self, key: str, expected: int | None) -> int:
        value, last = await self._store.head(key)
        revision = last if value is not None else 0
        if expected not in (None, revision):
            raise Conflict(
                f"{key} has revision {revision} now, not {expected}: somebody changed it meanwhile. "
                "Read it again and repeat the change.",
                param="revision",
            )
        return last
