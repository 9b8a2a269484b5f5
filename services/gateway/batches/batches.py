"""All batches: each executed by the gateway that holds its lease."""

import asyncio
import time
from typing import Any

import msgspec

from modelyard.bus.connection import Bus
from modelyard.bus.records import BucketCache, BucketStore
from modelyard.bus.tasks import Tasks, cancel, first_of
from schemas import buckets
from schemas.base import is_token, new_id
from schemas.batches import ENDED, Batch, BatchState
from schemas.errors import BadRequest, BrokerUnavailable, Conflict, NotFound
from schemas.leases import Lease
from services.gateway.batches.execution import BatchExecution
from services.gateway.batches.lines import window_s
from services.gateway.batches.storage import FileStore, ResultStore
from services.gateway.inference.inference import Inference

SCAN_INTERVAL_S = 1.0
END_CHECK_INTERVAL_S = 0.2
CONFLICT_PAUSE_S = 0.02
LEASE_S = 6
RENEW_INTERVAL_S = 2.0
_S = BatchState


class BatchService:
    def __init__(
        self, bus: Bus, tasks: Tasks, files: FileStore, cache: BucketCache[Batch], inference: Inference
    ) -> None:
        self._bus = bus
        self._tasks = tasks
        self._files = files
        self._cache = cache
        self._inference = inference
        self._store = BucketStore(bus, buckets.BATCHES)
        self._leases = BucketStore(bus, buckets.LEASES)
        self._executions: dict[str, asyncio.Task[None]] = {}

    def open(self) -> None:
        self._tasks.spawn(self._run(), "batches")

    async def create(
        self, endpoint: str, input_file: str, window: str, metadata: dict[str, str] | None, key: str | None
    ) -> Batch:
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
        own = [batch for batch in self._cache.values.values() if batch.key == key]
        return sorted(own, key=lambda batch: batch.created_at, reverse=True)

    async def find(self, name: str, key: str | None) -> Batch:
        """The batch, as the broker has it now; NotFound if it belongs to another key."""
        batch = await self._store.get(name) if is_token(name) else None
        if batch is None or batch.key != key:
            raise NotFound(f"There is no batch {name}.")
        return batch

    def check_not_needed(self, file: str) -> None:
        """Conflict if a batch that has not ended reads its requests from this file."""
        for batch in self._cache.values.values():
            if batch.input_file == file and batch.state not in ENDED:
                raise Conflict(f"{batch.batch} still needs {file}; cancel it first, or wait for its end.")

    async def cancel(self, name: str, key: str | None) -> Batch:
        """End a batch; the results so far remain."""
        batch = await self.find(name, key)
        if batch.state in ENDED or batch.state in (_S.CANCELLING, _S.FINALIZING):
            return batch
        return await self._change(name, state=_S.CANCELLING, changed_at=time.time())

    async def _change(self, name: str, **fields: Any) -> Batch:
        """Write fields of a record; a concurrent cancel is not undone."""
        while True:
            batch, revision = await self._store.head(name)
            if batch is None:
                raise NotFound(f"There is no batch {name}.")
            if batch.state is _S.CANCELLING and fields.get("state") in (_S.IN_PROGRESS, _S.FINALIZING):
                fields.pop("state")
            changed = msgspec.structs.replace(batch, **fields)
            try:
                await self._store.put(name, changed, last=revision)
                return changed
            except Conflict:
                await asyncio.sleep(CONFLICT_PAUSE_S)

    async def _run(self) -> None:
        while True:
            for batch in tuple(self._cache.values.values()):
                self._start_execution(batch)
            await asyncio.sleep(SCAN_INTERVAL_S)

    def _start_execution(self, batch: Batch) -> None:
        running = self._executions.get(batch.batch)
        if running is not None and running.done():
            self._executions.pop(batch.batch)
            running = None
        if running is None and batch.state not in ENDED:
            name = batch.batch
            self._executions[name] = self._tasks.spawn(self._execute_with_lease(name), f"batch {name}")

    async def _execute_with_lease(self, name: str) -> None:
        """Execute a batch while this gateway holds its lease; without the lease another gateway does."""
        lease = Lease(holder=self._inference.gateway)
        try:
            revision = await self._leases.put(name, lease, last=0, ttl_s=LEASE_S)
        except (Conflict, BrokerUnavailable):
            await asyncio.sleep(RENEW_INTERVAL_S)
            return
        renewing = asyncio.create_task(self._renew_lease(name, lease, revision))
        try:
            await self._execute(name, renewing)
        finally:
            await cancel(renewing)
            await self._leases.delete(name)

    async def _execute(self, name: str, renewing: asyncio.Task[None]) -> None:
        """Execute a batch until it ends, is cancelled, is out of time, or its lease is lost."""
        batch = await self._store.get(name)
        if batch is None:
            return
        results = ResultStore(self._bus, name)
        execution = BatchExecution(batch, self._files, results, self._inference, self._change)
        running = asyncio.create_task(execution.run())
        ending = asyncio.create_task(self._wait_for_early_end(batch))
        try:
            await first_of(running, ending, renewing)
            if running.done():
                running.result()
            elif ending.done():
                await cancel(running)
                await execution.finish(ending.result())
        finally:
            await cancel(running, ending)

    async def _wait_for_early_end(self, batch: Batch) -> BatchState:
        """The last state of a batch that was cancelled or is out of time."""
        while True:
            newest = self._cache.values.get(batch.batch, batch)
            if newest.state is _S.CANCELLING:
                return _S.CANCELLED
            if time.time() > batch.expires_at and newest.state is _S.IN_PROGRESS:
                return _S.EXPIRED
            await asyncio.sleep(END_CHECK_INTERVAL_S)

    async def _renew_lease(self, name: str, lease: Lease, revision: int) -> None:
        while True:
            await asyncio.sleep(RENEW_INTERVAL_S)
            try:
                revision = await self._leases.put(name, lease, last=revision, ttl_s=LEASE_S)
            except Conflict:
                return
            except BrokerUnavailable:
                continue
