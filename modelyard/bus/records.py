"""State in buckets: `BucketStore` writes, `BucketCache` follows, `Records` edits with compare-and-set."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Generic, NamedTuple, TypeVar

import msgspec
import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.js import api

from modelyard.bus import audit, logs
from modelyard.bus.connection import RETRY_PAUSE_S, Bus
from modelyard.bus.consumer import ConsumerLost, OrderedConsumer, ordered_consumer
from modelyard.bus.tasks import Tasks, first_of
from schemas.buckets import Bucket
from schemas.errors import BrokerUnavailable, Conflict

log = logs.get(__name__)
V = TypeVar("V")
S = TypeVar("S", bound=msgspec.Struct)

Listener = Callable[[str, V | None], None]
"""Called on every change with the key, and its value or None when it was deleted or expired."""


class BucketStore(Generic[V]):
    """Writing one bucket; compare-and-set where a revision is given."""

    def __init__(self, bus: Bus, bucket: Bucket[V]) -> None:
        self._bus = bus
        self._bucket = bucket

    async def put(
        self,
        key: str,
        value: V,
        *,
        last: int | None = None,
        ttl_s: int | None = None,
        by: str | None = None,
    ) -> int:
        """Write and return the new revision.

        `last`: the revision it must have now (0: none yet), else Conflict. `ttl_s`: whole seconds to live.
        `by`: the role that requested it, for the history.
        """
        ttl = {} if ttl_s is None else {"Nats-TTL": f"{ttl_s}s"}
        return await self._write(key, self._bucket.encode(value), {**_headers(last, by), **ttl})

    async def put_nowait(self, key: str, value: V, *, ttl_s: int) -> None:
        """Write without the broker's word for it: for what is written again soon."""
        data = self._bucket.encode(value)
        self._bus.check(data)
        await self._bus.nc.publish(self._bucket.subject(key), data, headers={"Nats-TTL": f"{ttl_s}s"})

    async def get(self, key: str) -> V | None:
        """The value as the broker has it now; None if there is none."""
        value, _ = await self.head(key)
        return value

    async def head(self, key: str) -> tuple[V | None, int]:
        """The value and its revision, for compare-and-set.

        A deleted key has no value, but a revision; an unknown key is (None, 0).
        """
        try:
            msg = await self._bus.js.get_last_msg(self._bucket.stream, self._bucket.subject(key), direct=True)
        except nats.js.errors.NotFoundError:
            return None, 0
        except (TimeoutError, nats.errors.Error) as error:
            raise BrokerUnavailable(f"{self._bucket.name}/{key} could not be read.") from error
        return self._bucket.decode(msg.data) if msg.data else None, msg.seq or 0

    async def delete(self, key: str, *, last: int | None = None, by: str | None = None) -> int:
        """Delete and return the revision of that; `last` and `by` as in `put`."""
        return await self._write(key, b"", {"KV-Operation": "DEL", **_headers(last, by)})

    async def _write(self, key: str, data: bytes, headers: dict[str, str]) -> int:
        self._bus.check(data)
        try:
            ack = await self._bus.js.publish(self._bucket.subject(key), data, headers=headers or None)
        except nats.js.errors.BadRequestError as error:
            if error.err_code == _WRONG_LAST_SEQUENCE:
                raise changed_in_the_meantime(f"{self._bucket.name}/{key}") from error
            raise
        except (TimeoutError, nats.errors.Error) as error:
            raise BrokerUnavailable(f"{self._bucket.name}/{key} could not be written.") from error
        return ack.seq


_WRONG_LAST_SEQUENCE = 10071
SHOWN_S = 3.0
"""How long to wait until the cache shows a write."""
BY_HEADER = "Yard-By"
"""The role that requested a change of a value."""


def changed_in_the_meantime(what: str) -> Conflict:
    """The error of a compare-and-set whose caller saw another revision than there is now."""
    return Conflict(f"{what} was changed in the meantime; read it again.", param="revision")


def _headers(last: int | None, by: str | None) -> dict[str, str]:
    named = {"Nats-Expected-Last-Subject-Sequence": last, BY_HEADER: by}
    return {name: str(value) for name, value in named.items() if value is not None}


