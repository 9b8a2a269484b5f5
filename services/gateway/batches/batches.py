"""All batches: taken in hand by one gateway each, given back when it dies."""

import asyncio
import time
from typing import Any

import msgspec

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.bus.records import BucketCache, BucketStore
from modelyard.bus.tasks import Tasks, cancel
from schemas import buckets
from schemas.base import is_token, new_id
from schemas.batches import ENDED, Batch, BatchState
from schemas.errors import BadRequest, BrokerUnavailable, Conflict, NotFound
from schemas.leases import Lease
from services.gateway.batches.files import Files
from services.gateway.batches.lines import window_s
from services.gateway.batches.results import Results
from services.gateway.batches.work import Work
from services.gateway.inference.inference import Inference

log = logs.get(__name__)

LOOK_S = 1.0
LEASE_S = 6
RENEW_S = 2.0
_S = BatchState


class Batches:
    """Makes, shows, cancels and works off batches."""

    def __init__(
        self, bus: Bus, tasks: Tasks, files: Files, mirror: BucketCache[Batch], inference: Inference
    ) -> None:
        self._bus = bus
        self._tasks = tasks
        self._files = files
        self._mirror = mirror
        self._inference = inference
        self._store = BucketStore(bus, buckets.BATCHES)
        self._leases = BucketStore(bus, buckets.LEASES)
        self._working: dict[str, asyncio.Task[None]] = {}

    def open(self) -> None:
        """Begin to look after them."""
        self._tasks.spawn(self._look_after(), "batches")

    async def make(
        self, endpoint: str, input_file: str, window: str, metadata: dict[str, str] | None, key: str | None
    ) -> Batch:
        """A new batch of the requests in a file."""
        file = await self._files.find(input_file, key)
        if file.purpose != "batch":
            raise BadRequest(f"{input_file} was brought for {file.purpose}, not for a batch.")
        now = time.time()
        batch = Batch(
            batch=f"batch_{new_id()}",
            endpoint=endpoint,
            input_file=input_file,
            completion_window=window,
            state=_S.VALIDATING,
            created_at=now,
            expires_at=now + window_s(window),
            changed_at=now,
            key=key,
            metadata=metadata,
        )
        await self._store.put(batch.batch, batch, last=0)
        return batch

    def all(self, key: str | None) -> list[Batch]:
        """The batches of a key, newest first."""
        own = [batch for batch in self._mirror.values.values() if batch.key == key]
        return sorted(own, key=lambda batch: batch.created_at, reverse=True)

    async def find(self, name: str, key: str | None) -> Batch:
        """The batch, as the broker has it now; NotFound if it is somebody else's."""
        batch = await self._store.get(name) if is_token(name) else None
        if batch is None or batch.key != key:
            raise NotFound(f"There is no batch {name}.")
        return batch

    def check_unneeded(self, file: str) -> None:
        """Conflict if a batch that has not ended reads its requests from this file."""
        for batch in self._mirror.values.values():
            if batch.input_file == file and batch.state not in ENDED:
                raise Conflict(f"{batch.batch} still needs {file}; cancel it first, or wait for its end.")

    async def cancel(self, name: str, key: str | None) -> Batch:
        """End a batch; what is answered already is kept."""
        batch = await self.find(name, key)
        if batch.state in ENDED or batch.state in (_S.CANCELLING, _S.FINALIZING):
            return batch
        return await self._change(name, state=_S.CANCELLING, changed_at=time.time())

    async def _change(self, name: str, **fields: Any) -> Batch:
        """Write fields of a record; a cancel that came meanwhile is not undone."""
        while True:
            entry = await self._store.entry(name)
            if entry is None:
                raise NotFound(f"There is no batch {name}.")
            batch, revision = entry
            if batch.state is _S.CANCELLING and fields.get("state") in (_S.IN_PROGRESS, _S.FINALIZING):
                fields.pop("state")
            changed = msgspec.structs.replace(batch, **fields)
            try:
                await self._store.put(name, changed, last=revision)
            except Conflict:
                await asyncio.sleep(0.02)
                continue
            return changed

    async def _look_after(self) -> None:
        while True:
            for batch in tuple(self._mirror.values.values()):
                await self._look_at(batch)
            await asyncio.sleep(LOOK_S)

    async def _look_at(self, batch: Batch) -> None:
        working = self._working.get(batch.batch)
        if working is not None and working.done():
            self._working.pop(batch.batch)
            working = None
        if working is None and batch.state not in ENDED:
            self._working[batch.batch] = self._tasks.spawn(self._work(batch.batch), f"batch {batch.batch}")

    async def _work(self, name: str) -> None:
        """Hold the lease and work; without it somebody else does."""
        try:
            revision = await self._leases.put(
                name, Lease(holder=self._inference.gateway), last=0, ttl_s=LEASE_S
            )
        except (Conflict, BrokerUnavailable):
            await asyncio.sleep(RENEW_S)
            return
        holding = asyncio.create_task(self._hold(name, revision))
        try:
            await self._work_off(name, holding)
        finally:
            await cancel(holding)
            await self._leases.delete(name)

    async def _work_off(self, name: str, holding: asyncio.Task[None]) -> None:
        batch = await self._store.get(name)
        if batch is None:
            return
        work = Work(batch, self._files, Results(self._bus, name), self._inference, self._change)
        running = asyncio.create_task(work.run())
        watching = asyncio.create_task(self._until_over(batch))
        try:
            await asyncio.wait({running, watching, holding}, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                running.result()
            elif watching.done():
                await cancel(running)
                await work.stop(watching.result())
        finally:
            await cancel(running, watching)

    async def _until_over(self, batch: Batch) -> BatchState:
        """Return how to end a batch that was cancelled or is out of time."""
        while True:
            now = self._mirror.values.get(batch.batch, batch)
            if now.state is _S.CANCELLING:
                return _S.CANCELLED
            if time.time() > batch.expires_at and now.state is _S.IN_PROGRESS:
                return _S.EXPIRED
            await asyncio.sleep(0.2)

    async def _hold(self, name: str, revision: int) -> None:
        """Renew the lease; return when it is lost."""
        while True:
            await asyncio.sleep(RENEW_S)
            try:
                lease = Lease(holder=self._inference.gateway)
                revision = await self._leases.put(name, lease, last=revision, ttl_s=LEASE_S)
            except Conflict:
                return
            except BrokerUnavailable:
                continue
