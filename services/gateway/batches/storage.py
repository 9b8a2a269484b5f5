"""What batches store in the broker: files, in parts, and the result of every line."""

import contextlib
import time
from collections.abc import Iterator

import msgspec
import nats.errors
import nats.js.errors

from modelyard.bus.connection import Bus
from modelyard.bus.parts import purge, read_messages, read_parts, store_parts
from modelyard.bus.records import BucketCache, BucketStore
from schemas import buckets, streams, subjects
from schemas.base import is_token, new_id
from schemas.batches import LineResult, StoredFile
from schemas.errors import BodyTooLarge, BrokerUnavailable, NotFound

MAX_FILE_BYTES = 100 * 1024 * 1024
_MAX_MESSAGES_REACHED = 10077
_ERRORS = (TimeoutError, nats.errors.Error, msgspec.DecodeError)


class FileStore:
    """All files of the yard. A file belongs to the API key that uploaded it."""

    def __init__(self, bus: Bus, cache: BucketCache[StoredFile]) -> None:
        self._bus = bus
        self._cache = cache
        self._records = BucketStore(bus, buckets.FILES)

    async def put(
        self, data: bytes, filename: str, purpose: str, key: str | None, *, name: str | None = None
    ) -> StoredFile:
        """Store a file: first its bytes, then the record that makes it visible.

        With a `name`, to store it a second time changes nothing.
        """
        if len(data) > MAX_FILE_BYTES:
            raise BodyTooLarge(f"The file has {len(data)} bytes; at most {MAX_FILE_BYTES} are taken.")
        name = name or f"file-{new_id()}"
        with _unavailable("The broker did not take the file; try again in a moment."):
            parts = await store_parts(self._bus, subjects.FILE, data, file=name)
        stored = StoredFile(
            file=name,
            filename=filename,
            purpose=purpose,
            size_bytes=len(data),
            parts=parts,
            created_at=time.time(),
            key=key,
        )
        await self._records.put(name, stored)
        return stored

    def all(self, key: str | None) -> list[StoredFile]:
        own = [file for file in self._cache.values.values() if file.key == key]
        return sorted(own, key=lambda file: file.created_at, reverse=True)

    async def find(self, name: str, key: str | None) -> StoredFile:
        """The file, as the broker has it now; NotFound if it belongs to another key."""
        file = self._cache.values.get(name)
        if file is None and is_token(name):
            file = await self._records.get(name)
        if file is None or file.key != key:
            raise NotFound(f"There is no file {name}.")
        return file

    async def read(self, file: StoredFile) -> bytes:
        try:
            return await read_parts(self._bus, streams.FILES, subjects.FILE, file.parts, file=file.file)
        except _ERRORS as error:
            raise BrokerUnavailable(f"{file.file} could not be read now: {error}.") from error

    async def delete(self, file: StoredFile) -> None:
        """First the record, then the bytes: an incomplete file is never visible."""
        await self._records.delete(file.file)
        await purge(self._bus, streams.FILES, subjects.FILE.matching(file=file.file))


class ResultStore:
    """The results of the lines of one batch, at most one a line."""

    def __init__(self, bus: Bus, batch: str) -> None:
        self._bus = bus
        self._batch = batch

    async def store(self, result: LineResult) -> LineResult:
        """Store a result, unless the line has one already; the result as it fits into a message."""
        subject = subjects.RESULT(batch=self._batch, line=str(result.line))
        result = fit_result(result, self._bus.max_body_bytes)
        with _unavailable("A result could not be stored."):
            try:
                await self._bus.js.publish(subject, subjects.RESULT.encode(result))
            except nats.js.errors.ServiceUnavailableError as error:
                if error.err_code != _MAX_MESSAGES_REACHED:
                    raise
        return result

    async def all(self) -> list[LineResult]:
        subject = subjects.RESULT.matching(batch=self._batch)
        with _unavailable("The results cannot be counted now."):
            info = await self._bus.js.stream_info(streams.RESULTS.name, subjects_filter=subject)
        with _unavailable("The results cannot be read now."):
            messages = await read_messages(self._bus, streams.RESULTS, info.state.subjects or {})
            return [subjects.RESULT.decode(data) for data in messages]

    async def delete_all(self) -> None:
        await purge(self._bus, streams.RESULTS, subjects.RESULT.matching(batch=self._batch))


def fit_result(result: LineResult, max_bytes: int) -> LineResult:
    """The result, or a too large error in its place: a retry would be no smaller."""
    size_bytes = len(subjects.RESULT.encode(result))
    if size_bytes <= max_bytes:
        return result
    error = BodyTooLarge(f"The answer has {size_bytes} bytes; at most {max_bytes} of a line are stored.")
    return msgspec.structs.replace(result, status=error.status, body=msgspec.Raw(error.encode()))


@contextlib.contextmanager
def _unavailable(message: str) -> Iterator[None]:
    try:
        yield
    except _ERRORS as error:
        raise BrokerUnavailable(message) from error
