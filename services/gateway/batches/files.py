"""Files in the broker: their bytes in pieces in a stream, what they are in a bucket."""

import asyncio
import contextlib
import time

import nats.errors
import nats.js.errors

from modelyard.bus.connection import Bus
from modelyard.bus.records import BucketCache, BucketStore
from schemas import buckets, streams, subjects
from schemas.base import is_token, new_id
from schemas.batches import StoredFile
from schemas.errors import BodyTooLarge, BrokerUnavailable, NotFound

MAX_FILE_BYTES = 100 * 1024 * 1024
PART_BYTES = 1024 * 1024
_AT_ONCE = 8


class Files:
    """All files of the yard. A file is there only for the key that brought it."""

    def __init__(self, bus: Bus, mirror: BucketCache[StoredFile]) -> None:
        self._bus = bus
        self._mirror = mirror
        self._store = BucketStore(bus, buckets.FILES)

    async def put(
        self, data: bytes, filename: str, purpose: str, key: str | None, *, name: str | None = None
    ) -> StoredFile:
        """Store a file: first its bytes, then the record by which it is there.

        With a `name` of its own a second time is harmless.
        """
        if len(data) > MAX_FILE_BYTES:
            raise BodyTooLarge(f"The file has {len(data)} bytes; at most {MAX_FILE_BYTES} are taken.")
        name = name or f"file-{new_id()}"
        parts = [data[start : start + PART_BYTES] for start in range(0, len(data), PART_BYTES)]
        try:
            for number, part in enumerate(parts):
                await self._bus.js.publish(subjects.FILE(file=name, part=str(number)), part)
        except (TimeoutError, nats.errors.Error, nats.js.errors.Error) as error:
            raise BrokerUnavailable("The broker did not take the file; try again in a moment.") from error
        stored = StoredFile(
            file=name,
            filename=filename,
            purpose=purpose,
            size_bytes=len(data),
            parts=len(parts),
            created_at=time.time(),
            key=key,
        )
        await self._store.put(name, stored)
        return stored

    def all(self, key: str | None) -> list[StoredFile]:
        """The files of a key, newest first."""
        own = [file for file in self._mirror.values.values() if file.key == key]
        return sorted(own, key=lambda file: file.created_at, reverse=True)

    async def find(self, name: str, key: str | None) -> StoredFile:
        """The file, as the broker has it now; NotFound if it is somebody else's."""
        file = self._mirror.values.get(name)
        if file is None and is_token(name):
            file = await self._store.get(name)
        if file is None or file.key != key:
            raise NotFound(f"There is no file {name}.")
        return file

    async def read(self, file: StoredFile) -> bytes:
        """All its bytes."""
        gate = asyncio.Semaphore(_AT_ONCE)

        async def fetch(number: int) -> bytes:
            async with gate:
                subject = subjects.FILE(file=file.file, part=str(number))
                msg = await self._bus.js.get_msg(streams.FILES.name, subject=subject, direct=True)
                return msg.data or b""

        try:
            return b"".join(await asyncio.gather(*(fetch(number) for number in range(file.parts))))
        except (TimeoutError, nats.errors.Error, nats.js.errors.Error) as error:
            raise BrokerUnavailable(f"{file.file} could not be read now: {error}.") from error

    async def delete(self, file: StoredFile) -> None:
        """First the record, then the bytes: nobody finds a file that is half there."""
        await self._store.delete(file.file)
        with contextlib.suppress(TimeoutError, nats.errors.Error, nats.js.errors.Error):
            await self._bus.js.purge_stream(streams.FILES.name, subject=f"yard.file.{file.file}.>")