class BucketCache(Generic[V]):
    """A bucket followed in memory; rebuilt after every reconnect, since watchers can go blind there."""

    def __init__(self, bus: Bus, bucket: Bucket[V]) -> None:
        self.values: dict[str, V] = {}
        self.revisions: dict[str, int] = {}
        self._bus = bus
        self._bucket = bucket
        self._listeners: list[Listener[V]] = []
        self._synced = asyncio.Event()
        self._changed = asyncio.Event()
        self._rebuild = asyncio.Event()

    def listen(self, listener: Listener[V]) -> Callable[[], None]:
        """Call `listener` on every change from now on; the returned function ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    async def until(self, condition: Callable[[dict[str, V]], bool]) -> None:
        while not condition(self.values):
            self._changed.clear()
            await self._changed.wait()

    @classmethod
    async def start(cls, bus: Bus, bucket: Bucket[V], tasks: Tasks) -> "BucketCache[V]":
        """A cache that is complete now and stays current as long as `tasks` runs."""
        cache = cls(bus, bucket)
        unregister = bus.on_reconnect(cache._rebuild.set)
        following = tasks.spawn(cache._run(), f"cache {bucket.name}")
        following.add_done_callback(lambda _: unregister())
        await cache._synced.wait()
        return cache

    async def _run(self) -> None:
        while True:
            self._rebuild.clear()
            try:
                await self._follow_until_rebuild()
            except (ConsumerLost, TimeoutError, nats.errors.Error) as error:
                log.warning("bucket_watch_failed", bucket=self._bucket.name, error=str(error))
                await asyncio.sleep(RETRY_PAUSE_S)

    async def _follow_until_rebuild(self) -> None:
        config = api.ConsumerConfig(deliver_policy=api.DeliverPolicy.LAST_PER_SUBJECT)
        async with ordered_consumer(
            self._bus, self._bucket.stream, self._bucket.subject(">"), config
        ) as consumer:
            await first_of(self._rebuild.wait(), self._follow(consumer))

    async def _follow(self, consumer: OrderedConsumer) -> None:
        seen, complete = set[str](), not consumer.pending
        if complete:
            self._finish_snapshot(seen)
        while True:
            msg = await consumer.next()
            key = self._apply(msg)
            if not complete:
                seen.add(key)
                if complete := not msg.metadata.num_pending:
                    self._finish_snapshot(seen)

    def _finish_snapshot(self, seen: set[str]) -> None:
        for key in set(self.values) - seen:
            self._remove(key)
        self._synced.set()

    def _apply(self, msg: Msg) -> str:
        """Take one message over; its key. What was deleted or has expired comes without a value."""
        key, revision = msg.subject.removeprefix(self._bucket.subject("")), msg.metadata.sequence.stream
        if not msg.data:
            self._remove(key)
        elif self.revisions.get(key) != revision:
            try:
                value = self._bucket.decode(msg.data)
            except msgspec.DecodeError as error:
                log.warning("value_undecodable", bucket=self._bucket.name, key=key, error=str(error))
                return key
            self.values[key] = value
            self.revisions[key] = revision
            self._notify(key, value)
        return key

    def _remove(self, key: str) -> None:
        self.revisions.pop(key, None)
        if self.values.pop(key, None) is not None:
            self._notify(key, None)

    def _notify(self, key: str, value: V | None) -> None:
        self._changed.set()
        for listener in tuple(self._listeners):
            try:
                listener(key, value)
            except Exception:
                log.exception("listener_failed", bucket=self._bucket.name, key=key)


class RecordHead(NamedTuple, Generic[S]):
    """A record as the broker has it now; `value` is None where there is none."""

    name: str
    value: S | None
    last: int
    """The revision of its key that a write has to follow, be that of a deletion; 0: never written."""

    @property
    def revision(self) -> int:
        """The revision that callers see; 0: there is no record."""
        return self.last if self.value is not None else 0


class Records(Generic[S]):
    """The named records of a bucket that this process alone writes: compare-and-set, audit, read-your-writes.

    `noun` names a record in error sentences and in the audit. `key_of` turns a name into a key of the bucket.
    `defaults` are what a record is where none is stored; the audit compares with them.
    """

    def __init__(
        self,
        bus: Bus,
        bucket: Bucket[S],
        cache: BucketCache[S],
        noun: str,
        *,
        key_of: Callable[[str], str] = str,
        defaults: Mapping[str, S] | None = None,
    ) -> None:
        self.cache = cache
        self._store = BucketStore(bus, bucket)
        self._noun = noun
        self._key_of = key_of
        self._defaults = defaults or {}

    @classmethod
    async def start(
        cls,
        bus: Bus,
        bucket: Bucket[S],
        tasks: Tasks,
        noun: str,
        *,
        key_of: Callable[[str], str] = str,
        defaults: Mapping[str, S] | None = None,
    ) -> "Records[S]":
        """With a cache of its own, which is complete now and follows as long as `tasks` runs."""
        cache = await BucketCache.start(bus, bucket, tasks)
        return cls(bus, bucket, cache, noun, key_of=key_of, defaults=defaults)

    @property
    def values(self) -> Mapping[str, S]:
        """All records by key, from the cache."""
        return self.cache.values

    def revision(self, name: str) -> int:
        """The cached revision; 0: no record."""
        return self.cache.revisions.get(self._key_of(name), 0)

    async def head(self, name: str, *, expected: int | None = None) -> RecordHead[S]:
        """The record as the broker has it; Conflict if `expected` (0: none) is not its revision."""
        head = RecordHead(name, *await self._store.head(self._key_of(name)))
        if expected not in (None, head.revision):
            raise changed_in_the_meantime(f"The {self._noun} {name}")
        return head

    async def replace(
        self, head: RecordHead[S], value: S | None, *, ttl_s: int | None = None, by: str | None = None
    ) -> int:
        """Write `value` (None: delete) over what `head` has and return the revision; Conflict as in `head`.

        When it returns, the cache shows the change, unless the broker takes longer than SHOWN_S.
        """
        key = self._key_of(head.name)
        if value is None:
            revision = await self._store.delete(key, last=head.last, by=by)
        else:
            revision = await self._store.put(key, value, last=head.last, ttl_s=ttl_s, by=by)
        default = self._defaults.get(head.name)
        audit.changed(f"{self._noun} {head.name}", head.value or default, value or default)
        await self._wait_until_shown(key, value, revision)
        return revision

    async def put(
        self,
        name: str,
        value: S,
        *,
        expected: int | None = None,
        ttl_s: int | None = None,
        by: str | None = None,
    ) -> int:
        """Write and return the revision; Conflict if `expected` (0: none) is not the record's."""
        return await self.replace(await self.head(name, expected=expected), value, ttl_s=ttl_s, by=by)

    async def delete(self, name: str, *, expected: int | None = None, by: str | None = None) -> int:
        """Delete and return the revision of that; Conflict as in `put`."""
        return await self.replace(await self.head(name, expected=expected), None, by=by)

    async def _wait_until_shown(self, key: str, value: S | None, revision: int) -> None:
        def shown(_: Mapping[str, S]) -> bool:
            current = self.cache.revisions.get(key)
            return current is None if value is None else (current or 0) >= revision

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SHOWN_S):
                await self.cache.until(shown)
