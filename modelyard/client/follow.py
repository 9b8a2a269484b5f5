"""Following records to their ends: downloads, jobs, and instances that start."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from modelyard.bus.connection import Bus
from modelyard.bus.reads import read_bucket, read_model
from modelyard.bus.records import BucketCache
from modelyard.bus.tasks import Tasks
from schemas import buckets
from schemas.buckets import Bucket
from schemas.errors import BrokerUnavailable, NotFound, StartFailed
from schemas.instances import COMING, LIVE, Instance, InstanceState
from schemas.subject import Subject

_READ_AFTER_S = 3.0
"""After this long without an update the bucket is read: progress, and even an event, may be lost."""
_MAX_FAILED_READS = 20
_ENDING = LIVE - COMING - {InstanceState.READY} | {InstanceState.STOPPED}


class Stateful(Protocol):
    """A record with a state."""

    @property
    def state(self) -> str: ...


V = TypeVar("V", bound=Stateful)


@dataclass
class RecordFollower(Generic[V]):
    """Follows records of a bucket whose key is their field `noun`, by messages on some subjects."""

    bus: Bus
    noun: str
    bucket: Bucket[V]
    subjects: Sequence[Subject[V]]
    ended: Container[str]

    def key(self, record: V) -> str:
        return str(getattr(record, self.noun))

    @contextlib.asynccontextmanager
    async def updates(self, **tokens: str) -> AsyncGenerator[asyncio.Queue[V | None], None]:
        """Every message; None after a reconnect, when some may be lost."""
        updates = asyncio.Queue[V | None]()

        async def on_update(_: dict[str, str], update: V) -> None:
            updates.put_nowait(update)

        subs = [await self.bus.subscribe(subject, on_update, **tokens) for subject in self.subjects]
        remove_hook = self.bus.on_reconnect(lambda: updates.put_nowait(None))
        try:
            yield updates
        finally:
            remove_hook()
            if self.bus.connected:
                for sub in subs:
                    await sub.unsubscribe()

    async def follow(
        self, begin: Callable[[], Awaitable[Iterable[V]]], **tokens: str
    ) -> AsyncGenerator[V, None]:
        """What `begin` returns, and every change of these records until all of them have ended."""
        # The subscription comes first: all may be over before the reply of `begin` is read here.
        async with self.updates(**tokens) as updates:
            latest = {self.key(record): record for record in await begin()}
            for record in tuple(latest.values()):
                yield record
            while any(record.state not in self.ended for record in latest.values()):
                for update in await self._next_updates(updates, latest):
                    latest[self.key(update)] = update
                    yield update

    async def _next_updates(self, updates: asyncio.Queue[V | None], latest: Mapping[str, V]) -> list[V]:
        """The next states of these records that differ from the latest ones."""
        failed_reads = 0
        while True:
            update = None
            # Not wait_for: before Python 3.12 it swallows a Ctrl-C that comes together with an update.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_READ_AFTER_S):
                    update = await updates.get()
            try:
                states, failed_reads = [update] if update else await self._read_open(latest), 0
            except BrokerUnavailable:
                failed_reads += 1
                if failed_reads == _MAX_FAILED_READS:
                    raise
                continue
            if changed := [state for state in states if latest.get(self.key(state), state) != state]:
                return changed

    async def _read_open(self, latest: Mapping[str, V]) -> list[V]:
        keys = [key for key, record in latest.items() if record.state not in self.ended]
        stored = await read_bucket(self.bus, self.bucket, keys[0] if len(keys) == 1 else ">")
        return [self.record(stored, key) for key in keys]

    def record(self, stored: Mapping[str, V], key: str) -> V:
        """The record under `key`; NotFound if there is none."""
        if key not in stored:
            raise NotFound(f"The {self.noun} {key} is no longer known in the yard.", param=self.noun)
        return stored[key]


async def follow_start(bus: Bus, model: str, instance: str | None = None) -> AsyncGenerator[Instance, None]:
    """Every state of `model` until it is ready, the last one included; StartFailed if it fails.

    Pass the `instance` that `start` returned, so that an earlier failure is not taken for this start's.
    """
    name = (await read_model(bus, model)).name
    latest: Instance | None = None
    async with Tasks() as tasks:
        cache = await BucketCache.start(bus, buckets.INSTANCES, tasks)
        while latest is None or latest.state is not InstanceState.READY:
            await cache.until(
                lambda values, before=latest: leading(values.values(), name, instance) != before  # type: ignore[misc]
            )
            latest = leading(cache.values.values(), name, instance)
            _check(latest, name, followed=instance is not None)
            if latest is not None:
                yield latest


def leading(instances: Iterable[Instance], model: str, instance: str | None) -> Instance | None:
    """The instance that decides whether `model` gets ready: a ready one, else `instance`, else the newest."""

    def rank(other: Instance) -> int:
        if other.state is InstanceState.READY:
            return 3
        if instance is not None:
            return 2 if other.instance == instance else 0
        return 2 if other.state in COMING else 1

    own = [other for other in instances if other.model == model and rank(other)]
    return max(reversed(own), key=lambda other: (rank(other), other.changed_at), default=None)


def _check(latest: Instance | None, model: str, *, followed: bool) -> None:
    if latest is not None and latest.state is InstanceState.FAILED:
        raise StartFailed(latest.error or f"{model} did not start: {latest.reason}.")
    if followed and (latest is None or latest.state in _ENDING):
        raise StartFailed(f"{model} was stopped before it was ready.")
